"""The datasets of a home: added whole or not at all, hashed, and checked again on every read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.data.rows import Row, assign_ids, dumps, read_jsonl
from workbench.data.scorers import check_scorer
from workbench.errors import Conflict, IntegrityError, NotFound, UsageError
from workbench.records import Dataset, check_name

if TYPE_CHECKING:
    from workbench.data.checks import Report, RowLength

__all__ = ["Datasets", "write_folder"]

Rows = list[Row]  # inside the class, `list` is the method
_DATA, _META, _CARD = "data.jsonl", "dataset.json", "README.md"


class Datasets:
    """Add, list, read and remove datasets: those of the home first, then the examples that ship with the code.

    >>> [row["messages"][-1]["content"] for row in bench.datasets.rows("orders", split="test")][:2]
    ['code 0', 'code 2']
    >>> bench.datasets.report("orders")["problems"]
    []
    """

    def list(self) -> list[Dataset]:
        """Every dataset with a readable `dataset.json`, by name. Folders that are damaged are in `broken()`."""
        return [_record(folder) for folder in self._folders().values() if _problem(folder) is None]

    def broken(self) -> dict[str, str]:
        """name -> what is wrong, for the folders that `list` leaves out."""
        return {name: problem for name, folder in self._folders().items() if (problem := _problem(folder)) is not None}

    def get(self, name: str) -> Dataset:
        """The dataset `name`, its rows checked against their hash. Raises `NotFound`, `IntegrityError`, `UsageError`."""
        folder = self._folder(name)
        if (problem := _problem(folder)) is not None:
            raise IntegrityError(
                f"Dataset '{name}' is damaged: {problem}.", hint=f"Add its file again under a new name, or: workbench data remove {name}"
            )
        record = _record(folder)
        found = _sha256(folder / _DATA)
        if found != record.sha256:
            raise IntegrityError(
                f"The rows of dataset '{name}' were changed after it was added: sha256 {found[:12]}…, expected {record.sha256[:12]}….",
                hint="A dataset never changes. Add the changed file under a new name: workbench data add FILE --name NEW",
            )
        return record

    def rows(self, name: str, split: str | None = None) -> Rows:
        """The rows in file order, of one part ("train" or "test") or of both."""
        if split not in {None, "train", "test"}:
            raise UsageError(f"There is no part '{split}'.", hint="Say train or test.")
        rows = read_jsonl(self.get(name).path / _DATA)
        return rows if split is None else [row for row in rows if row["split"] == split]

    def report(self, name: str) -> dict[str, Any]:
        """The check's report as it was when the dataset was added."""
        meta = _meta(self.get(name).path)
        return dict(meta.get("report") or {})

    def add(
        self,
        file: str | Path,
        *,
        name: str | None = None,
        test_file: str | Path | None = None,
        form: str | None = None,
        mapping: Mapping[str, str] | None = None,
        scorer: str | None = None,
        raw: bool = False,
        test_share: float = 0.1,
        test_rows: int | None = None,
        drop: Sequence[str] = (),
        system: str | None = None,
    ) -> Dataset:
        """Read a file, check it, freeze a test part and keep the rows under `name` (default: the file's name).

        `drop` names kinds of bad rows (`checks.KINDS`) to leave out; without it they stop the whole file. `scorer` is one
        of `scorers.SCORERS` or "none"; by default answers that are a few short labels get "label". `system` puts one
        system message in front of every row without its own. With `test_file` the test part is that file (at most
        `test_rows` of it), else `test_rows` rows or `test_share` of them. Either the whole dataset is there afterwards or
        nothing. Raises `DataError` (listing the rows at fault), `UsageError`, `Conflict`.
        """
        from workbench.data.prepare import Reading, assign_sides, prepare, refuse
        from workbench.data.source import shown

        file, test_file = Path(file), Path(test_file) if test_file is not None else None
        name = check_name(name if name is not None else _name_of(file), "dataset name")
        if scorer not in {None, "none"}:
            check_scorer(str(scorer))
        if name in self._folders():
            raise Conflict(f"There is already a dataset '{name}'.", hint="Choose another name: --name NAME")
        reading = Reading(form=form, mapping=mapping, raw=raw, system=system, drop=tuple(drop))
        prepared = prepare(file, reading, test_file=test_file, test_rows=test_rows)
        refuse(file, prepared)
        rows = assign_sides(prepared, share=test_share, test_rows=test_rows)
        report = prepared.report
        if scorer is None and report.answers and rows[0]["form"] != "text":
            scorer = "label"
            report.notes.append(f"scored by label: {report.answers['different']} different answers (another way: --scorer)")
        source = {"file": shown(file.name), "sha256": _sha256(file)}
        if test_file is not None:
            source |= {"test_file": shown(test_file.name), "test_sha256": _sha256(test_file)}
        meta = {
            "name": name,
            "scorer": None if scorer == "none" else scorer,
            "source": source,
            "options": {**dataclasses.asdict(reading), "test_share": test_share, "test_rows": test_rows},
            "added_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "report": report.as_dict(),
        }
        _sweep(paths.datasets_dir())
        write_folder(paths.datasets_dir() / name, rows, meta, _card(name, rows, meta))
        return _record(paths.datasets_dir() / name)

    def check_file(
        self,
        file: str | Path,
        *,
        test_file: str | Path | None = None,
        form: str | None = None,
        mapping: Mapping[str, str] | None = None,
        raw: bool = False,
        drop: Sequence[str] = (),
        system: str | None = None,
        measure: Callable[[Sequence[Row]], Sequence[RowLength]] | None = None,
    ) -> Report:
        """Check a file as `add` would, and add nothing. Row problems are in the report; a file that is no table raises."""
        from workbench.data.prepare import Reading, prepare

        reading = Reading(form=form, mapping=mapping, raw=raw, system=system, drop=tuple(drop))
        return prepare(Path(file), reading, test_file=Path(test_file) if test_file is not None else None, measure=measure).report

    def remove(self, name: str) -> Path:
        """Move a dataset of the home to `<home>/datasets/.trash`; returns where it went. Examples stay."""
        folder = self._folder(name)
        if _is_bundled(folder):
            raise Conflict(f"'{name}' is an example that ships with the workbench; it cannot be removed.")
        trash = paths.datasets_dir() / ".trash"
        trash.mkdir(parents=True, exist_ok=True)
        goal = trash / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        os.replace(folder, goal)
        return goal

    def _folder(self, name: str) -> Path:
        folders = self._folders()
        if check_name(name, "dataset name") not in folders:
            raise NotFound.of("dataset", name, sorted(folders), command="workbench data list")
        return folders[name]

    def _folders(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for root in (paths.datasets_dir(), paths.bundled_datasets_dir()):
            if root.is_dir():
                for folder in root.iterdir():
                    if folder.is_dir() and not folder.name.startswith("."):
                        found.setdefault(folder.name, folder)
        return dict(sorted(found.items()))


def write_folder(folder: Path, rows: Sequence[Row], meta: dict[str, Any], card: str) -> None:
    """Write a whole dataset folder beside its place, then rename it there: it exists complete or not at all.

    `rows` carry `split`; ids are given here. `meta` holds name, scorer, source, report, …; hash and counts are added.
    Raises `Conflict` when the folder exists.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".adding-", dir=folder.parent))
    try:
        rows = assign_ids(rows)
        data = "".join(dumps(row) + "\n" for row in rows).encode()
        tests = sum(row["split"] == "test" for row in rows)
        facts = {
            "format": 1,
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": len(rows),
            "train_rows": len(rows) - tests,
            "test_rows": tests,
            "form": rows[0]["form"] if rows else "messages",
        }
        _write(staged / _DATA, data)
        _write(staged / _CARD, card.encode())
        _write(staged / _META, (json.dumps({**meta, **facts}, ensure_ascii=False, indent=1) + "\n").encode())
        staged.chmod(0o755)
        if folder.exists():
            raise Conflict(
                f"There is already a dataset '{folder.name}'.", hint=f"Choose another name, or first: workbench data remove {folder.name}"
            )
        try:
            os.rename(staged, folder)
        except OSError as error:
            raise Conflict(f"There is already a dataset '{folder.name}'.", hint="Choose another name: --name NAME") from error
        _sync(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _name_of(file: Path) -> str:
    """`Order codes (v2).csv` -> `order-codes-v2`."""
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:64].strip("-._")
    if not name:
        raise UsageError(f"{file.name!r} gives the dataset no name.", hint="Choose one: --name NAME")
    return re.sub(r"\.\.+", ".", name)


def _card(name: str, rows: Rows, meta: dict[str, Any]) -> str:
    tests = sum(row["split"] == "test" for row in rows)
    lines = [
        f"# {name}",
        "",
        f"{len(rows):,} rows from `{meta['source']['file']}`; {tests:,} of them are the frozen test part, never trained on.",
    ]
    lines += [f"Scorer: `{meta['scorer']}`." if meta["scorer"] else "No scorer: answers are judged by how well they are predicted.", ""]
    lines += [f"- {note}" for note in meta["report"]["notes"]]
    lines += [f"- left out: {n:,} rows ({kind})" for kind, n in meta["report"]["dropped"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _sweep(root: Path) -> None:
    """Remove what an `add` that was killed more than a day ago left behind."""
    for folder in root.glob(".adding-*"):
        if time.time() - folder.stat().st_mtime > 86_400:
            shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _meta(folder: Path) -> dict[str, Any]:
    data = json.loads((folder / _META).read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _problem(folder: Path) -> str | None:
    """What keeps this folder from being a dataset, or None."""
    if not (folder / _META).is_file():
        return f"{_META} is missing"
    if not (folder / _DATA).is_file():
        return f"{_DATA} is missing"
    try:
        _record(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_META} cannot be read ({type(error).__name__}: {error})"
    return None


def _is_bundled(folder: Path) -> bool:
    return folder.parent == paths.bundled_datasets_dir() and bool(_meta(folder).get("bundled"))


def _record(folder: Path) -> Dataset:
    meta = _meta(folder)
    added = meta.get("added_at")
    return Dataset(
        name=folder.name,
        path=folder,
        sha256=str(meta["sha256"]),
        rows=int(meta["rows"]),
        train_rows=int(meta["train_rows"]),
        test_rows=int(meta["test_rows"]),
        form=str(meta["form"]),
        scorer=meta.get("scorer"),
        bundled=_is_bundled(folder),
        added_at=datetime.fromisoformat(added) if added else None,
    )
