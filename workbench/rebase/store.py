"""Checks on disk.

    <home>/checks/<adapter>/v<N>/<family>@<version>/    check.json (written last), scores.jsonl, report.html

The newest check of an adapter on a base replaces the one before; the job that made it keeps its result.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.errors import IntegrityError, NotFound
from workbench.evidence import Evidence, read_scores, write_scores
from workbench.rebase.result import Check
from workbench.records import AdapterRef, BaseRef

__all__ = ["Checks"]

_CHECK, _SCORES, _REPORT = "check.json", "scores.jsonl", "report.html"


Found = list[Check]  # `list` is a method below


class Checks:
    """The checks of one home folder."""

    @property
    def root(self) -> Path:
        return paths.checks_dir()

    def list(self) -> Found:
        """The newest check of every adapter on every base, by adapter and base."""
        return [check for check in self._each() if check is not None]

    def _each(self) -> Iterator[Check | None]:
        for file in sorted(self.root.glob(f"*/v*/*/{_CHECK}")):
            yield _read(file)

    def find(self, adapter: str, base: str | BaseRef) -> Check | None:
        """The newest check of `name@version` on a base, if there is one."""
        file = self.folder(adapter, base) / _CHECK
        return _read(file) if file.is_file() else None

    def get(self, adapter: str, base: str | BaseRef) -> Check:
        """As `find`; raises `NotFound` saying how to make it."""
        found = self.find(adapter, base)
        if found is None:
            raise NotFound(f"{adapter} was not checked on {base} yet.", hint=f"Check it: workbench rebase check {adapter} --onto {base}")
        return found

    def scores(self, adapter: str, base: str | BaseRef) -> Evidence:
        """The scores of B and B + adapter row by row. Raises `NotFound` for a check without a verdict by test rows."""
        file = self.folder(adapter, base) / _SCORES
        if not file.is_file():
            raise NotFound(f"The check of {adapter} on {base} scored no test rows.", hint="Check it with the stage 'behaviour'.")
        return read_scores(file)

    def report(self, adapter: str, base: str | BaseRef) -> Path:
        """The page of a check. Raises `NotFound`."""
        self.get(adapter, base)
        return self.folder(adapter, base) / _REPORT

    def folder(self, adapter: str, base: str | BaseRef) -> Path:
        """Where a check stands. Both names are parsed again: they become a path here."""
        ref, onto = AdapterRef.parse(adapter), BaseRef.parse(base)
        if ref.version is None:
            raise NotFound(f"{adapter} names no version.", hint=f"Write {ref.name}@1, or whichever version you mean.")
        return self.root / ref.name / f"v{ref.version}" / str(onto)

    def save(self, check: Check, scores: Evidence | None, page: str) -> Path:
        """Put a check in place of the one before. Whole or not at all: a reader sees the old one or the new one."""
        goal = self.folder(check.adapter, check.base)
        draft, old = (goal.with_name(f".{goal.name}.{end}.{os.getpid()}") for end in ("new", "old"))
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        if scores is not None:
            write_scores(draft / _SCORES, scores)
        (draft / _REPORT).write_text(page, encoding="utf-8")
        _write_json(draft / _CHECK, check.as_dict())
        if goal.is_dir():
            os.rename(goal, old)
        os.rename(draft, goal)
        shutil.rmtree(old, ignore_errors=True)
        return goal


def _read(file: Path) -> Check | None:
    """A check from disk; None for one that is being replaced at this moment. Raises `IntegrityError` for a damaged one."""
    try:
        return Check.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file} is not a check: {error}.", hint="Delete its folder and check again.") from None


def _write_json(path: Path, value: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(finite(value), file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: None stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
