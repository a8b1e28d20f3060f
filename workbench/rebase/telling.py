"""How a check is told, for every face: `Check` → a headline and sections of plain values (blocks.py) in no language.

The page and the offline report draw them with the templates in html/, the command line with cli/telling.py. A face draws and
computes nothing: a number that is not here is on no face (tests/test_faces.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from workbench.blocks import Bar, Bars, Block, Card, Cards, Code, Fold, Item, Items, Line, Link, Paragraph, Section, Table
from workbench.evidence import SUCCESS
from workbench.rebase import verdicts
from workbench.rebase.contrasts import ARMS
from workbench.rebase.findings import CATALOGUE, explained
from workbench.rebase.moved import facts, known, moved
from workbench.rebase.result import Check, Contrasts, Finding, Health, Probes, Retrained, Verdict, Witness
from workbench.rebase.verdict import because, questions, share_interval
from workbench.rebase.verdicts import STATES, State
from workbench.words import Name, Number, Several, Value, counted, lasting, phrase
from workbench.worth import difference, score

__all__ = ["Telling", "figures", "says", "tell"]

CONTRASTS = ("gain", "transfer", "served", "alone")
_TONES = {"break": "bad", "risk": "warn", "note": "idle"}


@dataclass(frozen=True)
class Telling:
    """One check as it is told."""

    adapter: str
    base: str
    state: State  # its word, or "stale"
    word: Value
    title: Value
    headline: Value  # what it means for whoever uses the adapter, and what to do next
    figures: Value  # the raw scores, the gain with its interval, on how many test rows
    sections: tuple[Section, ...]


def tell(check: Check, *, stale: bool = False, retrain_seconds: float | None = None) -> Telling:
    """`stale`: the adapter or the base has changed since. `retrain_seconds` is what its training took the last time."""
    state = STATES["stale"] if stale else verdicts.state(check.word)
    verdict = check.verdict
    moved_section = moved(check.weights) if check.weights is not None else None
    explaining = [moved_section, _findings(check)]
    if check.structure.breaks:
        explaining.reverse()  # what forbids it comes first
    sections = [
        _warnings(check.warnings),
        _scores(check, verdict) if verdict is not None and verdict.arms else None,
        _changed(check, verdict) if verdict is not None else None,
        *explaining,
        _probes(check.probes) if check.probes is not None else None,
        _health(check.health, check) if check.health is not None else None,
        _retrained(check.retrained, check) if check.retrained is not None else None,
        _sure(check),
        _how(check),
    ]
    return Telling(
        adapter=check.adapter,
        base=check.base,
        state=state,
        word=(word := phrase(f"rebase.word.{state.key}")),
        title=phrase("rebase.cell", adapter=check.adapter, base=check.base, word=word),
        headline=says(state, check.adapter, check.base, check.home, check=check, retrain_seconds=retrain_seconds),
        figures=figures(check),
        sections=tuple(section for section in sections if section is not None),
    )


# ---------------------------------------------------------------- in one look


def says(state: State, adapter: str, base: str, home: str, *, check: Check | None = None, retrain_seconds: float | None = None) -> Value:
    """What an adapter's state on a base means for whoever uses it, and what to do next."""
    names: dict[str, Value] = {"adapter": Name(adapter), "base": base, "home": home}
    verdict = check.verdict if check is not None else None
    if state.name == "stale" and check is not None:
        names["was"] = phrase(f"rebase.word.{verdicts.state(check.word).key}")
    parts: list[Value] = [phrase(f"rebase.says.{state.key}{_shade(state, verdict)}", **names)]
    if state.broken:
        parts.append(phrase("rebase.retrain_it"))
        if retrain_seconds is not None:
            parts.append(phrase("rebase.retrain_time", time=lasting(retrain_seconds)))
    if state.name == "too close to tell" and verdict is not None:
        needed = verdict.rows_needed
        parts.append(phrase("rebase.rows_needed", n=Number(needed)) if needed else phrase("rebase.rows_unknown"))
    return Several(tuple(parts), "list.sentence")


def _shade(state: State, verdict: Verdict | None) -> str:
    """The two words that mean more than one thing."""
    if verdict is not None and state.name == "works" and verdict.absorbed:
        return "_absorbed"
    if verdict is not None and state.name == "weaker" and not _transfer_shown(verdict):
        return "_unsure"
    return ""


def _transfer_shown(verdict: Verdict) -> bool:
    contrasts = verdict.contrasts.get(verdict.metric)
    return contrasts is not None and contrasts.transfer.above_zero


def figures(check: Check) -> Value:
    """Both raw scores on the new base, both at home, what the adapter gives there with its interval, and on how many rows; for one
    that cannot load the reasons and what it scored at home."""
    verdict = check.verdict
    reasons = tuple(map(explained, check.structure.breaks))
    if verdict is None or not verdict.arms:
        return Several(reasons, "list.sentence")
    metric = verdict.metric
    names: dict[str, Value] = {"base": check.base, "home_base": check.home, "questions": questions(verdict)}
    names |= {arm: score(metric, values.get(metric)) for arm, values in verdict.arms.items()}
    if "new_adapter" not in verdict.arms:  # a break stands, so nothing was run on the new base
        return Several((*reasons, phrase("rebase.figures_home", metric=phrase(f"rebase.metric.{metric}"), **names)), "list.sentence")
    gives = phrase("rebase.gives", value=difference(metric, verdict.contrasts[metric].transfer), **names)
    return Several((phrase(f"rebase.figures.{metric}", **names), gives), "list.sentence")


# ---------------------------------------------------------------- scores


def shown_metrics(verdict: Verdict) -> list[str]:
    """The metric that decided, then the others; an exact match that says the same as the dataset's scorer is left out."""
    known = [m for m in (verdict.metric, *verdict.contrasts) if all(m in values for values in verdict.arms.values())]
    twice = "right" in known and all(values["right"] == values.get("exact_match") for values in verdict.arms.values())
    return [m for m in dict.fromkeys(known) if not (twice and m == "exact_match" != verdict.metric)]


def _scores(check: Check, verdict: Verdict) -> Section:
    first, *others = shown_metrics(verdict)
    blocks: list[Block] = [*_metric(check, verdict, first)]
    if verdict.contrasts:
        blocks.append(Paragraph(phrase("rebase.differences_how", questions=questions(verdict)), quiet=True))
    if others:
        blocks.append(Fold(phrase("rebase.other_metrics"), tuple(chain(*(_metric(check, verdict, other) for other in others)))))
    return Section("scores", phrase("rebase.scores"), tuple(blocks))


def _metric(check: Check, verdict: Verdict, metric: str) -> list[Block]:
    """The bars of one metric and the differences under them."""
    rate = metric in SUCCESS
    scores = {arm: verdict.arms[arm][metric] for arm in ARMS if arm in verdict.arms}
    full = 1.0 if rate else 1.05 * max(*scores.values(), 1e-9)
    rows = []
    for arm, value in scores.items():
        low, high = share_interval(value, verdict) if rate else (None, None)
        ends = None if low is None else phrase("rebase.ends", low=Number(low, "share"), high=Number(high, "share"))
        name = phrase(f"rebase.arm.{arm}", base=check.home if arm.startswith("home") else check.base)
        rows.append(Bar(name, arm.endswith("adapter"), value / full, low, high, score(metric, value), ends))
    told: list[Block] = [
        Bars(phrase(f"rebase.metric.{metric}"), tuple(rows)),
        Paragraph(phrase("rebase.bars_rate" if rate else "rebase.bars_error", n=questions(verdict)), quiet=True),
    ]
    contrasts = verdict.contrasts.get(metric)
    return told if contrasts is None else [*told, _differences(check, metric, contrasts)]


def _differences(check: Check, metric: str, contrasts: Contrasts) -> Table:
    intervals = {name: getattr(contrasts, name) for name in CONTRASTS}
    ends = [abs(end) for interval in intervals.values() for end in (interval.value, interval.low, interval.high) if end is not None]
    reach = max(ends, default=0.0) or 1.0
    rows = []
    for name, interval in intervals.items():
        tone = "good" if interval.above_zero else "bad" if interval.below_zero else "open"
        low, high = (None if end is None else end / reach for end in (interval.low, interval.high))
        drawn = Line((interval.value or 0.0) / reach, low, high, tone)
        what = phrase(f"rebase.contrast.{name}", home=check.home, base=check.base)
        rows.append((what, difference(metric, interval), interval.method, drawn))
    head = tuple(phrase(f"rebase.differences.{column}") for column in ("what", "value", "method", "line"))
    return Table(phrase("rebase.differences"), head, tuple(rows))


# ---------------------------------------------------------------- answers


def _changed(check: Check, verdict: Verdict) -> Section | None:
    blocks: list[Block] = []
    if verdict.lost_rows is not None and verdict.won_rows is not None:
        lost, won = counted("rebase.lost_rows", verdict.lost_rows), counted("rebase.won_rows", verdict.won_rows)
        parts: list[Value] = [phrase("rebase.flips", lost=lost, won=won)]
        if verdict.lost_share is not None:
            low, high = (Number(end, "share") for end in verdict.lost_share)
            parts.append(phrase("rebase.lost_share", low=low, high=high, n=Number(verdict.n)))
        if verdict.flip_p is not None:
            parts.append(phrase("rebase.mcnemar", p=Number(verdict.flip_p, "p")))
        blocks.append(Paragraph(Several(tuple(parts), "list.sentence")))
    if check.witnesses:
        blocks.append(Cards(phrase("rebase.witnesses"), tuple(_witness(witness, check) for witness in check.witnesses)))
    return Section("changed", phrase("rebase.changed"), tuple(blocks)) if blocks else None


def _witness(witness: Witness, check: Check) -> Card:
    def said(arm: str, base: str, answer: str | None, nll: float) -> tuple[Value, Value, bool]:
        name = phrase("rebase.witness", arm=phrase(f"rebase.arm.{arm}", base=base), loss=score("nll_per_token", nll))
        text: Value = phrase("rebase.not_recorded") if answer is None else answer or phrase("answers.nothing")
        return name, text, answer is not None and answer.strip() == witness.expected.strip() != ""

    answers = (
        said("home_adapter", check.home, witness.home, witness.home_nll),
        said("new_adapter", check.base, witness.new, witness.new_nll),
        (phrase("answers.expected"), witness.expected, False),
    )
    return Card(witness.prompt, answers)


# ---------------------------------------------------------------- what was found


def _item(finding: Finding) -> Item:
    entry = CATALOGUE.get(finding.name)
    known = {part: phrase(f"found.{finding.name}.{part}") for part in ("title", "why", "do")} if entry is not None else {}
    return Item(
        level=phrase(f"rebase.level.{finding.level}"),
        tone=_TONES[finding.level],
        title=known.get("title", finding.name),
        name=finding.name,
        text=explained(finding),
        more=tuple(known[part] for part in ("why", "do") if part in known),
    )


def _warnings(warnings: Sequence[Finding]) -> Section | None:
    items = Items(phrase("rebase.why"), tuple(map(_item, warnings)))
    return Section("mind", phrase("rebase.mind"), (items,)) if warnings else None


def _findings(check: Check) -> Section:
    if not check.structure.findings:
        return Section("findings", phrase("rebase.findings"), (Paragraph(phrase("rebase.no_findings")),))
    blocks: list[Block] = [Items(phrase("rebase.why"), tuple(map(_item, check.structure.findings)))]
    if check.structure.template_diff:
        title = phrase("rebase.template_diff")
        blocks.append(Fold(title, (Code(check.structure.template_diff, title),)))
    return Section("findings", phrase("rebase.findings"), tuple(blocks))


# ---------------------------------------------------------------- probes, health, the ceiling


def _probes(probes: Probes) -> Section:
    dose = tuple(phrase("rebase.probes.at", alpha=alpha, nats=Number(nats, "nats")) for alpha, nats in probes.dose.items())
    rows: list[tuple[str, Value | None]] = [
        ("rebase.probes.prompts", Number(probes.prompts)),
        ("rebase.probes.cka", Number(probes.cka_mean, "nats")),
        ("rebase.probes.agreement", known(probes.top1_agreement, "share")),
        ("rebase.probes.jsd", known(probes.jsd, "nats")),
        ("rebase.probes.correlation", known(probes.effect_correlation, "direction")),
        ("rebase.probes.slope", known(probes.effect_slope, "figure")),
        ("rebase.probes.ratio", known(probes.effect_ratio, "figure")),
        ("rebase.probes.dose", Several(dose) if dose else None),
        (
            "rebase.probes.best",
            None if probes.best_dose is None else phrase("rebase.probes.alpha", alpha=Number(probes.best_dose, "plain")),
        ),
    ]
    return Section("probes", phrase("rebase.probes"), (facts(rows), Paragraph(phrase("rebase.probes.how"), quiet=True)))


def _health(health: Health, check: Check) -> Section:
    values = {"new": score("bits_per_byte", health.new), "n": Number(health.passages), "base": check.base, "home": check.home}
    parts: list[Value] = [phrase("rebase.health.now", **values)]
    parts.append(
        phrase("rebase.health.gone", home=check.home)
        if health.home is None
        else phrase("rebase.health.before", home=check.home, value=score("bits_per_byte", health.home))
    )
    if health.change is not None:
        parts.append(phrase("rebase.health.change", value=difference("bits_per_byte", health.change)))
    parts.append(phrase("rebase.health.broken" if health.broken else "rebase.health.fine"))
    return Section("health", phrase("rebase.health"), (Paragraph(Several(tuple(parts), "list.sentence")),))


def _retrained(again: Retrained, check: Check) -> Section:
    missing = difference(again.metric, again.headroom)
    parts: list[Value] = [
        phrase("rebase.retrained.score", base=check.base, time=lasting(again.seconds), score=score(again.metric, again.score)),
        phrase("rebase.retrained.missing", missing=missing),
    ]
    if again.recovered is None:
        parts.append(phrase("rebase.retrained.too_small"))
    else:
        ends = {"low": Number(again.recovered_low, "figure"), "high": Number(again.recovered_high, "figure")}
        parts.append(phrase("rebase.retrained.recovered", share=Number(again.recovered, "figure"), **ends))
    return Section("retrained", phrase("rebase.retrained"), (Paragraph(Several(tuple(parts), "list.sentence")),))


# ---------------------------------------------------------------- how sure, and how it was measured


def _sure(check: Check) -> Section:
    verdict = check.verdict
    if verdict is None:
        return Section("sure", phrase("rebase.sure"), (Paragraph(phrase("rebase.sure.untested")),))
    blocks: list[Block] = [
        Paragraph(phrase(f"rebase.rule.{STATES[verdict.word].key}")),
        Paragraph(because(verdict, check.structure.breaks)),
    ]
    if verdict.n:
        s = verdict.settings
        limits = phrase(
            "rebase.sure.limits_are",
            success=Number(s.epsilon, "limit"),
            nll=Number(s.epsilon_nll, "plain"),
            gain=Number(s.delta, "share"),
        )
        intervals = phrase(
            "rebase.sure.intervals_are", level=Number(s.level, "share"), resamples=Number(s.resamples), seed=Number(s.seed, "plain")
        )
        rows: list[tuple[str, Value | None]] = [
            ("rebase.sure.rows", questions(verdict)),
            ("rebase.sure.needed", Number(verdict.rows_needed) if verdict.rows_needed else None),
            ("rebase.sure.p_worse", known(verdict.p_worse, "p")),
            ("rebase.sure.limits", limits),
            ("rebase.sure.intervals", intervals),
        ]
        blocks.append(facts(rows))
        if verdict.n < _FEW and verdict.metric in SUCCESS:
            blocks.append(Paragraph(phrase("rebase.sure.few", n=Number(_FEW)), quiet=True))
    return Section("sure", phrase("rebase.sure"), tuple(blocks))


_FEW = 500  # test rows below which small differences in success cannot be seen


def _how(check: Check) -> Section:
    job = Link(check.job_id, "jobs", (("job", check.job_id),)) if check.job_id else None
    rows: list[tuple[str, Value | Link | None]] = [
        ("rebase.adapter", phrase("rebase.how.fingerprint", name=check.adapter, sha256=check.adapter_sha256[:12])),
        ("rebase.how.home", phrase("rebase.how.fingerprint", name=check.home, sha256=check.home_lock_sha256[:12])),
        ("rebase.how.new", phrase("rebase.how.fingerprint", name=check.base, sha256=check.base_lock_sha256[:12])),
        ("fact.dataset", check.dataset),
        ("fact.job", job),
        ("rebase.how.when", check.created_at[:16].replace("T", " ") or None),
    ]
    more = (Fold(phrase("rebase.how.more"), (Code(json.dumps(check.how, indent=1), phrase("rebase.how.more")),)),) if check.how else ()
    return Section("how", phrase("rebase.how"), (facts(rows), *more))
