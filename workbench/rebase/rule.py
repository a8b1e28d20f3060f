"""The rule that turns differences with intervals into a word. Every line reads one end of a printed 95 % interval,
so each is a test at 2.5 % and anyone can check it by hand.

Three of its conditions are there because a simulation showed what happens without them (docs/simulation.md):

    works    also needs that harm is ruled out (lower end of transfer above -epsilon). Else a new base that is better by itself hides an
             adapter that harms it, since the user is still served better than before. Absorbed is said when it is shown (upper end of
             kept below 0), not whenever it cannot be ruled out.
    lost     also needs that the user loses (upper end of served below -epsilon). Else an adapter that is not needed is called lost on
             few rows.
    weaker   is said wherever the user loses beyond doubt, also while it is open whether anything of the gain is left: "too close to
             tell" over a copy that lost 85 points of 100 would let it pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from workbench.evidence import SUCCESS
from workbench.rebase.contrasts import Table
from workbench.rebase.result import Contrasts, Settings
from workbench.stats import Interval, rows_to_clear

__all__ = [
    "LINES",
    "Decision",
    "decide",
    "epsilon",
    "leading",
    "points",
    "rows_needed",
]

_COSTS = ("nll_per_token", "bits_per_byte")
_LEFT = 0.1  # of the gain at home, at most: then it is lost


# The lines of the rule, in the order in which they are tried; each has its sentence in the string tables.
LINES = ("gain", "break", "harm", "alone", "served", "unharmed", "lost", "weaker", "worse", "open")


@dataclass(frozen=True)
class Decision:
    """The word, the metric that decided, and the line of the rule that matched."""

    word: str
    metric: str
    line: str  # one of LINES
    absorbed: bool = False


def epsilon(metric: str, settings: Settings) -> float:
    return settings.epsilon if metric in SUCCESS else settings.epsilon_nll


def leading(metrics: Sequence[str], contrasts: Mapping[str, Contrasts]) -> str | None:
    """The first of those that was compared."""
    return next((name for name in metrics if name in contrasts), None)


def decide(contrasts: Mapping[str, Contrasts], settings: Settings, *, breaks: bool = False) -> Decision:
    """The first line that matches. Unknown ends of intervals (one row) match nothing."""
    success, cost = leading(SUCCESS, contrasts), leading(_COSTS, contrasts)
    metric = next((name for name in (success, cost) if name and contrasts[name].gain.least > epsilon(name, settings)), None)
    if metric is None:
        return Decision("no gain at home", success or cost or "", "gain")
    if breaks:
        return Decision("cannot load", metric, "break")
    for name in (metric, *(other for other in (success, cost) if other and other != metric)):
        if contrasts[name].transfer.most < -epsilon(name, settings):
            return Decision("does harm", name, "harm")
    c, limit = contrasts[metric], epsilon(metric, settings)
    if c.alone.least > -limit and c.transfer.most <= limit:
        return Decision("not needed", metric, "alone")
    if c.served.least > -limit:
        # success is no guard where NLL decides: there the adapter never gained in it, and text has none
        if all(contrasts[name].transfer.least > -epsilon(name, settings) for name in {metric, cost} if name):
            return Decision("works", metric, "served", absorbed=c.kept.most < 0)
        return Decision("too close to tell", metric, "unharmed")
    if c.served.most < -limit:
        if c.transfer.most < max(limit, _LEFT * c.gain.least):
            return Decision("lost", metric, "lost")
        return Decision("weaker", metric, "weaker" if c.transfer.least > 0 else "worse")
    return Decision("too close to tell", metric, "open")


def points(contrasts: Mapping[str, Contrasts]) -> dict[str, Contrasts]:
    """The same differences as if they were known exactly."""
    ends = {metric: {f.name: getattr(c, f.name).value for f in fields(Contrasts)} for metric, c in contrasts.items()}
    return {metric: Contrasts(**{name: Interval(v, v, v, "none") for name, v in values.items()}) for metric, values in ends.items()}


def rows_needed(table: Table, settings: Settings) -> int | None:
    """Test rows that would settle it, if the true differences are those seen (80 % power). None when a difference sits on its limit,
    where no number of rows tells."""
    contrasts = table.contrasts
    truth = decide(points(contrasts), settings)
    metric, cost = truth.metric, leading(_COSTS, contrasts) or truth.metric
    limit = epsilon(metric, settings)
    left = max(limit, _LEFT * contrasts[metric].gain.value)
    wanted = {  # word -> [(metric, difference, what to clear, whether from below)]
        "works": [
            (metric, "served", -limit, False),
            (metric, "transfer", -limit, False),
            (cost, "transfer", -epsilon(cost, settings), False),
        ],
        "not needed": [(metric, "alone", -limit, False), (metric, "transfer", limit, True)],
        "lost": [(metric, "transfer", left, True), (metric, "served", -limit, True)],
        "weaker": [(metric, "transfer", 0.0, False), (metric, "served", -limit, True)],
        "does harm": [(metric, "transfer", -limit, True)],
    }
    if truth.word not in wanted:
        return None
    needs = [
        rows_to_clear(table.estimates[name][key], end, below=below, level=settings.level) for name, key, end, below in wanted[truth.word]
    ]
    known = [need for need in needs if need is not None]
    return max(*known, table.n + 1) if len(known) == len(needs) else None
