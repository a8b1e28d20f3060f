"""The Train page in words: what a dataset holds, what a preset costs here, and what the start button will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.bases.catalogue import Entry
from workbench.data.checks import LISTED, Finding, Report
from workbench.planning import Plan
from workbench.recipe import PRESETS
from workbench.records import Base, Dataset
from workbench.words import Words
from workbench_ui.views.markup import bullet_list, code_block, esc, facts, panel, quiet, trouble

__all__ = [
    "as_code",
    "base_card",
    "base_choice",
    "catalogue_card",
    "catalogue_choice",
    "column_question",
    "dataset_card",
    "dataset_choice",
    "file_report",
    "preset_choices",
    "summary_card",
]

_SHOWN_FINDINGS = 8


def dataset_choice(dataset: Dataset, t: Words) -> str:
    """`order-codes · 800 examples, 400 for the test`"""
    told = t("train.dataset_choice", name=dataset.name, train=t.number(dataset.train_rows), test=t.number(dataset.test_rows))
    return told + (f" · {t('train.example')}" if dataset.bundled else "")


def base_choice(base: Base) -> str:
    """`smollm2-135m-instruct@1 · 135 M · Apache-2.0`"""
    return f"{base.ref} · {_parameters(base.parameters)} · {base.license}"


def base_card(base: Base, t: Words) -> str:
    """Size, licence and where it came from."""
    pairs = [
        (t("base.size"), esc(t("base.parameters", n=_parameters(base.parameters)))),
        (t("base.license"), esc(base.license)),
        (t("base.source"), esc(t.term("source", base.source["kind"]))),
        (t("base.continues"), esc(base.continues) if base.continues else ""),
    ]
    return facts(pairs)


def column_question(question: str, t: Words) -> str:
    """What the file cannot say itself, as a question that the controls below answer."""
    return panel("warn", f"<strong>{esc(t('data.ask'))}</strong> {esc(t.said(question))}", icon="warn")


def catalogue_choice(entry: Entry, t: Words) -> str:
    """`SmolLM2 135M Instruct · 135 M · Apache-2.0`, and a word where nobody has tried the entry."""
    tried = "" if entry.verified else f" · {t('base.untried')}"
    return f"{entry.title} · {_parameters(entry.parameters)} · {entry.license.id}{tried}"


def catalogue_card(entry: Entry, t: Words) -> str:
    """What one gets and owes, before anything is downloaded."""
    pairs = [
        (t("base.size"), esc(t("base.parameters", n=_parameters(entry.parameters)))),
        (t("base.context"), esc(t.number(entry.context_length))),
        (t("base.license"), esc(entry.license.id)),
    ]
    return (
        f'{facts(pairs)}<h3>{esc(t("base.obliges"))}</h3><div class="wb-note">{bullet_list(map(t.said, entry.license.obligations))}</div>'
    )


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M" if count >= 1e6 else f"{count / 1e3:.0f} K"


def dataset_card(dataset: Dataset, report: Mapping[str, Any], t: Words) -> str:
    """How many examples, what is kept for the test, and what the check found when the file was added."""
    counts = dict(report.get("counts") or {})
    found = panel("good", esc(t("data.clean")), icon="ok")
    if counts:
        listed = ", ".join(t("data.count", kind=t.term("finding", kind), n=t.number(n)) for kind, n in counts.items())
        found = panel("warn", t.html("data.found", list=listed), icon="warn")
    pairs = [
        (t("data.train"), esc(t.n("data.rows", dataset.train_rows))),
        (t("data.test"), esc(t.n("data.rows", dataset.test_rows))),
        (t("data.scorer"), esc(t.term("scorer", dataset.scorer) if dataset.scorer else t("scorer.none"))),
    ]
    return facts(pairs) + found


def file_report(report: Report, t: Words) -> str:
    """What the check says about a file that was dropped and not added yet."""
    notes = "".join(f"<p>{esc(t.said(note))}</p>" for note in report.notes)
    good = panel("good", f"<strong>{esc(t.n('data.readable', report.rows))}</strong>{notes}", icon="ok") if report.ok else ""
    bad = _findings("bad", t("data.blocking"), report.problems, report, t) if report.problems else ""
    warn = _findings("warn", t("data.warnings"), report.warnings, report, t) if report.warnings else ""
    return good + bad + warn


def _findings(tone: str, title: str, findings: Sequence[Finding], report: Report, t: Words) -> str:
    lines, listed = [t.said(str(finding)) for finding in findings[:_SHOWN_FINDINGS]], Counter(finding.kind for finding in findings)
    beyond = sum(report.counts[kind] - n for kind, n in listed.items() if n >= LISTED)
    left = len(findings) - len(lines) + beyond
    more = f"<p>{esc(t('data.more', n=t.number(left)))}</p>" if left else ""
    return panel(tone, f"<strong>{esc(title)}</strong>{bullet_list(lines)}{more}", icon="warn")


def preset_choices(plans: Mapping[str, Plan | None], t: Words) -> list[tuple[str, str]]:
    """(label, preset) for the radio: the title on the first line, then when to use it, then what it costs here."""
    return [(_preset(name, plans.get(name), t), name) for name in PRESETS]


def _preset(name: str, plan: Plan | None, t: Words) -> str:
    lines = [t(f"preset.{name}"), t(f"preset.{name}.when")]
    if plan is not None:
        lines.append(t("preset.cost", time=t.duration(plan.estimate.seconds), memory=t.bytes(plan.estimate.peak_bytes)))
    return "\n".join(lines)


def summary_card(plan: Plan, t: Words) -> str:
    """What the start button will do, in one sentence and four figures."""
    estimate = plan.estimate
    sentence = t.html("train.sentence", rows=t.number(plan.dataset.train_rows), dataset=plan.dataset.name, base=str(plan.base.ref))
    pairs = [
        (t("train.time"), f"<strong>{esc(t('train.about', value=t.duration(estimate.seconds)))}</strong>"),
        (t("train.memory"), f"<strong>{esc(t('train.about', value=t.bytes(estimate.peak_bytes)))}</strong>"),
        (t("train.steps"), esc(t.number(estimate.steps))),
        (t("train.tokens"), esc(t.tokens(estimate.tokens))),
        (t("train.kept"), esc(t.n("data.rows", plan.dataset.test_rows))),
        (t("train.result"), esc(t.said(plan.publishes))),
    ]
    warnings = panel("warn", bullet_list(map(t.said, plan.warnings)), icon="warn") if plan.warnings else ""
    problems = trouble(f"<strong>{esc(t('train.blocked'))}</strong>{bullet_list(map(t.said, plan.problems))}") if plan.problems else ""
    return f'<p class="sentence">{sentence}</p>{facts(pairs)}{quiet(t.said(estimate.basis))}{warnings}{problems}'


def as_code(yaml: str, command: str, t: Words) -> str:
    """The same run for the shell and as a file."""
    copy = t("copy")
    return (
        f"<h3>{esc(t('train.command'))}</h3>{code_block(command, copy, t('train.command'))}"
        f"<h3>{esc(t('train.yaml'))}</h3>{code_block(yaml, copy, t('train.yaml'))}"
    )
