"""Is this installation sound? Each examination says what it found, or raises what is to be mended.

Nothing here loads torch; an examination that itself fails is reported as broken, never raised.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import paths
from workbench.errors import WorkbenchError
from workbench.files import atomic_write

if TYPE_CHECKING:
    from workbench.bases.store import Bases
    from workbench.data.store import Datasets
    from workbench.registry.store import Registry

__all__ = ["Diagnosis", "contents", "installation"]

_DISTRIBUTION = "openweight-workbench"
_ROOM = 2 * 1024**3  # bytes: a small base, a few checkpoints


@dataclass(frozen=True)
class Diagnosis:
    """What one examination found. `state` is "ok", "warning" (works, but look) or "broken"."""

    name: str
    state: str
    found: str
    hint: str = ""


class _Doubt(WorkbenchError):
    """It works, but somebody should look."""


def installation() -> list[Diagnosis]:
    """Libraries, disk, memory, database, hub."""
    examinations = {
        "libraries": _libraries,
        "name clash": _name_clash,
        "datasets package": _datasets_package,
        "home": _home,
        "disk": _disk,
        "memory": _memory,
        "database": _database,
        "hub": _hub,
    }
    return [_diagnosed(name, examine) for name, examine in examinations.items()]


def contents(bases: Bases, datasets: Datasets, adapters: Registry) -> Iterator[Diagnosis]:
    """Every base, dataset and adapter against its stored hashes; reads all of them."""
    kinds: list[tuple[str, Callable[[], list[str]], Callable[[str], object]]] = [
        ("base", lambda: [str(base.ref) for base in bases.list()], bases.verify),
        ("dataset", lambda: [*(dataset.name for dataset in datasets.list()), *datasets.broken()], datasets.get),
        ("adapter", lambda: [adapter.ref for adapter in adapters.list()], partial(adapters.get, verify=True)),
    ]
    for kind, list_names, read in kinds:
        try:
            names = list_names()
        except WorkbenchError as error:
            yield Diagnosis(f"every {kind}", "broken", error.message, error.hint)
            continue
        for name in names:
            yield _diagnosed(f"{kind} {name}", partial(_unchanged, read, name))


def _diagnosed(name: str, examine: Callable[[], str]) -> Diagnosis:
    try:
        return Diagnosis(name, "ok", examine())
    except WorkbenchError as error:
        return Diagnosis(name, "warning" if isinstance(error, _Doubt) else "broken", error.message, error.hint)
    except Exception as error:  # a doctor that falls ill itself must still report
        return Diagnosis(name, "broken", f"{type(error).__name__}: {error}")


def _libraries() -> str:
    from packaging.requirements import Requirement

    python = f"Python {sys.version.split()[0]}"
    try:
        required = [Requirement(line) for line in metadata.requires(_DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        raise _Doubt(f"{python}; {_DISTRIBUTION} itself is not installed", hint="Install it: pip install --editable .") from None
    required = [wanted for wanted in required if wanted.marker is None or wanted.marker.evaluate({"extra": ""})]
    wrong = []
    for wanted in required:
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version.split("+")[0], prereleases=True):
            wrong.append(f"{wanted.name} {version} is not {wanted.specifier}")
    if wrong:
        raise WorkbenchError(f"{python}; {'; '.join(wrong)}", hint=f"Install again: pip install --upgrade {_DISTRIBUTION}")
    return f"{python}; all {len(required)} requirements met"


def _name_clash() -> str:
    """Another distribution on the package index installs a package called `workbench` too."""
    owners = {name for name in metadata.packages_distributions().get("workbench", []) if name != _DISTRIBUTION}
    if owners:
        hint = "Use an environment of its own for this workbench."
        raise WorkbenchError(f"{', '.join(sorted(owners))} installs a package named workbench as well", hint=hint)
    return "no other package is called workbench"


def _datasets_package() -> str:
    """A folder called `datasets` beside the caller must not hide Hugging Face's package of that name."""
    spec = find_spec("datasets")
    origin = Path(spec.origin).parent if spec and spec.origin else None
    if origin is None:
        raise WorkbenchError("`import datasets` finds a plain folder", hint="Install it: pip install datasets")
    if not (origin / "arrow_dataset.py").is_file():
        hint = "Start the workbench from another folder, or rename that one."
        raise WorkbenchError(f"`import datasets` finds {origin}, which is not Hugging Face's", hint=hint)
    return f"Hugging Face's {metadata.version('datasets')}"


def _home() -> str:
    home = paths.home()
    home.mkdir(parents=True, exist_ok=True)
    atomic_write(home / ".doctor", "")
    (home / ".doctor").unlink()
    return f"{home} can be written"


def _disk() -> str:
    free = shutil.disk_usage(paths.home()).free
    text = f"{free / 1024**3:.1f} GiB free"
    if free < _ROOM:
        raise _Doubt(text, hint="Make room: workbench prune. Or move the home with WORKBENCH_HOME.")
    return text


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / 1024**3:.1f} of {memory.total / 1024**3:.1f} GiB available"
    if memory.available < _ROOM:
        raise _Doubt(text, hint="Close other programs before training; qlora needs the least.")
    return text


def _database() -> str:
    from workbench.db.reading import rows
    from workbench.db.session import sqlite_file, transaction

    jobs = "jobs are there" if rows("SELECT 1 AS one FROM jobs LIMIT 1") else "no jobs yet"
    if sqlite_file(paths.database_url()) is None:
        return f"PostgreSQL answers; {jobs}"
    with transaction() as connection:
        said = connection.exec_driver_sql("PRAGMA quick_check").scalar_one()
    if said != "ok":
        raise WorkbenchError(f"SQLite reports: {said}", hint="Restore workbench.db from a backup; adapters on disk are whole.")
    return f"SQLite is sound; {jobs}"


def _hub() -> str:
    import socket

    if paths.hub_offline():
        return "asked to stay offline; bases come from wheels, folders and GGUF files"
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        raise _Doubt("Hugging Face cannot be reached", hint="Bases then come from wheels, folders and GGUF files.") from None
    return "Hugging Face can be reached"


def _unchanged(read: Callable[[str], object], name: str) -> str:
    read(name)
    return "every file is as it was written"
