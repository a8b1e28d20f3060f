"""Fetch a base from a Hugging Face hub: one commit, allow-listed files, checked against the hub's own hashes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.bases.files import copy_base, only_gguf, place, wanted
from workbench.bases.lock import sha256_file
from workbench.bases.sources import Unreachable
from workbench.bases.tensors import shard_names
from workbench.errors import IntegrityError, SourceError

__all__ = ["fetch_hub"]

_SECONDS = 5  # for the hub to answer at all; offline machines go on to the next source


def fetch_hub(repo: str, revision: str, into: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Download `repo` at the commit `revision` means now. Offline, a copy in the hub's own cache will do.

    Raises `Unreachable` when neither is there, `SourceError` when the repository holds no safetensors.
    """
    if paths.hub_offline():
        return _from_cache(repo, revision, into, f"The hub is switched off (HF_HUB_OFFLINE) and {repo}@{revision} is not in its cache.")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    say(f"Asking the hub for {repo}@{revision}")
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_SECONDS, files_metadata=True)
    except GatedRepoError:
        raise Unreachable(
            f"{repo} is gated: its publisher asks you to accept a licence first.",
            hint=f"Accept it at https://huggingface.co/{repo}, then log in: hf auth login",
        ) from None
    except RevisionNotFoundError:
        raise Unreachable(f"{repo} has no revision '{revision}'.") from None
    except RepositoryNotFoundError:
        raise Unreachable(f"The hub has no model {repo}, or it is private.", hint="Log in if it is yours: hf auth login") from None
    except HfHubHTTPError as error:
        raise Unreachable(f"The hub answered with an error for {repo}: {str(error).splitlines()[0][:200]}") from None
    except Exception as error:  # noqa: BLE001 - the client lets its HTTP library's own errors through
        return _from_cache(repo, revision, into, f"The hub cannot be reached ({type(error).__name__}).")
    record = {"kind": "hub", "repo": repo, "revision": revision, "commit": str(info.sha)}
    card = getattr(info, "card_data", None)
    if card is not None and card.get("license"):
        record["license"] = str(card.get("license_name") or card["license"])
    _download(repo, str(info.sha), info.siblings or [], into, say)
    return record


def _download(repo: str, commit: str, siblings: list[Any], into: Path, say: Callable[[str], None]) -> None:
    """Fetch into the hub's own cache, where an interrupted download goes on next time, and link the files from there."""
    there = {s.rfilename: s for s in siblings if "/" not in s.rfilename}
    files = {name: sibling for name, sibling in there.items() if wanted(name)}
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        if "adapter_config.json" in there:
            hint = "Download it and import it: workbench adapter import FOLDER"
            raise SourceError(f"{repo} holds an adapter, not a base.", hint=hint)
        if gguf := sorted(name for name in there if name.endswith(".gguf")):
            raise only_gguf(repo, gguf)
        raise SourceError(
            f"{repo} has no safetensors weights at {commit[:12]}.", hint="Pickled weights are never loaded; look for a converted copy."
        )
    for name in sorted(files.keys() - set(weights)):
        _fetch(repo, commit, files[name], into, say)
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]  # the same weights may be there a second time, in shards
    elif (into / "model.safetensors.index.json").is_file():
        weights = [name for name in shard_names(into / "model.safetensors.index.json") if name in files]
    total, free = sum(_size(files[name]) for name in weights), shutil.disk_usage(into).free
    if total > free:
        raise SourceError(f"{repo} needs {total / 1e9:.1f} GB and this disk has {free / 1e9:.1f} GB left.", hint="Free some space.")
    for n, name in enumerate(weights):
        say(f"Downloading {name} ({_size(files[name]) / 1e6:.0f} MB, {n + 1} of {len(weights)})")
        _fetch(repo, commit, files[name], into, say)


def _size(sibling: Any) -> int:
    return getattr(sibling, "size", None) or 0


def _fetch(repo: str, commit: str, sibling: Any, into: Path, say: Callable[[str], None]) -> None:
    from huggingface_hub import hf_hub_download

    name = sibling.rfilename
    try:
        cached = Path(hf_hub_download(repo, name, revision=commit, etag_timeout=_SECONDS))
    except Exception as error:  # noqa: BLE001 - the client lets its HTTP library's own errors through
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise Unreachable(f"The hub stopped answering while fetching {name} of {repo} ({type(error).__name__}).") from None
    lfs = getattr(sibling, "lfs", None)
    expected = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
    if expected and sha256_file(cached) != expected:
        cached.resolve().unlink()  # or the next try would find the same bytes in the cache
        raise IntegrityError(f"{name} of {repo} did not arrive whole.", hint="Try again.")
    place(cached, into / name, link=True)


def _from_cache(repo: str, revision: str, into: Path, why_not: str) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception:  # noqa: BLE001 - whatever it is, the cache does not have it
        raise Unreachable(why_not, hint="Connect to the internet, or give another source with --source.") from None
    copy_base(folder, into, link=True)
    return {"kind": "hub", "repo": repo, "revision": revision, "commit": folder.name}
