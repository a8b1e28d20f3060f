"""Checks on disk, and what they share.

    <home>/checks/<adapter>/v<N>/<family>@<version>/    check.json (written last), scores.jsonl
    <home>/cache/bare/<key>.json                        scores of a bare base, by (its lock, the test rows, how they are scored)

The newest check of an adapter on a base replaces the one before; the job that made it keeps its result.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from workbench import paths
from workbench.errors import IntegrityError, NotFound
from workbench.evidence import Evidence, read_scores, write_scores
from workbench.files import atomic_write
from workbench.rebase.result import Check
from workbench.records import AdapterRef, BaseRef, ItemScore

__all__ = ["Checks", "bare_key", "neutral_passages", "read_bare", "write_bare"]

_CHECK, _SCORES = "check.json", "scores.jsonl"
Found = list[Check]  # `list` is a method below


class Checks:
    """The checks of one home folder."""

    @property
    def root(self) -> Path:
        return paths.checks_dir()

    def list(self) -> Found:
        """The newest check of every adapter on every base, by adapter and base."""
        read = map(_read, sorted(self.root.glob(f"*/v*/*/{_CHECK}")))
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

    def scores(self, adapter: str, base: str | BaseRef) -> Evidence:
        """The scores of B and B + adapter row by row. Raises `NotFound` for a check without a verdict by test rows."""
        file = self.folder(adapter, base) / _SCORES
        if not file.is_file():
            raise NotFound(f"The check of {adapter} on {base} scored no test rows.", hint="Check it with the stage 'behaviour'.")
        return read_scores(file)

    def folder(self, adapter: str, base: str | BaseRef) -> Path:
        """Where a check stands. Both names are parsed again: they become a path here."""
        ref, onto = AdapterRef.parse(adapter), BaseRef.parse(base)
        if ref.version is None:
            raise NotFound(f"{adapter} names no version.", hint=f"Write {ref.name}@1, or whichever version you mean.")
        return self.root / ref.name / f"v{ref.version}" / str(onto)

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


# ---------------------------------------------------------------- shared between checks


def bare_key(base_lock_sha256: str, rows: list[dict[str, Any]], **how: Any) -> str:
    """Names the scores of a bare base: equal for equal weights, test rows and way of scoring."""
    text = json.dumps([base_lock_sha256, rows, how], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_bare(key: str) -> tuple[list[ItemScore], dict[str, Any]] | None:
    """(scores, facts) as `write_bare` kept them; None when there are none."""
    file = paths.home() / "cache" / "bare" / f"{key}.json"
    if not file.is_file():
        return None
    data = json.loads(file.read_text(encoding="utf-8"))
    return [ItemScore(**score) for score in data["scores"]], data["facts"]


def write_bare(key: str, scores: list[ItemScore], facts: dict[str, Any]) -> None:
    """Keep the scores of a bare base for the next adapter with the same test rows."""
    file = paths.home() / "cache" / "bare" / f"{key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps({"scores": [asdict(score) for score in scores], "facts": facts}))


def neutral_passages() -> list[str]:
    """Twenty short texts about nothing in particular, written for this purpose: how well a base predicts them says how well it is."""
    text = resources.files("workbench.rebase").joinpath("neutral.txt").read_text(encoding="utf-8")
    return text.strip().split("\n\n")
