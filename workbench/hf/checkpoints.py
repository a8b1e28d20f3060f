"""Checkpoints that can be trusted after a crash.

transformers writes straight into `checkpoint-N`, without a marker, and resumes from the highest number, torn or not.
Here a checkpoint counts only once its manifest stands in it, which comes after every other file was hashed and flushed to the
disk. Resuming re-hashes everything and takes the newest that is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from workbench import manifest
from workbench.errors import IntegrityError

__all__ = ["commit", "fault", "newest_verified", "remove", "step_of"]


def commit(folder: Path, *, of: str = "") -> None:
    """Seal the checkpoint in `folder`. `of` names the run (recipe and rows) that it can be resumed for."""
    manifest.write(folder, {"of": of})


def fault(folder: Path, *, of: str = "") -> str | None:
    """Why the checkpoint in `folder` cannot be resumed from; None when it is whole and belongs to the run `of`."""
    if not (folder / manifest.NAME).is_file():
        return "it was never committed"
    try:
        sealed = manifest.read(folder)
        if (sealed.get("about") or {}).get("of") != of:
            return "it belongs to a run with another recipe or other rows"
        return "; ".join(manifest.differences(folder, sealed)) or None
    except (IntegrityError, OSError) as error:
        return f"it cannot be read: {error}"


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
        (checkpoint / manifest.NAME).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)
