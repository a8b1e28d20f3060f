"""One adapter on one base, in words: which icon, which colour, which sentence, which figures. Everything else about a rebase
check on the pages is built from these."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench.rebase.result import BROKEN, VERDICTS, Check, Verdict
from workbench.records import Adapter, Job
from workbench.stats import Interval
from workbench.words import Words
from workbench_ui.views.markup import esc

__all__ = ["STATES", "Cell", "difference", "figures", "is_rate", "key_of", "look", "questions", "sentence", "show", "word"]

# What a cell can be besides one of VERDICTS: busy, stale (base or adapter changed since), unchecked, untested (the adapter has
# no evidence), looked (checked without the test), home (the base it was made for).
_LOOKS = {
    "works": ("good", "ok"),
    "not needed": ("info", "minus"),
    "no gain at home": ("idle", "dots"),
    "too close to tell": ("warn", "even"),
    "weaker": ("warn", "warn"),
    "lost": ("bad", "cross"),
    "does harm": ("bad", "down_mark"),
    "cannot load": ("bad", "ban"),
    "home": ("good", "home"),
    "looked": ("idle", "dots"),
    "unchecked": ("open", "ask"),
    "untested": ("open", "ask"),
    "stale": ("warn", "wait"),
    "busy": ("info", "wait"),
}
_URGENCY = (
    "cannot load", "does harm", "lost", "weaker", "busy", "stale", "unchecked", "untested",
    "too close to tell", "looked", "no gain at home", "not needed", "works", "home",
)  # fmt: skip

STATES = tuple(_LOOKS)


@dataclass(frozen=True)
class Cell:
    """One adapter on one base, and what is known about it."""

    adapter: Adapter
    base: str
    check: Check | None = None
    stale: bool = False
    job: Job | None = None  # of a check that is not over yet
    failed: Job | None = None  # the newest check, if it ended with an error and no check came after it
    retrain_seconds: float | None = None  # what its training took, the last time

    @property
    def state(self) -> str:
        """A verdict, or what stands where there is none."""
        if str(self.adapter.base) == self.base:
            return "home"
        if self.job is not None:
            return "busy"
        if self.check is None:
            return "unchecked" if self.adapter.scores else "untested"
        return "stale" if self.stale else self.check.word or "looked"

    @property
    def urgency(self) -> int:
        """0 is the worst news."""
        return _URGENCY.index(self.state)

    @property
    def broken(self) -> bool:
        return self.state in BROKEN

    @property
    def open(self) -> bool:
        """Whether a check is what it needs."""
        return self.state in {"unchecked", "stale"}


def look(state: str) -> tuple[str, str]:
    """(tone, icon) of a state; both only repeat what `word` says."""
    return _LOOKS[state]


def key_of(state: str) -> str:
    """A state as the end of a key: `too_close_to_tell`."""
    return state.replace(" ", "_")


def word(state: str, t: Words) -> str:
    """`Too close to tell`"""
    return t.term("rebase.word", key_of(state))


def is_rate(metric: str) -> bool:
    """Success scores are shares of test rows, and more is better; the others are errors."""
    return metric in {"right", "exact_match"}


def show(value: float | None, metric: str, t: Words) -> str:
    """A score: `78%`, or `1.24`; a broken number is a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return t.percent(value) if is_rate(metric) else f"{value:.2f}"


def difference(interval: Interval, metric: str, t: Words) -> str:
    """`+37 points (95% interval +28 to +46)`"""

    def signed(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "–"
        text = f"{100 * value:+.1f}".removesuffix(".0") if is_rate(metric) else f"{value:+.3f}"
        return text.replace("-", "−") if float(text) else text.lstrip("+-")  # no sign before a nought

    unit = "score.points" if is_rate(metric) else "score.nats" if metric == "nll_per_token" else "rebase.bits"
    value = t(unit, value=signed(interval.value))
    if interval.low is None or interval.high is None:
        return value
    return t("score.interval", value=value, low=signed(interval.low), high=signed(interval.high))


def sentence(cell: Cell, t: Words) -> str:
    """What it means for whoever uses the adapter. Safe HTML; the adapter's name comes first."""
    state, check = cell.state, cell.check
    names = {"adapter": cell.adapter.name, "base": cell.base, "home": str(cell.adapter.base)}
    if state == "stale" and check is not None:
        was = word(check.word or "looked", t)
        return t.html("rebase.says.stale", was=was, **names)
    if state == "works" and check is not None and check.verdict is not None and check.verdict.absorbed:
        return t.html("rebase.says.works_absorbed", **names)
    if state == "weaker" and check is not None and check.verdict is not None and not _helps(check.verdict):
        said = t.html("rebase.says.weaker_unsure", **names)
    else:
        said = t.html(f"rebase.says.{key_of(state)}", **names)
    if state in VERDICTS and cell.broken:
        said += " " + esc(t("rebase.retrain_it"))
        if cell.retrain_seconds is not None:
            said += " " + esc(t("rebase.retrain_time", time=t.duration(cell.retrain_seconds)))
    if state == "too close to tell" and check is not None and check.verdict is not None and check.verdict.rows_needed:
        said += " " + t.html("rebase.rows_needed", n=t.number(check.verdict.rows_needed))
    return said


def _helps(verdict: Verdict) -> bool:
    """Whether it gives something on the new base beyond doubt."""
    contrasts = verdict.contrasts.get(verdict.metric)
    return contrasts is not None and contrasts.transfer.above_zero


def figures(check: Check, t: Words) -> str:
    """Both raw scores on the new base, both at home, what the adapter gives there with its interval, and n. Plain text."""
    verdict, breaks = check.verdict, check.structure.breaks
    reasons = " ".join(finding.text for finding in breaks)
    if verdict is None or not verdict.arms:
        return reasons
    metric = verdict.metric
    scores = {arm: show(values.get(metric), metric, t) for arm, values in verdict.arms.items()}
    if "new" not in scores:  # a break stands, so nothing was run on the new base
        home = t(
            "rebase.figures_home", home_base=check.home, questions=questions(verdict, t), metric=t(f"rebase.metric.{metric}"), **scores
        )
        return f"{reasons} {home}".strip()
    told = t(f"rebase.figures.{metric}", base=check.base, home_base=check.home, **scores)
    return f"{told} {t('rebase.gives', value=difference(verdict.contrasts[metric].transfer, metric, t), questions=questions(verdict, t))}"


def questions(verdict: Verdict, t: Words) -> str:
    """`200 test questions`, and in how many groups where rows come in groups."""
    told = t.n("score.questions", verdict.n)
    return t("rebase.in_groups", questions=told, n=t.number(verdict.groups)) if verdict.groups is not None else told
