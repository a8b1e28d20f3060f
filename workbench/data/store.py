"""The datasets of a home: added whole or not at all, hashed, and checked again on every read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.data.rows import Row, read_jsonl
from workbench.data.scorers import scorer_of
from workbench.errors import Conflict, IntegrityError, NotFound, UsageError
from workbench.files import atomic_write, flush, room, sha256_of
from workbench.foreign import GIB, Limits, shown
from workbench.records import Dataset, check_name

if TYPE_CHECKING:
    from workbench.data.checks import Report, RowLength
    from workbench.data.formats import Recognised

    LengthsOf = Callable[[Sequence[Row]], Sequence[RowLength]]

__all__ = ["Datasets", "publish"]

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
        return [record for folder in self._folders().values() if isinstance(record := _record(folder), Dataset)]

    def broken(self) -> dict[str, str]:
        """name -> what is wrong, for the folders that `list` leaves out."""
        return {name: problem for name, folder in self._folders().items() if isinstance(problem := _record(folder), str)}

    def get(self, name: str) -> Dataset:
        """The dataset `name`, its rows checked against their hash. Raises `NotFound`, `IntegrityError`, `UsageError`."""
        record = _record(self._folder(name))
        if isinstance(record, str):
            raise IntegrityError(
                f"Dataset '{name}' is damaged: {record}.", hint=f"Add its file again under a new name, or: workbench data remove {name}"
            )
        now = sha256_of(record.path / _DATA)
        if now != record.sha256:
            raise IntegrityError(
                f"The rows of dataset '{name}' were changed after it was added: sha256 {now[:12]}…, expected {record.sha256[:12]}….",
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
        test_share: float | None = None,
        test_rows: int | None = None,
        drop: Sequence[str] = (),
        system: str | None = None,
    ) -> Dataset:
        """Read a file, check it, freeze a test part and keep the rows under `name` (default: the file's name).

        `drop` names kinds of bad rows (`checks.KINDS`) to leave out; without it they stop the whole file. `scorer` is one
        of `scorers.SCORERS` or "none"; by default answers that are a few short labels get "label". `system` puts one
        system message in front of every row without its own. With `test_file` the test part is that file (at most
        `test_rows` of it), else `test_rows` rows or `test_share` of them (0.1). Either the whole dataset is there afterwards or
        nothing. Raises `DataError` (listing the rows at fault), `UsageError`, `Conflict`.
        """
        from workbench.data.prepare import Reading, write_set

        name = check_name(name if name is not None else _name_of(Path(file)), "dataset name")
        if scorer not in {None, "none"}:
            scorer_of(str(scorer))
        if name in self._folders():
            raise _taken(name)
        reading = Reading(form=form, mapping=mapping, raw=raw, system=system, drop=tuple(drop))
        with room(paths.datasets_dir()) as stage:
            report, source, facts = _limits(file, test_file).run(
                write_set,
                _whole(file),
                reading,
                stage,
                test_file=_whole(test_file) if test_file is not None else None,
                share=test_share,
                test_rows=test_rows,
                to=stage / _DATA,
            )
            if scorer is None and report.answers and facts["form"] != "text":
                scorer = "label"
                report.notes.append(f"scored by label: {report.answers['different']} different answers (another way: --scorer)")
            meta = {
                "name": name,
                "scorer": None if scorer == "none" else scorer,
                "source": source,
                "options": {**dataclasses.asdict(reading), "test_share": test_share, "test_rows": test_rows},
                "added_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "report": report.as_dict(),
            }
            publish(stage, paths.datasets_dir() / name, meta, facts, _card(name, meta, facts))
        return self.get(name)

    def recognise(self, file: str | Path, *, mapping: Mapping[str, str] | None = None, form: str | None = None) -> Recognised:
        """What a file turns out to be, and the question it leaves open. Raises `DataError` for a file that is no table."""
        from workbench.data.formats import recognise

        return _limits(file).run(recognise, _whole(file), mapping=mapping, form=form)

    def check(self, name: str, *, lengths_of: LengthsOf | None = None, **reading: Any) -> Report:
        """Check the rows of a dataset again; with `lengths_of` their lengths in tokens as well.

        Raises `UsageError` for anything that says how to read: that was done when it was added.
        """
        from workbench.data.checks import add_lengths, check, sound_rows
        from workbench.data.readers import ENDINGS

        if "/" in name or name.endswith(ENDINGS):
            raise NotFound(f"There is no file {name}.", hint="Check the path, or see what is there: workbench data list")
        if any(reading.values()):
            raise UsageError(f"'{name}' is a dataset that was read already.", hint="Options that say how to read belong to a file.")
        rows = self.rows(name)
        report = check(rows)
        if lengths_of is not None:
            add_lengths(report, sound_rows(rows, report), lengths_of)
        return report

    def check_file(
        self,
        file: str | Path,
        *,
        test_file: str | Path | None = None,
        lengths_of: LengthsOf | None = None,
        **reading: Any,
    ) -> Report:
        """Check a file as `add` would with the fields of `prepare.Reading`, and add nothing. Row problems are in the report; a file
        that is no table raises."""
        from workbench.data.checks import add_lengths
        from workbench.data.prepare import Reading, check_files

        other = _whole(test_file) if test_file is not None else None
        with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
            keep = Path(folder) / _DATA if lengths_of is not None else None
            report = _limits(file, test_file).run(check_files, _whole(file), Reading(**reading), Path(folder), test_file=other, keep=keep)
            if keep is not None and lengths_of is not None:
                with keep.open(encoding="utf-8", errors="surrogatepass") as sound:
                    add_lengths(report, (tuple(json.loads(line)) for line in sound), lengths_of)
        return report

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
        own, shipped = paths.datasets_dir(), paths.bundled_datasets_dir()
        folders: dict[str, Path] = {}
        for folder in [folder for root in (own, shipped) if root.is_dir() for folder in root.iterdir()]:
            # else it is somebody's checkout, of which only the examples are for all
            if folder.is_dir() and not folder.name.startswith(".") and (folder.parent == own or _is_bundled(folder)):
                folders.setdefault(folder.name, folder)
        return dict(sorted(folders.items()))


def publish(stage: Path, folder: Path, meta: dict[str, Any], facts: dict[str, Any], card: str) -> None:
    """Add card and facts to the rows, see all of it on the disk, and move it into place: it exists complete or not at all."""
    atomic_write(stage / _CARD, card)
    atomic_write(stage / _META, json.dumps({**meta, **facts}, ensure_ascii=False, indent=1) + "\n")
    flush(stage / _DATA)
    try:
        if folder.exists():
            raise FileExistsError(folder)
        os.rename(stage, folder)
    except OSError:
        if folder.exists():
            raise _taken(folder.name) from None
        raise
    flush(folder.parent)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is already a dataset '{name}'.", hint="Choose another name: --name NAME")


def _whole(file: str | Path) -> Path:
    """Where the file of this name is: whoever names it may do so by a link."""
    try:
        return Path(file).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return Path(file)  # its reader says what is wrong


def _limits(file: str | Path, *others: str | Path | None) -> Limits:
    """What the reader of a data file may use: the file itself is in memory, its rows are on the disk."""
    from workbench.data.readers import MAX_BYTES

    size = 0
    for path in (file, *others):
        with contextlib.suppress(OSError, ValueError, TypeError):
            size = max(size, min(Path(path).stat().st_size, MAX_BYTES))  # type: ignore[arg-type]
    heavy = ("numpy", "pyarrow.parquet", "workbench.data.prepare")
    return Limits(shown(Path(file).name), memory=GIB + 2 * size, seconds=600, writes=16 * GIB, preload=heavy)


def _name_of(file: Path) -> str:
    """`Order codes (v2).csv` -> `order-codes-v2`."""
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._")[:64].strip("-._")
    if not name:
        raise UsageError(f"{file.name!r} gives the dataset no name.", hint="Choose one: --name NAME")
    return re.sub(r"\.\.+", ".", name)


def _card(name: str, meta: dict[str, Any], facts: dict[str, Any]) -> str:
    tests, rows = facts["test_rows"], facts["rows"]
    lines = [
        f"# {name}",
        "",
        f"{rows:,} rows from `{meta['source']['file']}`; {tests:,} of them are the frozen test part, never trained on.",
    ]
    lines += [f"Scorer: `{meta['scorer']}`." if meta["scorer"] else "No scorer: answers are judged by how well they are predicted.", ""]
    lines += [f"- {note}" for note in meta["report"]["notes"]]
    lines += [f"- left out: {n:,} rows ({kind})" for kind, n in meta["report"]["dropped"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _meta(folder: Path) -> dict[str, Any]:
    data = json.loads((folder / _META).read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _is_bundled(folder: Path) -> bool:
    try:
        return folder.parent == paths.bundled_datasets_dir() and bool(_meta(folder).get("bundled"))
    except (OSError, ValueError):
        return False


def _record(folder: Path) -> Dataset | str:
    """The dataset in this folder, or what keeps it from being one."""
    for name in (_META, _DATA):
        if not (folder / name).is_file():
            return f"{name} is missing"
    try:
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_META} cannot be read ({type(error).__name__}: {error})"
