"""Stage 3: from the scores of four arms to a verdict. The only stage that decides, but for "cannot load".

judge                   from row scores
cannot_load             a break, nothing to score
because                 why, as a value to be said
witnesses               the rows that tell it
broken, safe_for_all    many adapters on one release
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench import stats
from workbench.data.rows import answer_of, question_of
from workbench.evidence import SUCCESS, Evidence
from workbench.rebase.contrasts import ARMS, Table, tabulate
from workbench.rebase.findings import explained
from workbench.rebase.result import Check, Finding, Settings, Verdict, Witness
from workbench.rebase.rule import Decision, decide, epsilon, leading, rows_needed
from workbench.rebase.verdicts import PASSING
from workbench.records import ItemScore
from workbench.words import Engine, Number, Several, Value, counted, phrase, words
from workbench.worth import difference, score, unit

__all__ = ["because", "broken", "cannot_load", "judge", "questions", "safe_for_all", "share_interval", "witnesses"]

_DEFAULT = Settings()


def judge(
    home: Evidence,
    new: Evidence,
    *,
    scorer: str | None,
    same_tokenizer: bool,
    settings: Settings = _DEFAULT,
) -> Verdict:
    """The verdict over one frozen test set. `home` holds A and A with the adapter, `new` B and B with it, the same rows in the
    same order; rows of one group (`home.groups`) are resampled together.

    Raises `UsageError` for arms that do not fit together, for no rows at all, and for losses that are not numbers.
    """
    table = tabulate(home, new, same_tokenizer=same_tokenizer, settings=settings)
    contrasts = table.contrasts
    decision = decide(contrasts, settings)
    success = leading(SUCCESS, contrasts)
    won = lost = None
    # for text without a scorer an exact match is luck, and a flip of it means nothing
    if success is not None and (success == "right" or scorer is not None or decision.metric == success):
        won, lost = table.estimates[success]["served"].flips or (None, None)
    measured = {
        "contrasts": contrasts,
        "lost_rows": lost,
        "won_rows": won,
        "lost_share": None if lost is None else stats.share_interval(lost, table.n, units=table.units, level=settings.level),
        "flip_p": None if lost is None or won is None else stats.mcnemar(won, lost),
        "p_worse": stats.p_below(table.estimates[decision.metric]["served"], -epsilon(decision.metric, settings)),
        "rows_needed": rows_needed(table, settings) if decision.word == "too close to tell" else None,
    }
    return _explained(_decided(decision, table, settings, **measured))


def _decided(decision: Decision, table: Table, settings: Settings, **measured: Any) -> Verdict:
    """The rule's decision with what it rests on."""
    of, groups = dataclasses.asdict(decision), table.units if table.grouped else None
    return Verdict(**{**of, "because": "", "n": table.n, "groups": groups, "arms": table.arms, "settings": settings, **measured})


def _explained(verdict: Verdict, breaks: Sequence[Finding] = ()) -> Verdict:
    """With its reason in English, which the faces say in their own language."""
    return dataclasses.replace(verdict, because=words("en").say(because(verdict, breaks)))


def cannot_load(breaks: Sequence[Finding], home: Evidence | None = None, *, settings: Settings = _DEFAULT) -> Verdict:
    """The verdict when a stage-0 break stands: no arm on the new base exists. With the home evidence, an adapter that gained
    nothing there is called that first, as the rule's order says."""
    if home is None:
        return _explained(Verdict("cannot load", False, "", "", 0, None, {}, {}, settings=settings, line="break"), breaks)
    # the new arms stand in as copies; only the gain is read and reported
    table = tabulate(home, Evidence(home.base, home.adapter), same_tokenizer=True, settings=settings)
    decision = decide(table.contrasts, settings, breaks=True)
    arms = {arm: table.arms[arm] for arm in ARMS[:2]}
    home_gain = table.contrasts[decision.metric].gain
    return _explained(_decided(decision, table, settings, arms=arms, contrasts={}, home_gain=home_gain), breaks)


# ---------------------------------------------------------------- in words, but in no language: `Words.say` makes a sentence of it


def share_interval(share: float, verdict: Verdict) -> tuple[float, float]:
    """The interval of one arm's share of right answers by itself. Rows of a group count as copies, as everywhere."""
    return stats.share_interval(share * verdict.n, verdict.n, units=verdict.groups, level=verdict.settings.level)


def questions(verdict: Verdict) -> Value:
    """`200 test questions`, and in how many groups where rows come in groups."""
    told = counted("score.questions", verdict.n)
    return told if verdict.groups is None else phrase("rebase.in_groups", questions=told, n=Number(verdict.groups))


def because(verdict: Verdict, breaks: Sequence[Finding] = ()) -> Value:
    """The line of the rule that matched, with raw scores and intervals. Checks made before the line was kept have only its English."""
    if not verdict.line:
        return Engine(verdict.because)
    metric, contrasts = verdict.metric, verdict.contrasts.get(verdict.metric)
    scores = {arm: score(metric, verdict.arms[arm][metric]) for arm in ARMS if arm in verdict.arms}
    values: dict[str, Value] = {
        "questions": questions(verdict),
        "limit": phrase(unit(metric), value=Number(epsilon(metric, verdict.settings), "limit" if metric in SUCCESS else "plain")),
        "at_home": phrase("rebase.because.at_home", **scores) if scores else "",
        "there": phrase("rebase.because.there", **scores) if "new_adapter" in scores else "",
    }
    if contrasts is not None:
        values |= {name: difference(metric, getattr(contrasts, name)) for name in ("gain", "transfer", "served", "alone")}
    elif verdict.home_gain is not None:
        values["gain"] = difference(metric, verdict.home_gain)
    if verdict.line == "unharmed":
        judged = {name: c for name, c in verdict.contrasts.items() if name != "exact_match" or "right" not in verdict.contrasts}
        values["harms"] = Several(tuple(difference(name, c.transfer) for name, c in judged.items()), "list.semicolon")
    parts: list[Value] = [phrase(f"rebase.because.{verdict.line}", **values)] if scores else []
    if verdict.line == "served":
        parts.append(phrase(f"rebase.because.{_kept(verdict)}", **values))
    if breaks:
        parts.append(phrase("rebase.because.cannot_load", names=Several(tuple(finding.name for finding in breaks))))
        parts += map(explained, breaks)
    return Several(tuple(parts), "list.sentence")


def _kept(verdict: Verdict) -> str:
    """Whether the new base knew part of the gain already: shown, ruled out, or open."""
    if verdict.absorbed:
        return "absorbed"
    kept = verdict.contrasts[verdict.metric].kept
    return "kept" if kept.above_zero else "kept_unsure"


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


def broken(checks: Sequence[Check], q: float = 0.05) -> list[bool]:
    """Which adapters the release broke: those that cannot load, and the discoveries among the tested ones. An adapter without a
    p-value (not tested, nothing to transfer) is neither found nor counted."""
    p_values = {
        i: check.verdict.p_worse
        for i, check in enumerate(checks)
        if check.verdict is not None and check.verdict.p_worse is not None and check.word not in ("no gain at home", "not needed")
    }
    named = {i for i, discovered in zip(p_values, stats.discoveries([*p_values.values()], q), strict=True) if discovered}
    return [check.word == "cannot load" or i in named for i, check in enumerate(checks)]


def safe_for_all(checks: Sequence[Check]) -> bool:
    """Whether the release may replace the old base for everyone: each adapter passes by itself. No correction is needed, since one
    that fails is enough to say no (an intersection-union test). An adapter without a verdict does not pass."""
    return bool(checks) and all(check.verdict is not None and check.verdict.word in PASSING for check in checks)
