"""The manifest of a folder: the size and SHA-256 of every file in it, written last.

A folder without its manifest is unfinished and counts as absent. `write` makes every file durable before it names it:
files, then folders, then the manifest itself, in one step. A crash leaves no manifest or a true one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import IntegrityError
from workbench.files import atomic_write, flush, sha256_of

__all__ = ["NAME", "differences", "read", "sync_tree", "verify", "write"]

NAME = "manifest.json"
SCHEMA = 1
_MAX_BYTES = 4 * 1024 * 1024  # a manifest of ours has some kilobytes
_RESTORE = "Restore the folder from a backup or an export, or make the adapter again."


def write(folder: Path, about: Mapping[str, Any] | None = None) -> str:
    """Write `folder`'s manifest and return its SHA-256, the identity of the whole folder.

    `about` is any JSON data that should be sealed together with the files. Raises `IntegrityError` when the folder holds
    something that is neither a file nor a folder.
    """
    for abandoned in folder.glob(f".{NAME}.*"):  # by a writer that was killed
        abandoned.unlink()
    sync_tree(folder)
    files = {name: {"sha256": sha256_of(path), "size": path.stat().st_size} for path, name in _walk(folder) if name != NAME}
    data = json.dumps({"schema": SCHEMA, "about": dict(about or {}), "files": files}, sort_keys=True, indent=1, ensure_ascii=False)
    atomic_write(folder / NAME, data)
    return hashlib.sha256(data.encode("utf-8")).hexdigest()


def read(folder: Path, expect: str | None = None) -> dict[str, Any]:
    """The manifest itself; the files are not looked at. `expect` is the SHA-256 that it must have. Raises `IntegrityError`."""
    try:
        with (folder / NAME).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise IntegrityError(f"{folder} has no {NAME}, so it is not a finished folder.", hint=_RESTORE) from None
    except OSError as error:
        raise IntegrityError(f"The manifest of {folder} cannot be read: {error}.", hint=_RESTORE) from None
    if expect is not None and hashlib.sha256(data).hexdigest() != expect:
        raise IntegrityError(f"The manifest of {folder} is not the one that was published.", hint=_RESTORE)
    try:
        manifest = json.loads(data)
        files = manifest["files"]
        well_formed = manifest["schema"] == SCHEMA and all(isinstance(e["sha256"], str) and type(e["size"]) is int for e in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        well_formed = False
    if not well_formed or len(data) > _MAX_BYTES:
        raise IntegrityError(f"The manifest of {folder} cannot be understood.", hint=_RESTORE)
    return dict(manifest)


def verify(folder: Path, expect: str | None = None, *, allow_extra: bool = False) -> dict[str, Any]:
    """Check every file of `folder` against its manifest and return the manifest. Raises `IntegrityError` naming every difference.

    `allow_extra` tolerates files that were added later, as when a finished phase is followed by another in the same folder.
    """
    manifest = read(folder, expect)
    if problems := differences(folder, manifest, allow_extra=allow_extra):
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise IntegrityError(f"{folder} is not what its manifest says:{listed}", hint="\n" + _RESTORE)
    return manifest


def differences(folder: Path, manifest: Mapping[str, Any], *, allow_extra: bool = False) -> list[str]:
    """Every file of `folder` that is not as its manifest says, each in words. Raises `IntegrityError` for a link or a special file."""
    wanted: dict[str, dict[str, Any]] = manifest["files"]
    here = {name: path for path, name in _walk(folder) if name != NAME}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - here.keys())]
    if not allow_extra:
        problems += [f"{name} was added" for name in sorted(here.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & here.keys()):
        size = here[name].stat().st_size
        if size != wanted[name]["size"]:
            problems.append(f"{name} has {size:,} bytes instead of {wanted[name]['size']:,}")
        elif sha256_of(here[name]) != wanted[name]["sha256"]:
            problems.append(f"{name} was changed")
    return problems


def sync_tree(folder: Path) -> None:
    """Make every file and name below `folder` durable."""
    files = [path for path, _ in _walk(folder)]
    for path in [*files, *sorted({file.parent for file in files} | {folder})]:
        flush(path)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below `folder` with its name relative to it, '/' between the parts, in order of name."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise IntegrityError(f"{path} is a link or a special file; a published folder holds plain files only.", hint=_RESTORE)
        if path.is_file():
            yield path, path.relative_to(folder).as_posix()
