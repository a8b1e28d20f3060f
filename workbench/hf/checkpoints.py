"""Checkpoints that can be trusted after a crash.

transformers writes straight into `checkpoint-N`, without a marker, and resumes from the highest number, torn or not.
Here a checkpoint counts only once `COMMITTED` stands in it: the file is renamed into place after every other file was
hashed into `manifest.json` and flushed to the disk. Resuming re-hashes everything and takes the newest that is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from workbench.files import atomic_write, flush, sha256_of

__all__ = ["CommitCheckpoints", "commit", "fault", "newest_verified", "remove", "step_of"]

_MANIFEST = "manifest.json"
_COMMITTED = "COMMITTED"


def commit(folder: Path, *, of: str = "") -> None:
    """Seal the checkpoint in `folder`. `of` names the run (recipe and rows) that it can be resumed for."""
    files: dict[str, dict[str, Any]] = {}
    (folder / _COMMITTED).unlink(missing_ok=True)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stem not in {"manifest", _COMMITTED}):
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
        flush(path)
    text = json.dumps({"of": of, "files": files}, indent=1, sort_keys=True)
    atomic_write(folder / _MANIFEST, text)
    atomic_write(folder / _COMMITTED, hashlib.sha256(text.encode()).hexdigest())


def fault(folder: Path, *, of: str = "") -> str | None:
    """Why the checkpoint in `folder` cannot be resumed from; None when it is whole and belongs to the run `of`."""
    try:
        text = (folder / _MANIFEST).read_text(encoding="utf-8")
        if (folder / _COMMITTED).read_text(encoding="utf-8") != hashlib.sha256(text.encode()).hexdigest():
            return "its manifest is not the one that was committed"
        manifest = json.loads(text)
        if manifest["of"] != of:
            return "it belongs to a run with another recipe or other rows"
        for name, wanted in manifest["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != wanted["size"]:
                return f"{name} is missing or torn"
            if sha256_of(path) != wanted["sha256"]:
                return f"{name} has changed since it was written"
    except FileNotFoundError:
        return "it was never committed"
    except (OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        return f"it cannot be read: {error}"
    return None


def step_of(folder: Path) -> int:
    """The optimiser step after which `checkpoint-N` was taken."""
    return int(folder.name.rpartition("-")[2])


def newest_verified(folders: Iterable[Path], *, of: str = "") -> tuple[Path | None, list[str]]:
    """The checkpoint furthest on, under any of `folders`, that is whole; and what was wrong with those passed over."""
    found = [c for folder in folders for c in folder.glob("checkpoint-*") if c.is_dir() and c.name.rpartition("-")[2].isdigit()]
    passed_over: list[str] = []
    for candidate in sorted(found, key=step_of, reverse=True):
        wrong = fault(candidate, of=of)
        if wrong is None:
            return candidate, passed_over
        passed_over.append(f"{candidate.parent.parent.name}/{candidate.name}: {wrong}")
    return None, passed_over


def remove(folder: Path) -> None:
    """Delete every checkpoint under `folder`; for when the result they led to is safe."""
    for checkpoint in folder.glob("checkpoint-*"):
        # unsealed first: a half-deleted checkpoint must not count as whole
        (checkpoint / _COMMITTED).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)


class CommitCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Seals each checkpoint as soon as transformers has written it."""

    def __init__(self, of: str) -> None:
        self.of = of

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        commit(Path(args.output_dir) / f"checkpoint-{state.global_step}", of=self.of)
