"""How often the rule errs: thousands of synthetic test sets per true state (states.py), each given to the rule.

    python -m benchmarks.simulate               a minute or two on one core; make tables writes docs/simulation.md
    python -m benchmarks.simulate --quick       200 sets of 50 and 400 rows: a look, no figures to quote

A test set of 0/1 scores is one multinomial draw of row outcomes, and a difference's bootstrap distribution follows from its counts
alone: the sum of n draws of -1, 0, +1, computed here exactly instead of by resampling (what `verdict.judge` estimates with 5,000
draws). Loss states are row by row, with real resampling. Two things are normal approximations: `kept` of 0/1 scores with enough
flips (only the mark "absorbed" rests on it), and the loss beside a success score. The decisions are `rule.decide`'s own.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.states import STATES, WRONG, State
from workbench.cli.output import say, table
from workbench.rebase.contrasts import differences
from workbench.rebase.result import Contrasts, Settings
from workbench.rebase.rule import Decision, decide, points
from workbench.stats import FEW, SMALL, Interval, bounds, exact_sum, flip_interval, weights

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[int, int]

__all__ = ["RULES", "SIZES", "Error", "Outcome", "Table", "loss_intervals", "simulate", "success_intervals", "truth"]

SIZES = (50, 100, 400, 1000)
RULES = {"rule": "the rule", "points": "the same on point estimates"}
_SETTINGS = Settings(resamples=1000)
_DIFFERENCES = differences(_SETTINGS.delta)
_WEIGHTS = {name: weights(parts, 4) for name, parts in _DIFFERENCES.items()}
_SIMPLE = {name: next(iter(parts)) for name, parts in _DIFFERENCES.items() if len(parts) == 1}  # all but kept
_KEPT = _DIFFERENCES["kept"]


@dataclass(frozen=True)
class Outcome:
    """What each rule said over all test sets of one state and size, as shares."""

    state: str
    limit: bool  # on a limit of the rule: no word is plainly true
    n: int
    true: str  # the word that is true
    absorbed: bool  # whether that is true
    words: dict[str, dict[str, float]]  # rule -> word -> share of the test sets


@dataclass(frozen=True)
class Error:
    """How often a wrong word is given, over the states and sizes where it is wrong."""

    mean: float
    worst: float
    where: str  # the state and size of the worst


@dataclass(frozen=True)
class Table:
    """All outcomes, and the two errors that matter: "works" given to an adapter that is truly lost or does harm, and an alarm
    ("weaker", "lost", "does harm") over one that truly works or is not needed."""

    sets: int
    outcomes: tuple[Outcome, ...]
    seconds: float

    def false_works(self, rule: str) -> Error:
        return self._error(rule, {"works"}, {"lost", "does harm"})

    def false_alarm(self, rule: str) -> Error:
        return self._error(rule, {"weaker", "lost", "does harm"}, {"works", "not needed"})

    def _error(self, rule: str, said: set[str], true: set[str]) -> Error:
        shares = [
            (sum(o.words[rule].get(word, 0.0) for word in said), f"{o.state}, n = {o.n}")
            for o in self.outcomes
            if o.true in true and not o.limit
        ]
        worst, where = max(shares, default=(0.0, ""))
        return Error(sum(share for share, _ in shares) / max(1, len(shares)), worst, where)


def simulate(
    sets: int = 2000,
    sizes: Sequence[int] = SIZES,
    *,
    states: Sequence[State] = STATES,
    seed: int = 1,
) -> Table:
    """Give `sets` test sets of each state and size to the rule, and to the same rule on point estimates."""
    started = time.perf_counter()
    outcomes = []
    for state in states:
        for n in sizes:
            rng = np.random.default_rng([seed, n, zlib.crc32(state.name.encode())])
            outcomes.append(_outcome(state, n, _success_sets(state, n, sets, rng) if state.rows else _loss_sets(state, n, sets, rng)))
    return Table(sets, tuple(outcomes), time.perf_counter() - started)


def truth(state: State) -> Decision:
    """What is true in the long run."""
    wrong = [sum(p for bits, p in state.rows.items() if bits[arm] == "0") for arm in range(4)]
    loss = [level + WRONG * share for level, share in zip(state.loss, wrong, strict=True)] if state.rows else list(state.loss)
    metrics = {"nll_per_token": loss, **({"exact_match": wrong} if state.rows else {})}
    exact = {
        # rounded: 0.88 - 0.86 must not end up beyond a limit of 0.02
        metric: Contrasts(**{name: _point(round(float(factors @ levels), 9)) for name, factors in _WEIGHTS.items()})
        for metric, levels in metrics.items()
    }
    return decide(exact, _SETTINGS)


def _point(value: float) -> Interval:
    return Interval(value, value, value, "none")


def _outcome(state: State, n: int, sets: list[dict[str, Contrasts]]) -> Outcome:
    true = truth(state)
    words: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
    for contrasts in sets:
        for rule, decision in (("rule", decide(contrasts, _SETTINGS)), ("points", decide(points(contrasts), _SETTINGS))):
            words[rule][decision.word] += 1
    shares = {rule: {word: count / len(sets) for word, count in counter.most_common()} for rule, counter in words.items()}
    return Outcome(state.name, state.limit, n, true.word, true.absorbed, shares)


# ---------------------------------------------------------------- success


def _success_sets(state: State, n: int, sets: int, rng: np.random.Generator) -> list[dict[str, Contrasts]]:
    bits = np.array([[int(bit) for bit in outcome] for outcome in state.rows])  # [outcomes, 4]
    chances = np.array(list(state.rows.values()))
    counts = rng.multinomial(n, chances / chances.sum(), size=sets)  # [sets, outcomes]
    rates = success_intervals(bits, counts, n)
    noise = rng.normal(0, state.own / np.sqrt(n), (sets, 4))  # the mean of each arm's own spread over n rows
    losses = _losses_beside(state, bits, counts, noise, n)
    return [{"exact_match": rate, "nll_per_token": loss} for rate, loss in zip(rates, losses, strict=True)]


def success_intervals(bits: Ints, counts: Ints, n: int) -> list[Contrasts]:
    """The differences of 0/1 scores for many test sets: outcomes [outcomes, 4] of 0/1 and how often each occurs [sets, outcomes]."""
    flips: dict[Pair, Ints] = {}
    for first, second in _KEPT.keys() | {*_SIMPLE.values()}:
        step = bits[:, second] - bits[:, first]
        flips[first, second] = np.column_stack([counts @ (step > 0), counts @ (step < 0)])
    intervals = {name: _rate_intervals(flips[pair], n) for name, pair in _SIMPLE.items()}
    intervals["kept"] = _kept_intervals(bits, counts, flips, n)
    return [Contrasts(**{name: of[i] for name, of in intervals.items()}) for i in range(len(counts))]


def _rate_intervals(flips: Ints, n: int) -> list[Interval]:
    """One interval per (better, worse) pair, computed once for each distinct pair."""
    distinct, where = np.unique(flips, axis=0, return_inverse=True)
    up, down = distinct[:, 0], distinct[:, 1]
    few = n - np.maximum(np.maximum(up, down), n - up - down) < FEW
    made: list[Interval | None] = [_exact(int(u), int(d), n) if f else None for u, d, f in zip(up, down, few, strict=True)]
    many = np.flatnonzero(~few)
    for start in range(0, len(many), 500):
        part = many[start : start + 500]
        for i, interval in zip(part, _ideal_bootstrap(distinct[part], n), strict=True):
            made[i] = interval
    return [interval for i in where.ravel() if (interval := made[i]) is not None]


@lru_cache(maxsize=200_000)
def _exact(up: int, down: int, n: int) -> Interval:
    return flip_interval(up, down, n)


def _ideal_bootstrap(flips: Ints, n: int) -> list[Interval]:
    """Bootstrap intervals of (up - down) / n as an endless number of resamples would give them.

    A resample's sum has the n-th power of the characteristic function of one draw.
    """
    size = 1 << (2 * n + 1).bit_length()
    up, down = flips[:, :1] / n, flips[:, 1:] / n
    angle = 2j * np.pi * np.arange(size // 2 + 1) / size
    draw = up * np.exp(-angle) + down * np.exp(angle) + (1 - up - down)
    mass = np.fft.irfft(draw**n, size)
    mass = np.concatenate([mass[:, size - n :], mass[:, : n + 1]], axis=1).clip(0)  # sums -n .. n
    reached = np.cumsum(mass, axis=1) / mass.sum(axis=1, keepdims=True)
    sums = np.arange(-n, n + 1) / n
    intervals = []
    for (u, d), chance in zip(flips.tolist(), reached, strict=True):
        value, bca = (u - d) / n, None
        spread = sums[np.searchsorted(chance, (np.arange(2000) + 0.5) / 2000).clip(0, 2 * n)]  # stands for the resamples
        if n < SMALL:
            gains = np.concatenate([np.ones(u), -np.ones(d), np.zeros(n - u - d)])
            bca = value, (gains.sum() - gains) / (n - 1)
        intervals.append(Interval(value, *bounds(spread, bca=bca), "bootstrap" if bca is None else "bootstrap-bca"))
    return intervals


def _kept_intervals(bits: Ints, counts: Ints, flips: dict[Pair, Ints], n: int) -> list[Interval]:
    large = {pair: factor for pair, factor in _KEPT.items() if factor == max(_KEPT.values())}
    change, factors = ((1 - bits) @ weights(parts, 4) for parts in (large, _KEPT))
    value = counts @ factors / n
    half = 1.96 * np.sqrt((counts @ factors**2 / n - value**2).clip(0) / n)
    few = _few(change, counts, n) | _few(np.round(factors, 9), counts, n)
    intervals = [Interval(v, v - h, v + h, "bootstrap") for v, h in zip(value.tolist(), half.tolist(), strict=True)]
    for i in np.flatnonzero(few):
        rows = tuple((int(flips[pair][i, 0]), int(flips[pair][i, 1])) for pair in _KEPT)
        intervals[i] = _careful(rows, n, float(value[i]))
    return intervals


def _few(values: NDArray[Any], counts: Ints, n: int) -> Any:
    """Which test sets have fewer than FEW rows off the commonest value: [sets] of bool."""
    each = np.stack([counts @ (values == value) for value in np.unique(values)], axis=1)
    return n - each.max(axis=1) < FEW


@lru_cache(maxsize=200_000)
def _careful(rows: tuple[tuple[int, int], ...], n: int, value: float) -> Interval:
    return exact_sum(zip(_KEPT.values(), rows, strict=True), value, n)


def _losses_beside(state: State, bits: Ints, counts: Ints, noise: Floats, n: int) -> list[Contrasts]:
    """The loss of success states: the arm's own level, WRONG more for wrong answers, and noise. Means with normal intervals."""
    ends: dict[str, list[tuple[float, float, float]]] = {}
    for name, w in _WEIGHTS.items():
        row = WRONG * ((1 - bits) @ w)
        mean = counts @ row / n
        error = np.sqrt(((counts @ row**2 / n - mean**2).clip(0) + state.own**2 * float(w @ w)) / n)
        value = mean + float(w @ np.array(state.loss)) + noise @ w
        ends[name] = list(zip(value.tolist(), (value - 1.96 * error).tolist(), (value + 1.96 * error).tolist(), strict=True))
    return _from_ends(ends, len(counts))


# ---------------------------------------------------------------- loss


def _loss_sets(state: State, n: int, sets: int, rng: np.random.Generator) -> list[dict[str, Contrasts]]:
    """Test sets of text: no exact answer in any arm, losses with a skewed spread that the arms share, and their own."""
    shape = 1 / state.shared**2
    shared = rng.gamma(shape, 1 / shape, (n, sets, 1)).astype(np.float32)
    losses = shared * np.array(state.loss, dtype=np.float32) + rng.normal(0, state.own, (n, sets, 4)).astype(np.float32)
    contrasts = loss_intervals(losses)
    nothing = success_intervals(np.zeros((1, 4), dtype=np.int64), np.array([[n]]), n)[0]
    return [{"exact_match": nothing, "nll_per_token": loss} for loss in contrasts]


@lru_cache(maxsize=8)
def _draws(n: int) -> Any:
    """How often each of n rows is drawn in each resample, as shares: [resamples, n]. The same for all test sets, as in `judge`."""
    rng = np.random.Generator(np.random.Philox(_SETTINGS.seed))
    drawn = rng.integers(0, n, size=(_SETTINGS.resamples, n)) + np.arange(_SETTINGS.resamples)[:, None] * n
    return (np.bincount(drawn.ravel(), minlength=n * _SETTINGS.resamples).reshape(-1, n) / n).astype(np.float32)


def loss_intervals(losses: NDArray[np.float32]) -> list[Contrasts]:
    """The differences of losses for many test sets: [rows, sets, 4 arms], all rows with as many tokens."""
    n, sets, _ = losses.shape
    resampled = np.tensordot(_draws(n), losses, axes=1)  # [resamples, sets, 4]
    ends: dict[str, list[tuple[float, float, float]]] = {}
    for name, factors in _WEIGHTS.items():
        rows, draws = losses @ factors.astype(np.float32), resampled @ factors.astype(np.float32)
        value = rows.mean(axis=0)
        without = (rows.sum(axis=0) - rows) / (n - 1)
        pairs = [bounds(draws[:, i], bca=(float(value[i]), without[:, i]) if n < SMALL else None) for i in range(sets)]
        ends[name] = [(float(v), low, high) for v, (low, high) in zip(value, pairs, strict=True)]
    return _from_ends(ends, sets)


def _from_ends(ends: dict[str, list[tuple[float, float, float]]], sets: int) -> list[Contrasts]:
    return [Contrasts(**{name: Interval(*of[i], "bootstrap") for name, of in ends.items()}) for i in range(sets)]


# ---------------------------------------------------------------- the tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000, help="synthetic test sets per true state and size")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    result = simulate(200 if given.quick else given.sets, (50, 400) if given.quick else SIZES)
    say(f"{result.sets:,} synthetic test sets per line. Shares in per cent; 'absorbed' is counted with 'works'.")
    say()
    rows = [(o.state, _true(o), f"{o.n:,}", *(_said(o, rule) for rule in RULES)) for o in result.outcomes]
    table(("true state", "truth", "rows", *RULES.values()), rows, right=("rows",))
    say()
    _print_errors(result)
    say()
    say(f"{result.seconds:.0f} s. On a limit no word is plainly true; there 'works' and 'weaker' are each allowed 2.5 %.")


def _true(outcome: Outcome) -> str:
    return "on a limit" if outcome.limit else outcome.true + (" (absorbed)" if outcome.absorbed else "")


def _said(outcome: Outcome, rule: str) -> str:
    return " · ".join(f"{word} {100 * share:.1f}" for word, share in outcome.words[rule].items())


def _print_errors(result: Table) -> None:
    rows = []
    for title, error_of in (
        ("'works' given to one truly lost or harmful", result.false_works),
        ("'weaker', 'lost' or 'does harm' given to one that truly works or is not needed", result.false_alarm),
    ):
        for rule, name in RULES.items():
            error = error_of(rule)
            rows.append((title, name, f"{100 * error.mean:.2f} %", f"{100 * error.worst:.1f} %", error.where))
            title = ""
    table(("error", "rule", "mean", "worst", "where"), rows, right=("mean", "worst"))


if __name__ == "__main__":
    main()
