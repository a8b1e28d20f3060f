"""The rule that turns differences with intervals into a word. Every line reads one end of a printed 95 % interval,
so each is a test at 2.5 % and anyone can check it by hand.

Two versions, which `workbench rebase simulate` compares:

    "first"    as it was first written: works when the lower bound of served is above -epsilon; absorbed unless kept is shown
               to be positive
    "guarded"  the default. Works also needs that harm is ruled out (lower bound of transfer above -epsilon): without it a new base
               that is better by itself hides an adapter that harms it, since the user is still served better than before. And absorbed is
               said when it is shown (upper bound of kept below 0), not whenever it cannot be ruled out. And lost also needs that the
               user loses (upper bound of served below -epsilon): without it an adapter that is not needed is called lost on few rows.
               And weaker is said wherever the user loses beyond doubt, also while it is open whether anything of the gain is
               left: "too close to tell" over a copy that lost 85 points of 100 would let it pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from workbench.evidence import Interval, exact_gain
from workbench.rebase.contrasts import Table
from workbench.rebase.result import Contrasts, Settings

__all__ = [
    "RULES",
    "SUCCESS",
    "Decision",
    "decide",
    "epsilon",
    "points",
    "rows_needed",
    "success_metric",
]

RULES = ("guarded", "first")
SUCCESS = ("right", "exact_match")  # in order of preference
_COSTS = ("nll_per_token", "bits_per_byte")
_POWER = (1.96 + 0.84) ** 2  # 80 % power at a one-sided 2.5 %


@dataclass(frozen=True)
class Decision:
    """The word, the metric that decided, and the line of the rule that matched."""

    word: str
    metric: str
    line: str  # "gain" | "break" | "harm" | "alone" | "served" | "lost" | "weaker" | "worse" | "unharmed" | "open"
    absorbed: bool = False


def epsilon(metric: str, settings: Settings) -> float:
    return settings.epsilon if metric in SUCCESS else settings.epsilon_nll


def success_metric(contrasts: Mapping[str, Contrasts]) -> str | None:
    return next((name for name in SUCCESS if name in contrasts), None)


def decide(contrasts: Mapping[str, Contrasts], settings: Settings, *, breaks: bool = False, rule: str = "guarded") -> Decision:
    """The first line that matches. Unknown ends of intervals (one row) match nothing."""
    success, cost = success_metric(contrasts), next((name for name in _COSTS if name in contrasts), None)
    metric = next((name for name in (success, cost) if name and low(contrasts[name].gain) > epsilon(name, settings)), None)
    if metric is None:
        return Decision("no gain at home", success or cost or "", "gain")
    if breaks:
        return Decision("cannot load", metric, "break")
    for name in (metric, *(other for other in (success, cost) if other and other != metric)):
        if high(contrasts[name].transfer) < -epsilon(name, settings):
            return Decision("does harm", name, "harm")
    c, limit = contrasts[metric], epsilon(metric, settings)
    if low(c.alone) > -limit and high(c.transfer) <= limit:
        return Decision("not needed", metric, "alone")
    if low(c.served) > -limit:
        absorbed = low(c.kept) <= 0 if rule == "first" else high(c.kept) < 0
        # success is no guard where NLL decides: there the adapter never gained in it, and text has none
        guards = {name for name in (metric, cost) if name} if rule == "guarded" else set()
        if all(low(contrasts[name].transfer) > -epsilon(name, settings) for name in guards):
            return Decision("works", metric, "served", absorbed)
        return Decision("too close to tell", metric, "unharmed")
    loses = rule == "first" or high(c.served) < -limit
    if high(c.transfer) < max(limit, 0.1 * low(c.gain)) and loses:
        return Decision("lost", metric, "lost")
    if low(c.transfer) > 0 and high(c.served) < -limit:
        return Decision("weaker", metric, "weaker")
    if rule == "guarded" and high(c.served) < -limit:
        return Decision("weaker", metric, "worse")
    return Decision("too close to tell", metric, "open")


def points(contrasts: Mapping[str, Contrasts]) -> dict[str, Contrasts]:
    """The same differences as if they were known exactly: what a rule on point estimates looks at."""
    ends = {name: {k: getattr(c, k).value for k in ("gain", "transfer", "served", "alone", "kept")} for name, c in contrasts.items()}
    return {name: Contrasts(**{k: Interval(v, v, v, "none") for k, v in values.items()}) for name, values in ends.items()}


def low(interval: Interval) -> float:
    return -math.inf if interval.low is None else interval.low


def high(interval: Interval) -> float:
    return math.inf if interval.high is None else interval.high


# ---------------------------------------------------------------- how many rows


def rows_needed(table: Table, settings: Settings) -> int | None:
    """Test rows that would settle it, if the true differences are those seen (80 % power; without a flip the smallest n that
    rules out epsilon: 183 for two points). None when a difference sits on its limit, where no number of rows tells."""
    truth = decide(points(table.contrasts), settings)
    metric, cost = truth.metric, next((name for name in _COSTS if name in table.contrasts), truth.metric)
    c, limit = table.contrasts[metric], epsilon(metric, settings)
    wanted = {  # word -> [(metric, difference, what to clear, +1 from above or -1 from below)]
        "works": [(metric, "served", -limit, 1), (metric, "transfer", -limit, 1), (cost, "transfer", -epsilon(cost, settings), 1)],
        "not needed": [(metric, "alone", -limit, 1), (metric, "transfer", limit, -1)],
        "lost": [(metric, "transfer", max(limit, 0.1 * c.gain.value), -1), (metric, "served", -limit, -1)],
        "weaker": [(metric, "transfer", 0.0, 1), (metric, "served", -limit, -1)],
        "does harm": [(metric, "transfer", -limit, -1)],
    }
    if truth.word not in wanted:
        return None
    needs = [_rows_for(table, *want, settings) for want in wanted[truth.word]]
    known = [need for need in needs if need is not None]
    return max(*known, table.n + 1) if len(known) == len(needs) else None


def _rows_for(table: Table, metric: str, name: str, limit: float, side: int, settings: Settings) -> int | None:
    interval: Interval = getattr(table.contrasts[metric], name)
    distance = side * (interval.value - limit)
    if distance <= 0:
        return None
    if name in table.draws.get(metric, {}):
        deviation = float(table.draws[metric][name].std())
        return math.ceil(table.n * _POWER * (deviation / distance) ** 2)
    if metric not in table.flips:
        return None  # one unit: nothing is known about its variance
    up, down = table.flips[metric][name]

    def clear(n: int) -> bool:
        grown = exact_gain(up * n / table.n, down * n / table.n, n, units=n * table.units / table.n, level=settings.level)
        return low(grown) > limit if side > 0 else high(grown) < limit

    smallest, largest = 0, 1
    while not clear(largest):
        smallest, largest = largest, 2 * largest
        if largest > 10_000_000:
            return None
    while largest - smallest > 1:
        middle = (smallest + largest) // 2
        smallest, largest = (smallest, middle) if clear(middle) else (middle, largest)
    return largest
