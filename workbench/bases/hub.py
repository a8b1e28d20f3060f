"""Fetch a base from a Hugging Face hub: one commit, allow-listed files, checked against the hub's own hashes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.bases.files import copy_base, only_gguf, place, wanted
from workbench.bases.sources import Source, Unreachable
from workbench.bases.tensors import shard_names
from workbench.errors import IntegrityError, SourceError
from workbench.files import sha256_of
from workbench.peft_layout import CONFIG

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

__all__ = ["fetch"]

Say = Callable[[str], None]
_SECONDS = 5  # for the hub to answer at all; offline machines go on to the next source


def fetch(source: Source, into: Path, say: Say) -> dict[str, Any]:
    """Download a repository at the commit that its revision means now. Offline, a copy in the hub's own cache will do.

    Raises `Unreachable` when neither is there, `SourceError` when the repository holds no safetensors.
    """
    repo, revision = source.repo, source.revision
    if paths.hub_offline():
        return _from_cache(source, into, f"The hub is switched off (HF_HUB_OFFLINE) and {repo}@{revision} is not in its cache.")
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
        return _from_cache(source, into, f"The hub cannot be reached ({type(error).__name__}).")
    _download(repo, str(info.sha), info.siblings or [], into, say)
    record = {"kind": "hub", "repo": repo, "revision": revision, "commit": str(info.sha)}
    card = info.card_data
    return {**record, "license": str(card.get("license_name") or card["license"])} if card and card.get("license") else record


def _download(repo: str, commit: str, siblings: list[RepoSibling], into: Path, say: Say) -> None:
    """Fetch into the hub's own cache, where an interrupted download goes on next time, and link the files from there."""
    there = {s.rfilename: s for s in siblings if "/" not in s.rfilename}
    files = {name: sibling for name, sibling in there.items() if wanted(name)}
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        if CONFIG in there:
            hint = "Download it and import it: workbench adapter import FOLDER"
            raise SourceError(f"{repo} holds an adapter, not a base.", hint=hint)
        if gguf := sorted(name for name in there if name.endswith(".gguf")):
            raise only_gguf(repo, gguf)
        raise SourceError(
            f"{repo} has no safetensors weights at {commit[:12]}.", hint="Pickled weights are never loaded; look for a converted copy."
        )
    for name in sorted(files.keys() - set(weights)):
        _fetch(repo, commit, files[name], into)
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]  # the same weights may be there a second time, in shards
    elif (into / "model.safetensors.index.json").is_file():
        weights = [name for name in shard_names(into / "model.safetensors.index.json") if name in files]
    sizes = {name: files[name].size or 0 for name in weights}
    total, free = sum(sizes.values()), shutil.disk_usage(into).free
    if total > free:
        raise SourceError(f"{repo} needs {total / 1e9:.1f} GB and this disk has {free / 1e9:.1f} GB left.", hint="Free some space.")
    for n, name in enumerate(weights):
        say(f"Downloading {name} ({sizes[name] / 1e6:.0f} MB, {n + 1} of {len(weights)})")
        _fetch(repo, commit, files[name], into)


def _fetch(repo: str, commit: str, sibling: RepoSibling, into: Path) -> None:
    from huggingface_hub import hf_hub_download

    name = sibling.rfilename
    try:
        cached = Path(hf_hub_download(repo, name, revision=commit, etag_timeout=_SECONDS))
    except Exception as error:  # noqa: BLE001 - the client lets its HTTP library's own errors through
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise Unreachable(f"The hub stopped answering while fetching {name} of {repo} ({type(error).__name__}).") from None
    if sibling.lfs and sha256_of(cached) != sibling.lfs.sha256:
        cached.resolve().unlink()  # or the next try would find the same bytes in the cache
        raise IntegrityError(f"{name} of {repo} did not arrive whole.", hint="Try again.")
    place(cached, into / name, link=True)


def _from_cache(source: Source, into: Path, why_not: str) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source.repo, revision=source.revision, local_files_only=True))
    except Exception:  # noqa: BLE001 - whatever it is, the cache does not have it
        raise Unreachable(why_not, hint="Connect to the internet, or give another source with --source.") from None
    copy_base(folder, into, link=True)
    return {"kind": "hub", "repo": source.repo, "revision": source.revision, "commit": folder.name}
