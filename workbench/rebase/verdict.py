"""Stage 3: from the scores of four arms to a verdict. The only stage that decides, but for "cannot load".

judge         from row scores            judge_cells   from published means
cannot_load   a break, nothing to score  point_rule    the rule on point estimates, for comparison
witnesses     the rows that tell it      broken, safe_for_all   many adapters on one release
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.data.rows import answer_of, question_of
from workbench.errors import UsageError
from workbench.evidence import Evidence, Interval, clopper_pearson, exact_gain, mcnemar
from workbench.rebase.contrasts import ARMS, Table, measure, scores_of, weights
from workbench.rebase.figures import because
from workbench.rebase.result import Check, Contrasts, Finding, Settings, Verdict, Witness
from workbench.rebase.rule import Decision, decide, epsilon, points, rows_needed, success_metric
from workbench.rebase.verdicts import PASSING
from workbench.records import ItemScore
from workbench.words import words

__all__ = [
    "benjamini_hochberg",
    "broken",
    "cannot_load",
    "judge",
    "judge_cells",
    "point_rule",
    "safe_for_all",
    "witnesses",
]

_DEFAULT = Settings()


def judge(
    home: Evidence,
    new: Evidence | None,
    *,
    scorer: str | None,
    same_tokenizer: bool,
    breaks: Sequence[Finding] = (),
    settings: Settings = _DEFAULT,
    rule: str = "guarded",
) -> Verdict:
    """The verdict over one frozen test set. `home` holds A and A with the adapter, `new` B and B with it, the same rows in the
    same order; rows of one group (`home.groups`) are resampled together. `new` may be None only where a break stands.

    Raises `UsageError` for arms that do not fit together, for no rows at all, and for losses that are not numbers.
    """
    if breaks:
        return cannot_load(breaks, home, settings=settings)
    if new is None:
        raise UsageError("The new base was not scored, so there is nothing to judge.", hint="Run the check with stage 3 (behaviour).")
    table = measure(home, new, same_tokenizer=same_tokenizer, settings=settings)
    decision = decide(table.contrasts, settings, rule=rule)
    success = success_metric(table.contrasts)
    lost = won = None
    # for text without a scorer an exact match is luck, and a flip of it means nothing
    if success is not None and (success == "right" or scorer is not None or decision.metric == success):
        won, lost = table.flips[success]["served"]
    shrink = table.units / table.n
    judged = Verdict(
        word=decision.word,
        absorbed=decision.absorbed,
        metric=decision.metric,
        because="",
        n=table.n,
        groups=table.units if table.grouped else None,
        arms=table.arms,
        contrasts=table.contrasts,
        lost_rows=lost,
        won_rows=won,
        lost_share=None if lost is None else clopper_pearson(lost * shrink, table.units, settings.level),
        flip_p=None if lost is None or won is None else mcnemar(won, lost),
        p_worse=_p_worse(table, decision.metric, settings),
        rows_needed=rows_needed(table, settings) if decision.word == "too close to tell" else None,
        settings=settings,
        line=decision.line,
    )
    return _explained(judged)


def _explained(verdict: Verdict, breaks: Sequence[Finding] = ()) -> Verdict:
    """With its reason in English, which the faces say in their own language."""
    return dataclasses.replace(verdict, because=words("en").say(because(verdict, breaks)))


def cannot_load(breaks: Sequence[Finding], home: Evidence | None = None, *, settings: Settings = _DEFAULT) -> Verdict:
    """The verdict when a stage-0 break stands: no arm on the new base exists. With the home evidence, an adapter that gained
    nothing there is called that first, as the rule's order says."""
    if home is None:
        return _explained(Verdict("cannot load", False, "", "", 0, None, {}, {}, settings=settings, line="break"), breaks)
    # the new arms stand in as copies; only the gain is read, and only the gain is reported
    table = measure(home, Evidence(home.base, home.adapter), same_tokenizer=True, settings=settings)
    decision = decide(table.contrasts, settings, breaks=True)
    judged = Verdict(
        word=decision.word,
        absorbed=False,
        metric=decision.metric,
        because="",
        n=table.n,
        groups=table.units if table.grouped else None,
        arms={"home": scores_of(home.base), "home_adapter": scores_of(home.adapter)},
        contrasts={},
        settings=settings,
        line=decision.line,
        home_gain=table.contrasts[decision.metric].gain,
    )
    return _explained(judged, breaks)


def point_rule(contrasts: Mapping[str, Contrasts], settings: Settings = _DEFAULT) -> Decision:
    """The rule as first written, on point estimates, blind to how many rows there were."""
    return decide(points(contrasts), settings, rule="first")


def _p_worse(table: Table, metric: str, settings: Settings) -> float:
    """One-sided p of "the user loses no more than epsilon": small means worse. The inversion of the interval that is printed."""
    limit = -epsilon(metric, settings)
    drawn = table.draws.get(metric, {}).get("served")
    if drawn is not None:
        return float(1 + (drawn >= limit).sum()) / (1 + len(drawn))
    if metric not in table.flips:
        return 1.0  # one row: no interval, no evidence
    up, down = table.flips[metric]["served"]
    smallest, largest = 0.0, 0.5
    for _ in range(40):  # the smallest tail whose upper bound is below the limit
        tail = (smallest + largest) / 2
        upper = exact_gain(up, down, table.n, units=table.units, level=1 - 2 * tail).high
        smallest, largest = (smallest, tail) if upper is not None and upper < limit else (tail, largest)
    return 1.0 if largest == 0.5 else largest


# ---------------------------------------------------------------- published means


def judge_cells(
    *,
    home: float,
    home_adapter: float,
    new: float,
    new_adapter: float,
    n: int,
    settings: Settings = _DEFAULT,
    rule: str = "guarded",
) -> Verdict:
    """The verdict from four published success shares over `n` questions. Row scores are gone, so the arms count as independent
    binomials. Scores of the same questions usually rise and fall together, so these intervals are wider than paired ones.

    Intervals: squares of the distances to each arm's Wilson bounds, added up (MOVER; Zou & Donner 2008, doi 10.1002/sim.3095;
    for a difference of two this is Newcombe's 1998 method 10).
    """
    shares = (home, home_adapter, new, new_adapter)
    if n < 1 or any(not 0 <= share <= 1 for share in shares):
        raise UsageError(f"Scores must be shares between 0 and 1 over at least one question, not {shares} over {n}.")
    intervals = {name: _mover([-k for k in weight], shares, n) for name, weight in weights(settings.delta).items()}
    contrasts = {"right": Contrasts(**intervals)}
    arms = {arm: {"right": share} for arm, share in zip(ARMS, shares, strict=True)}
    decision = decide(contrasts, settings, rule=rule)
    judged = Verdict(
        word=decision.word,
        absorbed=decision.absorbed,
        metric="right",
        because="",
        n=n,
        groups=None,
        arms=arms,
        contrasts=contrasts,
        settings=settings,
        line=decision.line,
    )
    return _explained(judged)


def _mover(factors: Sequence[float], shares: Sequence[float], n: int) -> Interval:
    """Interval of a weighted sum of independent shares, each over `n` draws."""
    value, below, above = 0.0, 0.0, 0.0
    for factor, share in zip(factors, shares, strict=True):
        value += factor * share
        ends = [factor * end for end in _wilson(share, n)]
        below += (factor * share - min(ends)) ** 2
        above += (max(ends) - factor * share) ** 2
    return Interval(value, value - math.sqrt(below), value + math.sqrt(above), "independent")


def _wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


# ---------------------------------------------------------------- rows that tell it


def witnesses(home: Evidence, new: Evidence, rows: Iterable[Mapping[str, Any]], n: int = 3) -> list[Witness]:
    """The worst rows: those right at home with the adapter and wrong on the new base with it, the largest loss first; then those
    whose loss per answer token grew most. Rows that neither flipped nor grew are not shown."""
    by_id = {row["id"]: dict(row) for row in rows}
    pairs = list(zip(home.adapter, new.adapter, strict=True))
    scored = all(score.right is not None for pair in pairs for score in pair)

    def good(score: ItemScore) -> bool:
        return bool(score.right) if scored else score.exact

    def grown(pair: tuple[ItemScore, ItemScore]) -> float:
        return pair[1].nll / pair[1].tokens - pair[0].nll / pair[0].tokens

    worst = sorted(pairs, key=lambda pair: (good(pair[0]) and not good(pair[1]), grown(pair)), reverse=True)
    shown = [pair for pair in worst if (good(pair[0]) and not good(pair[1])) or grown(pair) > 0]
    return [_witness(by_id.get(before.id, {}), before, after) for before, after in shown[:n]]


def _witness(row: dict[str, Any], before: ItemScore, after: ItemScore) -> Witness:
    expected = answer_of(row) if row else ""

    def said(score: ItemScore) -> str | None:
        return score.answer if score.answer is not None else expected if score.exact and row else None

    prompt = question_of(row) if row else ""
    return Witness(before.id, prompt, expected, said(before), said(after), before.nll / before.tokens, after.nll / after.tokens)


# ---------------------------------------------------------------- many adapters on one release


def benjamini_hochberg(p_values: Sequence[float], q: float = 0.05) -> list[bool]:
    """Which hypotheses to reject so that at most a share `q` of the rejections is false on average
    (Benjamini & Hochberg 1995, doi 10.1111/j.2517-6161.1995.tb02031.x), in the order given."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    last = max((rank for rank, i in enumerate(order, start=1) if p_values[i] <= q * rank / len(order)), default=0)
    found = set(order[:last])
    return [i in found for i in range(len(p_values))]


def broken(checks: Sequence[Check], q: float = 0.05) -> list[bool]:
    """Which adapters the release broke: those that cannot load, and the discoveries among the tested ones. An adapter without a
    p-value (not tested, nothing to transfer) is neither found nor counted."""
    tested = [i for i, check in enumerate(checks) if check.verdict is not None and check.verdict.p_worse is not None]
    tested = [i for i in tested if checks[i].word not in ("no gain at home", "not needed")]
    found = benjamini_hochberg([float(checks[i].verdict.p_worse or 0.0) for i in tested], q)  # type: ignore[union-attr]
    named = {i for i, yes in zip(tested, found, strict=True) if yes}
    return [check.word == "cannot load" or i in named for i, check in enumerate(checks)]


def safe_for_all(checks: Sequence[Check]) -> bool:
    """Whether the release may replace the old base for everyone: each adapter passes by itself. No correction is needed, since one
    that fails is enough to say no (an intersection-union test). An adapter without a verdict does not pass."""
    return bool(checks) and all(check.verdict is not None and check.verdict.word in PASSING for check in checks)
