"""Adapters on one new base, and on all of them: the cell of one adapter on one base, and many cells in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.evidence import Summary
from workbench.rebase import verdicts
from workbench.rebase.telling import says
from workbench.rebase.verdict import broken, safe_for_all
from workbench.rebase.verdicts import STATES, State
from workbench.words import Name, Number, Several, Value, counted, lasting, phrase
from workbench.worth import metric_of, score

if TYPE_CHECKING:
    from workbench.rebase.result import Check
    from workbench.records import Adapter, Job

__all__ = ["Cell", "moving", "safety"]


@dataclass(frozen=True)
class Cell:
    """One adapter on one base, and what is known about it."""

    adapter: Adapter
    base: str
    check: Check | None = None
    stale: bool = False  # the adapter or the base has changed since
    job: Job | None = None  # of a check that is not over yet
    failed: Job | None = None  # the newest check, if it ended with an error and no check came after it
    retrain_seconds: float | None = None  # what its training took, the last time

    @property
    def state(self) -> State:
        """Its verdict, or what stands where there is none."""
        if str(self.adapter.base) == self.base:
            return STATES["home"]
        if self.job is not None:
            return STATES["busy"]
        if self.check is None:
            return STATES["unchecked" if self.adapter.scores else "untested"]
        return STATES["stale"] if self.stale else verdicts.state(self.check.word)

    @property
    def headline(self) -> Value:
        """What it means for whoever uses the adapter, and what to do next."""
        names = self.adapter.ref, self.base, str(self.adapter.base)
        return says(self.state, *names, check=self.check, retrain_seconds=self.retrain_seconds)

    @property
    def scores(self) -> Value | None:
        """With the adapter at home and here: `80% → 56%`; at home what it scored there. None where no score holds."""
        if self.state.name == "home" and self.adapter.scores:
            summary = Summary.from_dict(self.adapter.scores)
            metric = metric_of(summary)
            return score(metric, getattr(summary.adapter, metric))
        verdict = self.check.verdict if self.check is not None and self.state.verdict else None
        if verdict is None or "new_adapter" not in verdict.arms:
            return None
        before, after = (score(verdict.metric, verdict.arms[arm][verdict.metric]) for arm in ("home_adapter", "new_adapter"))
        return phrase("rebase.from_to", before=before, after=after)


def moving(states: Sequence[State], base: str, retrain_seconds: Sequence[float | None] = ()) -> Value:
    """`Moving to b@2: 1 of 4 adapters works as it is, 1 is no longer needed, 2 need retraining (about 15 min in all).`"""
    count = Counter(state.name for state in states)
    works, of = count["works"], len(states)
    key, end = "all" if works == of else "some", "one" if of == 1 else "single" if works == 1 else "other"
    parts: list[Value] = [phrase(f"rebase.head.{key}.{end}", base=Name(base), works=Number(works), n=Number(of))]
    if bad := sum(state.broken for state in states):
        parts.append(counted("rebase.head.broken", bad))
        if retrain_seconds and None not in retrain_seconds:
            time = lasting(sum(filter(None, retrain_seconds)))
            parts[-1] = phrase("rebase.head.time", what=parts[-1], time=time)
    told = [state for state in STATES.values() if count[state.name] and not state.broken and state.name != "works"]
    parts += [counted(f"rebase.head.{state.key}", count[state.name]) for state in told]
    return phrase("rebase.head", parts=Several(tuple(parts), "list.clause"))


def safety(checks: Sequence[Check | None], base: str) -> Value | None:
    """Whether the release is safe for every adapter, or which ones it breaks with a false discovery rate of 5 %; None where neither
    is shown. `checks` are those of all adapters that would move; None for one that was not checked, or not since it changed."""
    judged = [check for check in checks if check is not None and check.word is not None]
    if judged and len(judged) == len(checks) and safe_for_all(judged):
        return counted("rebase.safe", len(judged), base=base)
    names = [check.adapter for check, bad in zip(judged, broken(judged), strict=True) if bad]
    return phrase("rebase.breaks", base=base, names=Several(tuple(names)), of=Number(len(judged))) if names else None
