"""Is this installation sound? Each check says what was found and, where it matters, what to mend.

Nothing here loads torch; a check that itself fails is reported as broken, never raised.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import paths
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.api import Workbench

__all__ = ["Check", "examine"]

_DISTRIBUTION = "openweight-workbench"
_ROOM = 2 * 1024**3  # bytes: a small base, a few checkpoints


@dataclass(frozen=True)
class Check:
    """One finding. `state` is "ok", "warning" (works, but look) or "broken"."""

    name: str
    state: str
    found: str
    hint: str = ""


def examine(bench: Workbench, *, deep: bool = False) -> list[Check]:
    """Run every check; `deep` also compares each base, dataset and adapter with its stored hashes (reads all of them)."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("libraries", _libraries),
        ("name clash", _name_clash),
        ("datasets package", _datasets_package),
        ("home", _home),
        ("disk", _disk),
        ("memory", _memory),
        ("database", lambda: _database(bench)),
        ("hub", _hub),
    ]
    found = [_guarded(name, run) for name, run in checks]
    return found + list(_contents(bench)) if deep else found


def _guarded(name: str, run: Callable[[], Check]) -> Check:
    try:
        return run()
    except WorkbenchError as error:
        return Check(name, "broken", error.message, error.hint)
    except Exception as error:  # a doctor that falls ill itself must still report
        return Check(name, "broken", f"{type(error).__name__}: {error}")


def _libraries() -> Check:
    from packaging.requirements import Requirement

    python = f"Python {sys.version.split()[0]}"
    wrong, seen = [], 0
    try:
        lines = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return Check("libraries", "warning", f"{python}; {_DISTRIBUTION} itself is not installed", "Install it: pip install --editable .")
    for line in lines:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        seen += 1
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version.split("+")[0], prereleases=True):
            wrong.append(f"{wanted.name} {version} is not {wanted.specifier}")
    if wrong:
        return Check("libraries", "broken", f"{python}; {'; '.join(wrong)}", f"Install again: pip install --upgrade {_DISTRIBUTION}")
    return Check("libraries", "ok", f"{python}; all {seen} requirements met")


def _name_clash() -> Check:
    """Another distribution on the package index installs a package called `workbench` too."""
    owners = {name for name in metadata.packages_distributions().get("workbench", []) if name != _DISTRIBUTION}
    if owners:
        hint = "Use an environment of its own for this workbench."
        return Check("name clash", "broken", f"{', '.join(sorted(owners))} installs a package named workbench as well", hint)
    return Check("name clash", "ok", "no other package is called workbench")


def _datasets_package() -> Check:
    """A folder called `datasets` beside the caller must not hide Hugging Face's package of that name."""
    found = find_spec("datasets")
    origin = Path(found.origin).parent if found and found.origin else None
    if origin is None:
        return Check("datasets package", "broken", "`import datasets` finds a plain folder", "Install it: pip install datasets")
    if not (origin / "arrow_dataset.py").is_file():
        hint = "Start the workbench from another folder, or rename that one."
        return Check("datasets package", "broken", f"`import datasets` finds {origin}, which is not Hugging Face's", hint)
    return Check("datasets package", "ok", f"Hugging Face's {metadata.version('datasets')}")


def _home() -> Check:
    home = paths.home()
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=home, prefix=".doctor-", delete=False) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    moved = Path(file.name + "-moved")
    os.replace(file.name, moved)
    moved.unlink()
    return Check("home", "ok", f"{home} can be written")


def _disk() -> Check:
    free = shutil.disk_usage(paths.home()).free
    text = f"{free / 1024**3:.1f} GiB free"
    if free < _ROOM:
        return Check("disk", "warning", text, "Make room: workbench prune. Or move the home with WORKBENCH_HOME.")
    return Check("disk", "ok", text)


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / 1024**3:.1f} of {memory.total / 1024**3:.1f} GiB available"
    if memory.available < _ROOM:
        return Check("memory", "warning", text, "Close other programs before training; qlora needs the least.")
    return Check("memory", "ok", text)


def _database(bench: Workbench) -> Check:
    from workbench.db.session import sqlite_file, transaction

    jobs = bench.jobs.list(limit=1)
    if sqlite_file(paths.database_url()) is None:
        return Check("database", "ok", f"PostgreSQL answers; {'jobs are there' if jobs else 'no jobs yet'}")
    with transaction() as connection:
        said = connection.exec_driver_sql("PRAGMA quick_check").scalar_one()
    if said != "ok":
        return Check("database", "broken", f"SQLite reports: {said}", "Restore workbench.db from a backup; adapters on disk are whole.")
    return Check("database", "ok", f"SQLite is sound; {'jobs are there' if jobs else 'no jobs yet'}")


def _hub() -> Check:
    import socket

    if paths.hub_offline():
        return Check("hub", "ok", "asked to stay offline; bases come from wheels, folders and GGUF files")
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        return Check("hub", "warning", "Hugging Face cannot be reached", "Bases then come from wheels, folders and GGUF files.")
    return Check("hub", "ok", "Hugging Face can be reached")


def _contents(bench: Workbench) -> Iterator[Check]:
    kinds: list[tuple[str, Callable[[], list[str]], Callable[[str], object]]] = [
        ("base", lambda: [str(b.ref) for b in bench.bases.list()], bench.bases.verify),
        ("dataset", lambda: [*(d.name for d in bench.datasets.list()), *bench.datasets.broken()], bench.datasets.get),
        ("adapter", lambda: [a.ref for a in bench.adapters.list()], lambda ref: bench.adapters.get(ref, verify=True)),
    ]
    for kind, names, read in kinds:
        try:
            found = names()
        except WorkbenchError as error:
            yield Check(f"every {kind}", "broken", error.message, error.hint)
            continue
        for name in found:
            yield _guarded(f"{kind} {name}", partial(_unchanged, kind, name, read))


def _unchanged(kind: str, name: str, read: Callable[[str], object]) -> Check:
    read(name)
    return Check(f"{kind} {name}", "ok", "every file is as it was written")
