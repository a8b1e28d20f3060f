"""One adapter on one new base in full: the scores, what changed in the answers, the weights, and everything that was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from urllib.parse import urlencode

from workbench.rebase.findings import CATALOGUE
from workbench.rebase.result import Check, Contrasts, Finding, Probes, Verdict, Witness
from workbench.records import Dataset
from workbench.stats import Interval
from workbench.words import Words
from workbench_ui.icons import ICONS
from workbench_ui.views.drift import drift_card
from workbench_ui.views.markup import badge, bullet_list, button, card, esc, facts, panel, stack
from workbench_ui.views.rebase import actions, row
from workbench_ui.views.scores import answers
from workbench_ui.views.verdict import Cell, difference, figures, is_rate, key_of, look, questions, sentence, show, word

__all__ = ["detail", "report_link", "wilson"]

_ARMS = ("home", "home_adapter", "new", "new_adapter")
_CONTRASTS = ("gain", "transfer", "served", "alone")
_LEVELS = {"break": "bad", "risk": "warn", "note": "idle"}
_WITNESSES = 3


def detail(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = ()) -> str:
    """All sections; without a check, what is missing and the button that gets it."""
    check = cell.check
    if check is None:
        return f'<ul class="wb-verdicts">{row(cell, t, datasets=datasets)}</ul>'
    verdict = check.verdict
    explained = [drift_card(check.weights, t) if check.weights is not None else "", _findings(check, t)]  # what forbids it comes first
    parts = [
        _top(cell, check, t),
        panel("warn", f"<strong>{esc(t('rebase.mind'))}</strong>{bullet_list(check.warnings)}", icon="warn") if check.warnings else "",
        _scores(check, verdict, t) if verdict is not None and verdict.contrasts else "",
        _answers(check, verdict, t) if verdict is not None else "",
        *(reversed(explained) if check.structure.breaks else explained),
        _probes(check.probes, t) if check.probes is not None else "",
        _sure(check, t),
    ]
    return stack(parts)


def report_link(check: Check, kind: str) -> str:
    """Where `files.py` serves the check; `kind` is html or json."""
    return f"/files/rebase/check.{kind}?" + urlencode({"adapter": check.adapter, "base": check.base})


def _top(cell: Cell, check: Check, t: Words) -> str:
    tone, icon = look(cell.state)
    downloads = button(t("rebase.report"), report_link(check, "html"), icon="down", download=True)
    downloads += button("JSON", report_link(check, "json"), icon="down", download=True)
    return (
        f'<section class="wb-verdict wb-{tone} whole" data-row="{esc(cell.adapter.ref)}">{ICONS[icon]}<div>'
        f'<h2 class="word">{esc(word(cell.state, t))}</h2>'
        f'<p class="says">{sentence(cell, t)}</p><p class="figures">{esc(figures(check, t))}</p></div>'
        f'<div class="wb-actions">{actions(cell, t, details=False)}{downloads}</div></section>'
    )


# ---------------------------------------------------------------- scores


def _scores(check: Check, verdict: Verdict, t: Words) -> str:
    metric = verdict.metric
    others = "".join(
        f"<h3>{esc(t(f'rebase.metric.{other}'))}</h3>{_bars(check, verdict, other, t)}{_contrasts(found, other, check, t)}"
        for other, found in verdict.contrasts.items()
        if other != metric
    )
    more = f'<details class="wb-words"><summary>{esc(t("rebase.other_metrics"))}</summary>{others}</details>' if others else ""
    return card(
        t(f"rebase.metric.{metric}"),
        f"{_bars(check, verdict, metric, t)}<h3>{esc(t('rebase.differences'))}</h3>"
        f"{_contrasts(verdict.contrasts[metric], metric, check, t)}"
        f'<p class="wb-quiet">{esc(t("rebase.differences_how", questions=questions(verdict, t)))}</p>{more}',
    )


def _bars(check: Check, verdict: Verdict, metric: str, t: Words) -> str:
    """Four bars, each with the interval of its own score where one can be told."""
    scores = [verdict.arms[arm].get(metric) for arm in _ARMS]
    full = 1.0 if is_rate(metric) else 1.05 * max(*(score or 0.0 for score in scores), 1e-9)
    bars = ""
    for arm, score in zip(_ARMS, scores, strict=True):
        name = t(f"rebase.arm.{arm}", base=check.home if arm.startswith("home") else check.base)
        ends = wilson(score, verdict.groups or verdict.n) if is_rate(metric) and score is not None else None
        whisker, told = "", ""
        if ends is not None:
            whisker = f'<i class="whisker" style="left:{100 * ends[0]:.1f}%;width:{100 * (ends[1] - ends[0]):.1f}%"></i>'
            told = f'<small class="wb-quiet">{esc(t("rebase.ends", low=t.percent(ends[0]), high=t.percent(ends[1])))}</small>'
        kind = "adapter" if arm.endswith("adapter") else "base"
        filled = f'<b style="width:{100 * (score or 0.0) / full:.1f}%"></b>'
        bars += (
            f'<div class="bar {kind}"><span class="name">{esc(name)}</span><span class="track">{filled}{whisker}</span>'
            f'<span class="value">{esc(show(score, metric, t))}{told}</span></div>'
        )
    key = "rebase.bars_rate" if is_rate(metric) else "rebase.bars_error"
    return f'<div class="wb-bars four">{bars}<p class="wb-quiet">{esc(t(key, n=questions(verdict, t)))}</p></div>'


def wilson(share: float, n: int) -> tuple[float, float] | None:
    """The 95 % score interval of a share of `n` (Wilson 1927). It never leaves 0 to 1 and is never of no width."""
    if n <= 0 or not math.isfinite(share):
        return None
    z2 = 1.959964**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _contrasts(found: Contrasts, metric: str, check: Check, t: Words) -> str:
    """The four differences as a table: what, value with interval, and where the interval lies beside nought."""
    intervals: list[Interval] = [getattr(found, name) for name in _CONTRASTS]
    reach = (
        max((abs(end) for i in intervals for end in (i.value or 0.0, i.low or 0.0, i.high or 0.0) if math.isfinite(end)), default=0.0)
        or 1.0
    )
    rows = ""
    for name, interval in zip(_CONTRASTS, intervals, strict=True):
        what = t(f"rebase.contrast.{name}", home=check.home, base=check.base)
        rows += (
            f'<tr><th scope="row">{esc(what)}</th><td>{esc(difference(interval, metric, t))}</td>'
            f'<td class="line">{_forest(interval, reach)}</td></tr>'
        )
    return (
        f'<table class="wb-table"><thead class="wb-sr"><tr><th scope="col">{esc(t("rebase.contrast"))}</th>'
        f'<th scope="col">{esc(t("rebase.contrast_value"))}</th><th scope="col">{esc(t("rebase.contrast_line"))}</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _forest(interval: Interval, reach: float) -> str:
    def at(value: float) -> float:
        return 100 + 96 * max(-1.0, min(1.0, value / reach))

    tone = "good" if interval.above_zero else "bad" if interval.below_zero else "open"
    ends = ""
    if interval.low is not None and interval.high is not None:
        ends = f'<path class="ends" d="M{at(interval.low):.1f},12H{at(interval.high):.1f}"/>'
    return (
        f'<svg class="wb-forest {tone}" viewBox="0 0 200 24" width="200" height="24" aria-hidden="true">'
        f'<path class="nought" d="M100,1V23"/>{ends}<circle cx="{at(interval.value or 0.0):.1f}" cy="12" r="4.5"/></svg>'
    )


# ---------------------------------------------------------------- answers


def _answers(check: Check, verdict: Verdict, t: Words) -> str:
    told = ""
    if verdict.lost_rows is not None and verdict.won_rows is not None:
        told = t("rebase.flips", lost=t.n("rebase.lost_rows", verdict.lost_rows), won=t.n("rebase.won_rows", verdict.won_rows))
        if verdict.lost_share is not None:
            low, high = (t.percent(end) for end in verdict.lost_share)
            told += " " + t("rebase.lost_share", low=low, high=high, n=t.number(verdict.n))
        if verdict.flip_p is not None:
            told += " " + t("rebase.mcnemar", p=f"{verdict.flip_p:.2g}")
    columns = [("home", t("rebase.arm.home_adapter", base=check.home)), ("new", t("rebase.arm.new_adapter", base=check.base))]
    rows = [_witness(w, t) for w in check.witnesses[:_WITNESSES]]
    shown = f"<h3>{esc(t('rebase.witnesses'))}</h3>{answers(rows, columns, t)}" if rows else ""
    return card(t("rebase.changed"), f'<p class="sentence">{esc(told)}</p>{shown}') if told or shown else ""


def _witness(witness: Witness, t: Words) -> dict[str, object]:
    told = {"home": witness.home, "new": witness.new}
    known = {arm: t("rebase.not_recorded") if answer is None else answer for arm, answer in told.items()}
    return {"prompt": witness.prompt, "expected": witness.expected, **known}


# ---------------------------------------------------------------- findings, probes, how sure


def _findings(check: Check, t: Words) -> str:
    found = check.structure.findings
    if not found:
        return card(t("rebase.findings"), panel("good", esc(t("rebase.no_findings")), icon="ok"))
    items = "".join(_finding(each, t) for each in found)
    diff = ""
    if check.structure.template_diff:
        diff = (
            f'<details class="wb-words"><summary>{esc(t("rebase.template_diff"))}</summary><div class="wb-code"><pre tabindex="0" '
            f'aria-label="{esc(t("rebase.template_diff"))}"><code>{esc(check.structure.template_diff)}</code></pre></div></details>'
        )
    return card(t("rebase.findings"), f'<ul class="wb-findings">{items}</ul>{diff}')


def _finding(finding: Finding, t: Words) -> str:
    """The catalogue speaks English; in another language its words are marked as English."""
    entry = CATALOGUE.get(finding.name)
    title = entry.title if entry is not None else finding.name
    why = f"<p>{esc(entry.explanation)}</p><p>{esc(entry.advice)}</p>" if entry is not None else ""
    more = f"<details><summary>{esc(t('rebase.why'))}</summary><div lang='en'>{why}</div></details>" if why else ""
    return (
        f'<li>{badge(t(f"rebase.level.{finding.level}"), _LEVELS[finding.level])}<div><strong lang="en">{esc(title)}</strong> '
        f'<code>{esc(finding.name)}</code><p lang="en">{esc(finding.text)}</p>{more}</div></li>'
    )


def _probes(probes: Probes, t: Words) -> str:
    def show_or_none(value: float | None, text: str) -> str:
        return text.format(value) if value is not None else ""

    dose = " · ".join(f"α={alpha}: {nats:.3f}" for alpha, nats in probes.dose.items())
    pairs = [
        (t("rebase.probes.prompts"), t.number(probes.prompts)),
        (t("rebase.probes.cka"), f"{probes.cka_mean:.3f}"),
        (t("rebase.probes.agreement"), t.percent(probes.top1_agreement)),
        (t("rebase.probes.jsd"), f"{probes.jsd:.3f}"),
        (t("rebase.probes.correlation"), show_or_none(probes.effect_correlation, "{:+.2f}")),
        (t("rebase.probes.slope"), show_or_none(probes.effect_slope, "{:.2f}")),
        (t("rebase.probes.ratio"), show_or_none(probes.effect_ratio, "{:.2f}")),
        (t("rebase.probes.dose"), dose),
        (t("rebase.probes.best"), show_or_none(probes.best_dose, "α={:g}")),
    ]
    note = f'<p class="wb-quiet">{esc(t("rebase.probes.how"))}</p>'
    return card(t("rebase.probes"), facts((name, esc(value)) for name, value in pairs) + note)


def _sure(check: Check, t: Words) -> str:
    verdict = check.verdict
    rule = because = ""
    pairs: list[tuple[str, str]] = []
    if verdict is not None:
        rule = f'<p class="sentence">{esc(t(f"rebase.rule.{key_of(verdict.word)}"))}</p>'
        because = f'<code lang="en">{esc(verdict.because)}</code>'
        pairs = [
            (t("rebase.sure.rows"), esc(questions(verdict, t)) if verdict.n else ""),
            (t("rebase.sure.needed"), esc(t.number(verdict.rows_needed)) if verdict.rows_needed else ""),
            (t("rebase.sure.because"), because),
        ]
    pairs += [(t("rebase.sure.health"), _health(check, t)), (t("rebase.sure.retrained"), _retrained(check, t))]
    pairs += [
        (t("fact.dataset"), esc(check.dataset or "")),
        (t("rebase.sure.home"), f"{esc(check.home)} <code>{esc(check.home_lock_sha256[:12])}</code>"),
        (t("rebase.sure.new"), f"{esc(check.base)} <code>{esc(check.base_lock_sha256[:12])}</code>"),
        (t("fact.job"), f'<a href="{esc(t.link("jobs", job=check.job_id))}">{esc(check.job_id)}</a>' if check.job_id else ""),
        (t("rebase.sure.when"), esc(check.created_at[:16].replace("T", " "))),
    ]
    return card(t("rebase.sure"), rule + facts(pairs))


def _health(check: Check, t: Words) -> str:
    health = check.health
    if health is None:
        return ""
    home = f"{health.home:.2f}" if health.home is not None else "?"
    told = t("rebase.health", home=home, new=f"{health.new:.2f}", n=t.number(health.passages))
    return esc(told) + " " + (badge(t("rebase.health_broken"), "bad") if health.broken else badge(t("rebase.health_fine"), "good"))


def _retrained(check: Check, t: Words) -> str:
    again = check.retrained
    if again is None:
        return ""
    told = t("rebase.retrained", score=show(again.score, again.metric, t), missing=difference(again.headroom, again.metric, t))
    if again.recovered is not None:
        told += " " + t("rebase.recovered", share=f"{100 * again.recovered:.0f}%")
    return esc(told)
