"""Checks on disk.

    <home>/checks/<adapter>/v<N>/<family>@<version>/    check.json (written last), scores.jsonl

The newest check of an adapter on a base replaces the one before; the job that made it keeps its result.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from workbench import paths
from workbench.errors import IntegrityError, NotFound
from workbench.evidence import Evidence, write_scores
from workbench.files import atomic_write
from workbench.rebase.result import Check
from workbench.records import AdapterRef, BaseRef

__all__ = ["Checks"]

_CHECK, _SCORES = "check.json", "scores.jsonl"
Found = list[Check]  # `list` is a method below


class Checks:
    """The checks of one home folder."""

    def list(self) -> Found:
        """The newest check of every adapter on every base, by adapter and base."""
        read = map(_read, sorted(paths.checks_dir().glob(f"*/v*/*/{_CHECK}")))
        return [check for check in read if check is not None]

    def find(self, adapter: str, base: str | BaseRef) -> Check | None:
        """The newest check of `name@version` on a base, if there is one."""
        file = self.folder(adapter, base) / _CHECK
        return _read(file) if file.is_file() else None

    def get(self, adapter: str, base: str | BaseRef) -> Check:
        """As `find`; raises `NotFound` saying how to make it."""
        check = self.find(adapter, base)
        if check is None:
            raise NotFound(f"{adapter} was not checked on {base} yet.", hint=f"Check it: workbench rebase check {adapter} --onto {base}")
        return check

    def folder(self, adapter: str, base: str | BaseRef) -> Path:
        """Where a check stands. Both names are parsed again: they become a path here."""
        ref, onto = AdapterRef.parse(adapter), BaseRef.parse(base)
        if ref.version is None:
            raise NotFound(f"{adapter} names no version.", hint=f"Write {ref.name}@1, or whichever version you mean.")
        return paths.checks_dir() / ref.name / f"v{ref.version}" / str(onto)

    def save(self, check: Check, scores: Evidence | None) -> Path:
        """Put a check in place of the one before. Whole or not at all: a reader sees the old one or the new one."""
        goal = self.folder(check.adapter, check.base)
        draft, old = (goal.with_name(f".{goal.name}.{end}.{os.getpid()}") for end in ("new", "old"))
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        draft.mkdir(parents=True)
        if scores is not None:
            write_scores(draft / _SCORES, scores)
        atomic_write(draft / _CHECK, json.dumps(check.as_dict(), ensure_ascii=False, indent=1))
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
