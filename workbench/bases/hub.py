"""Fetch a base from a Hugging Face hub: one commit, allow-listed files, checked against the hub's own hashes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.bases.files import copy_base, remote_code_allowed, wanted
from workbench.bases.lock import sha256_file
from workbench.bases.sources import Unreachable
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
    _download(repo, str(info.sha), info.siblings or [], into, say, code=remote_code_allowed(record))
    return record


def _chosen(siblings: list[Any], *, code: bool) -> dict[str, Any]:
    """The files to fetch by name. Weights stored twice under other names are left out."""
    files = {s.rfilename: s for s in siblings if "/" not in s.rfilename and (wanted(s.rfilename) or (code and s.rfilename.endswith(".py")))}
    if "model.safetensors" in files:
        files = {n: s for n, s in files.items() if not n.endswith(".safetensors") or n == "model.safetensors"}
    elif "model.safetensors.index.json" in files:
        files = {n: s for n, s in files.items() if not n.endswith(".safetensors") or n.startswith("model-")}
    return files


def _download(repo: str, commit: str, siblings: list[Any], into: Path, say: Callable[[str], None], *, code: bool) -> None:
    from huggingface_hub import hf_hub_download

    files = _chosen(siblings, code=code)
    if not any(name.endswith(".safetensors") for name in files):
        raise SourceError(
            f"{repo} has no safetensors weights at {commit[:12]}.", hint="Pickled weights are never loaded; look for a converted copy."
        )
    total = sum(getattr(s, "size", 0) or 0 for s in files.values())
    free = shutil.disk_usage(into).free
    if total > free:
        raise SourceError(f"{repo} needs {total / 1e9:.1f} GB and this disk has {free / 1e9:.1f} GB left.", hint="Free some space.")
    for name, sibling in sorted(files.items()):
        say(f"Downloading {name} ({(getattr(sibling, 'size', 0) or 0) / 1e6:.0f} MB of {total / 1e6:.0f} MB)")
        try:
            hf_hub_download(repo, name, revision=commit, local_dir=into, etag_timeout=_SECONDS)
        except Exception as error:  # noqa: BLE001 - as above
            raise Unreachable(f"The hub stopped answering while fetching {name} of {repo} ({type(error).__name__}).") from None
        lfs = getattr(sibling, "lfs", None)
        expected = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
        if expected and sha256_file(into / name) != expected:
            raise IntegrityError(f"{name} of {repo} did not arrive whole.", hint="Try again.")
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the client's notes on the download


def _from_cache(repo: str, revision: str, into: Path, why_not: str) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception:  # noqa: BLE001 - whatever it is, the cache does not have it
        raise Unreachable(why_not, hint="Connect to the internet, or give another source with --source.") from None
    copy_base(folder, into)
    return {"kind": "hub", "repo": repo, "revision": revision, "commit": folder.name}
