"""How often the rule errs: thousands of synthetic test sets per true state (states.py), each given to the rule.

A test set of 0/1 scores is one multinomial draw of row outcomes, and a difference's bootstrap distribution follows from its counts
alone: the sum of n draws of -1, 0, +1, computed here exactly instead of by resampling (what `verdict.judge` estimates with 5,000
draws). Loss states are row by row, with real resampling. Two things are normal approximations: `kept` of 0/1 scores with enough
flips (only the mark "absorbed" rests on it), and the loss beside a success score. The decisions are `rule.decide`'s own.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from workbench.evidence import FEW, SMALL, Interval, bca_tails, exact_gain
from workbench.rebase.contrasts import PAIRS, careful_kept, weights
from workbench.rebase.result import Contrasts, Settings
from workbench.rebase.rule import Decision, decide, points
from workbench.rebase.states import STATES, WRONG, State
from workbench.records import as_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["RULES", "SIZES", "Error", "Outcome", "Table", "loss_intervals", "simulate", "success_intervals", "truth"]

SIZES = (50, 100, 400, 1000)
RULES = ("guarded", "first", "points")
_SETTINGS = Settings(resamples=1000)
_CHECKED = ("gain", "transfer", "served", "alone", "kept")


@dataclass(frozen=True)
class Outcome:
    """What each rule said over all test sets of one state and size, as shares."""

    state: str
    limit: bool  # on a limit of the rule: no word is plainly true
    n: int
    true: str  # the word that is true
    absorbed: bool  # whether that is true
    words: dict[str, dict[str, float]]  # rule -> word -> share of the test sets
    called_absorbed: dict[str, float]  # rule -> share of the test sets called "works (absorbed)"


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
        found = [
            (sum(o.words[rule].get(word, 0.0) for word in said), f"{o.state}, n = {o.n}")
            for o in self.outcomes
            if o.true in true and not o.limit
        ]
        worst, where = max(found, default=(0.0, ""))
        return Error(sum(share for share, _ in found) / max(1, len(found)), worst, where)

    def as_dict(self) -> dict[str, Any]:
        data: dict[str, Any] = as_json(self)
        errors = {"false_works": self.false_works, "false_alarm": self.false_alarm}
        return {**data, **{key: {rule: as_json(error(rule)) for rule in RULES} for key, error in errors.items()}}


def simulate(
    sets: int = 2000,
    sizes: Sequence[int] = SIZES,
    *,
    states: Sequence[State] = STATES,
    seed: int = 1,
    report: Callable[[str], None] | None = None,
) -> Table:
    """Give `sets` test sets of each state and size to the rule, to the rule as first written, and to that on point estimates."""
    import numpy as np

    started = time.perf_counter()
    outcomes = []
    for state in states:
        for n in sizes:
            if report is not None:
                report(f"{state.name}, n = {n}")
            rng = np.random.default_rng([seed, n, zlib.crc32(state.name.encode())])
            outcomes.append(_outcome(state, n, _success_sets(state, n, sets, rng) if state.rows else _loss_sets(state, n, sets, rng)))
    return Table(sets, tuple(outcomes), time.perf_counter() - started)


def truth(state: State) -> Decision:
    """What is true in the long run."""
    factors = weights(_SETTINGS.delta)
    wrong = [sum(p for bits, p in state.rows.items() if bits[arm] == "0") for arm in range(4)]
    loss = [level + WRONG * share for level, share in zip(state.loss, wrong, strict=True)] if state.rows else list(state.loss)
    metrics = {"nll_per_token": loss, **({"exact_match": wrong} if state.rows else {})}
    exact = {
        # rounded: 0.88 - 0.86 must not end up beyond a limit of 0.02
        metric: Contrasts(**{k: _point(round(sum(a * b for a, b in zip(w, levels, strict=True)), 9)) for k, w in factors.items()})
        for metric, levels in metrics.items()
    }
    return decide(exact, _SETTINGS)


def _point(value: float) -> Interval:
    return Interval(value, value, value, "none")


def _outcome(state: State, n: int, found: list[dict[str, Contrasts]]) -> Outcome:
    true = truth(state)
    words: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
    absorbed: Counter[str] = Counter()
    for contrasts in found:
        given = {
            "guarded": decide(contrasts, _SETTINGS),
            "first": decide(contrasts, _SETTINGS, rule="first"),
            "points": decide(points(contrasts), _SETTINGS, rule="first"),
        }
        for rule, decision in given.items():
            words[rule][decision.word] += 1
            absorbed[rule] += decision.word == "works" and decision.absorbed
    shares = {rule: {word: count / len(found) for word, count in counter.most_common()} for rule, counter in words.items()}
    called = {rule: absorbed[rule] / len(found) for rule in RULES}
    return Outcome(state.name, state.limit, n, true.word, true.absorbed, shares, called)


# ---------------------------------------------------------------- success


def _success_sets(state: State, n: int, sets: int, rng: np.random.Generator) -> list[dict[str, Contrasts]]:
    import numpy as np

    bits = np.array([[int(bit) for bit in outcome] for outcome in state.rows])  # [outcomes, 4]
    chances = np.array(list(state.rows.values()))
    counts = rng.multinomial(n, chances / chances.sum(), size=sets)  # [sets, outcomes]
    rates = success_intervals(bits, counts, n)
    noise = rng.normal(0, state.own / np.sqrt(n), (sets, 4))  # the mean of each arm's own spread over n rows
    found = []
    losses = _losses_beside(state, bits, counts, noise, n)
    for i in range(sets):
        found.append({"exact_match": rates[i], "nll_per_token": losses[i]})
    return found


def success_intervals(bits: Ints, counts: Ints, n: int) -> list[Contrasts]:
    """The differences of 0/1 scores for many test sets: outcomes [outcomes, 4] of 0/1 and how often each occurs [sets, outcomes]."""
    import numpy as np

    flips: dict[str, Ints] = {}
    for name, (first, second) in {**PAIRS, "bases": (2, 0)}.items():
        step = bits[:, second] - bits[:, first]
        flips[name] = np.column_stack([counts @ (step > 0), counts @ (step < 0)])
    intervals = {name: _rate_intervals(flips[name], n) for name in PAIRS}
    kept = _kept_intervals(bits, counts, flips, n)
    return [Contrasts(**{name: intervals[name][i] for name in PAIRS}, kept=kept[i]) for i in range(len(counts))]


def _rate_intervals(flips: Ints, n: int) -> list[Interval]:
    """One interval per (better, worse) pair, computed once for each distinct pair."""
    import numpy as np

    distinct, where = np.unique(flips, axis=0, return_inverse=True)
    up, down = distinct[:, 0], distinct[:, 1]
    few = n - np.maximum(np.maximum(up, down), n - up - down) < FEW
    made: list[Interval | None] = [_exact(int(u), int(d), n) if f else None for u, d, f in zip(up, down, few, strict=True)]
    many = np.flatnonzero(~few)
    for start in range(0, len(many), 500):
        part = many[start : start + 500]
        for i, interval in zip(part, _ideal_bootstrap(distinct[part], n), strict=True):
            made[i] = interval
    return [one for i in where.ravel() if (one := made[i]) is not None]


@lru_cache(maxsize=200_000)
def _exact(up: int, down: int, n: int) -> Interval:
    return exact_gain(up, down, n)


def _ideal_bootstrap(flips: Ints, n: int) -> list[Interval]:
    """Bootstrap intervals of (up - down) / n as an endless number of resamples would give them.

    A resample's sum has the n-th power of the characteristic function of one draw.
    """
    import numpy as np

    size = 1 << (2 * n + 1).bit_length()
    up, down = flips[:, :1] / n, flips[:, 1:] / n
    angle = 2j * np.pi * np.arange(size // 2 + 1) / size
    one = up * np.exp(-angle) + down * np.exp(angle) + (1 - up - down)
    mass = np.fft.irfft(one**n, size)
    mass = np.concatenate([mass[:, size - n :], mass[:, : n + 1]], axis=1).clip(0)  # sums -n .. n
    reached = np.cumsum(mass, axis=1) / mass.sum(axis=1, keepdims=True)
    sums = np.arange(-n, n + 1) / n
    found = []
    for (u, d), chance in zip(flips.tolist(), reached, strict=True):
        value, tails, method = (u - d) / n, (0.025, 0.975), "bootstrap"
        if n < SMALL:
            spread = sums[np.searchsorted(chance, (np.arange(2000) + 0.5) / 2000)]  # stands for the resamples
            gains = np.concatenate([np.ones(u), -np.ones(d), np.zeros(n - u - d)])
            tails, method = bca_tails(spread, value, (gains.sum() - gains) / (n - 1), tails), "bootstrap-bca"
        low, high = sums[np.searchsorted(chance, np.array(tails)).clip(0, 2 * n)]
        found.append(Interval(value, float(low), float(high), method))
    return found


def _kept_intervals(bits: Ints, counts: Ints, flips: dict[str, Ints], n: int) -> list[Interval]:
    import numpy as np

    step = np.array([-1.0, 1.0, 1.0, -1.0]) @ (1 - bits.T)  # transfer - gain of each outcome
    factors = np.array(weights(_SETTINGS.delta)["kept"]) @ (1 - bits.T)
    value = counts @ factors / n
    half = 1.96 * np.sqrt((counts @ factors**2 / n - value**2).clip(0) / n)
    few = _few(step, counts, n) | _few(np.round(factors, 9), counts, n)
    plain = zip(value.tolist(), half.tolist(), strict=True)
    found = [Interval(v, v - h, v + h, "bootstrap") for v, h in plain]
    for i in np.flatnonzero(few):
        rows = tuple(tuple(int(c) for c in flips[name][i]) for name in ("served", "bases", "gain"))
        found[i] = _careful(rows, n, float(value[i]))
    return found


def _few(values: NDArray[Any], counts: Ints, n: int) -> Any:
    """Which test sets have fewer than FEW rows off the commonest value: [sets] of bool."""
    import numpy as np

    each = np.stack([counts @ (values == value) for value in np.unique(values)], axis=1)
    return n - each.max(axis=1) < FEW


@lru_cache(maxsize=200_000)
def _careful(rows: tuple[tuple[int, ...], ...], n: int, value: float) -> Interval:
    flips = {name: (pair[0], pair[1]) for name, pair in zip(("served", "bases", "gain"), rows, strict=True)}
    return careful_kept(flips, n, n, _SETTINGS, value)


def _losses_beside(state: State, bits: Ints, counts: Ints, noise: Floats, n: int) -> list[Contrasts]:
    """The loss of success states: the arm's own level, WRONG more for wrong answers, and noise. Means with normal intervals."""
    import numpy as np

    ends: dict[str, list[tuple[float, float, float]]] = {}
    for name, weight in weights(_SETTINGS.delta).items():
        w = np.array(weight)
        row = WRONG * ((1 - bits) @ w)
        mean = counts @ row / n
        error = np.sqrt(((counts @ row**2 / n - mean**2).clip(0) + state.own**2 * float(w @ w)) / n)
        value = mean + float(w @ np.array(state.loss)) + noise @ w
        ends[name] = list(zip(value.tolist(), (value - 1.96 * error).tolist(), (value + 1.96 * error).tolist(), strict=True))
    return _from_ends(ends, len(counts))


# ---------------------------------------------------------------- loss


def _loss_sets(state: State, n: int, sets: int, rng: np.random.Generator) -> list[dict[str, Contrasts]]:
    """Test sets of text: no exact answer in any arm, losses with a skewed spread that the arms share, and their own."""
    import numpy as np

    shape = 1 / state.shared**2
    shared = rng.gamma(shape, 1 / shape, (n, sets, 1)).astype(np.float32)
    losses = shared * np.array(state.loss, dtype=np.float32) + rng.normal(0, state.own, (n, sets, 4)).astype(np.float32)
    contrasts = loss_intervals(losses)
    nothing = success_intervals(np.zeros((1, 4), dtype=np.int64), np.array([[n]]), n)[0]
    return [{"exact_match": nothing, "nll_per_token": one} for one in contrasts]


@lru_cache(maxsize=8)
def _draws(n: int) -> Any:
    """How often each of n rows is drawn in each resample, as shares: [resamples, n]. The same for all test sets, as in `judge`."""
    import numpy as np

    rng = np.random.Generator(np.random.Philox(_SETTINGS.seed))
    drawn = rng.integers(0, n, size=(_SETTINGS.resamples, n)) + np.arange(_SETTINGS.resamples)[:, None] * n
    return (np.bincount(drawn.ravel(), minlength=n * _SETTINGS.resamples).reshape(-1, n) / n).astype(np.float32)


def loss_intervals(losses: NDArray[np.float32]) -> list[Contrasts]:
    """The differences of losses for many test sets: [rows, sets, 4 arms], all rows with as many tokens."""
    import numpy as np

    n, sets, _ = losses.shape
    basis = np.stack([losses[:, :, a] - losses[:, :, b] for a, b in (PAIRS["gain"], PAIRS["transfer"], PAIRS["served"])])  # [3, n, sets]
    resampled = [_draws(n) @ part for part in basis]
    parts = {"gain": (1, 0, 0), "transfer": (0, 1, 0), "served": (0, 0, 1), "alone": (0, -1, 1), "kept": (-(1 - _SETTINGS.delta), 1, 0)}
    ends: dict[str, list[tuple[float, float, float]]] = {}
    for name, factors in parts.items():
        chosen = [(factor, k) for k, factor in enumerate(factors) if factor]
        rows = sum(factor * basis[k] for factor, k in chosen)
        draws = sum(factor * resampled[k] for factor, k in chosen)
        value = np.asarray(rows).mean(axis=0)
        if n < SMALL:
            pairs = [_bca(np.asarray(draws)[:, i], np.asarray(rows)[:, i]) for i in range(sets)]
        else:
            pairs = np.quantile(np.asarray(draws), (0.025, 0.975), axis=0).T.tolist()
        ends[name] = [(float(v), float(low), float(high)) for v, (low, high) in zip(value, pairs, strict=True)]
    return _from_ends(ends, sets)


def _from_ends(ends: dict[str, list[tuple[float, float, float]]], sets: int) -> list[Contrasts]:
    def interval(name: str, i: int) -> Interval:
        value, low, high = ends[name][i]
        return Interval(value, low, high, "bootstrap")

    return [Contrasts(**{name: interval(name, i) for name in _CHECKED}) for i in range(sets)]


def _bca(draws: Floats, rows: Floats) -> tuple[float, float]:
    import numpy as np

    tails = bca_tails(draws, float(rows.mean()), (rows.sum() - rows) / (len(rows) - 1), (0.025, 0.975))
    low, high = np.quantile(draws, tails)
    return float(low), float(high)
