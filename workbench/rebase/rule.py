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

from collections.abc import Mapping
from dataclasses import dataclass, fields

from workbench.evidence import SUCCESS
from workbench.rebase.contrasts import Table
from workbench.rebase.result import Contrasts, Settings
from workbench.stats import Interval, rows_to_clear

__all__ = [
    "Decision",
    "aside",
    "because",
    "decide",
    "epsilon",
    "points",
    "rows_needed",
    "score",
    "span",
    "success_metric",
]

_COSTS = ("nll_per_token", "bits_per_byte")
_LEFT = 0.1  # of the gain at home, at most: then it is lost


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


def _cost_metric(contrasts: Mapping[str, Contrasts]) -> str | None:
    return next((name for name in _COSTS if name in contrasts), None)


def decide(contrasts: Mapping[str, Contrasts], settings: Settings, *, breaks: bool = False) -> Decision:
    """The first line that matches. Unknown ends of intervals (one row) match nothing."""
    success, cost = success_metric(contrasts), _cost_metric(contrasts)
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
    metric, cost = truth.metric, _cost_metric(contrasts) or truth.metric
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


# ---------------------------------------------------------------- words


def score(metric: str, value: float) -> str:
    """`92.5 %`, `0.431 nats a token`."""
    return f"{100 * value:.1f} %" if metric in SUCCESS else f"{value:.3f} {_unit(metric)}"


def span(metric: str, interval: Interval) -> str:
    """`-1.5 points (95 % interval -3.2 to +0.1)`."""
    scale, digits, unit = (100, 1, "points") if metric in SUCCESS else (1, 3, _unit(metric))
    value = f"{interval.value * scale:+.{digits}f} {unit}"
    if interval.low is None or interval.high is None:
        return f"{value} (one row gives no interval)"
    return f"{value} (95 % interval {interval.low * scale:+.{digits}f} to {interval.high * scale:+.{digits}f})"


def aside(metric: str, interval: Interval) -> str:
    """The same inside parentheses: `-1.5 points, 95 % interval -3.2 to +0.1`."""
    return span(metric, interval).replace(" (", ", ").removesuffix(")")


def _unit(metric: str) -> str:
    return "nats a token" if metric == "nll_per_token" else "bits a byte"


def amount(metric: str, value: float) -> str:
    return f"{100 * value:.1f} points" if metric in SUCCESS else f"{value:.3f} {_unit(metric)}"


def because(
    decision: Decision, contrasts: Mapping[str, Contrasts], arms: Mapping[str, Mapping[str, float]], n: int, settings: Settings
) -> str:
    """One sentence: the line of the rule that matched, with raw scores and intervals."""
    m = decision.metric
    c, limit = contrasts[m], amount(m, epsilon(m, settings))
    scores = {arm: score(m, values[m]) for arm, values in arms.items()}
    rows = f"on {n:,} test rows"
    home = f"at home {scores['home_adapter']} with the adapter and {scores['home']} without it"
    new = f"the new base scores {scores['new_adapter']} with the adapter and {scores['new']} without it" if "new_adapter" in scores else ""
    lines = {
        "gain": f"{rows}, {home}: a gain of {span(m, c.gain)} is not shown to exceed {limit}, so there is nothing to carry over",
        "break": f"{rows}, {home}: a gain of {span(m, c.gain)}, but it cannot be loaded on the new base",
        "harm": f"{rows}, {new}: {span(m, c.transfer)}, so it does harm beyond the limit of {limit}",
        "alone": f"{rows}, {new}, and {home}: the new base alone is at most {limit} worse than the adapter was ({aside(m, c.alone)}), "
        f"and the adapter adds no more than that to it ({aside(m, c.transfer)})",
        "served": f"{rows}, {new}, and {home}: the user sees {span(m, c.served)}, a loss of no more than {limit}{_kept(decision, c)}",
        "lost": f"{rows}, {new}: {span(m, c.transfer)}, against {span(m, c.gain)} at home, so at most a tenth of its gain, "
        f"or {limit}, is left, and the user loses more than {limit} ({aside(m, c.served)})",
        "weaker": f"{rows}, {new}: it still helps ({aside(m, c.transfer)}), but the user loses more than {limit} against home "
        f"({aside(m, c.served)})",
        "worse": f"{rows}, {new}: the user loses more than {limit} against home ({aside(m, c.served)}), and it takes more rows to say "
        f"whether anything is left of its gain ({aside(m, c.transfer)})",
        "unharmed": f"{rows}, {new}: the user loses no more than {limit} ({aside(m, c.served)}), but that the adapter makes the new base "
        f"worse is not ruled out ({_harms(contrasts)})",
        "open": f"{rows}, {new}, and {home}: the user sees {span(m, c.served)}, the adapter gives {span(m, c.transfer)}; "
        f"the intervals cross the limit of {limit}",
    }
    text = lines[decision.line]
    return text[0].upper() + text[1:] + "."


def _kept(decision: Decision, c: Contrasts) -> str:
    m = decision.metric
    gains = f"its gain is {span(m, c.transfer)} now, {span(m, c.gain)} at home"
    if decision.absorbed:
        return f"; the new base already knew part of it: {gains}"
    return f"; {gains}" if c.kept.least > 0 else f"; {gains}, too few rows to say how much of it the new base knew already"


def _harms(contrasts: Mapping[str, Contrasts]) -> str:
    return "; ".join(aside(name, c.transfer) for name, c in contrasts.items() if name != "exact_match" or "right" not in contrasts)
