"""Jobs on the page: records and lines of metrics in, text and markup out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from workbench.recipe import typed
from workbench.records import PHASES, Job, JobState, Progress
from workbench.words import Words
from workbench_ui.icons import ICONS
from workbench_ui.views.chart import Point, loss_chart
from workbench_ui.views.markup import badge, bullet_list, button, card, empty, esc, facts, panel, progress_bar, quiet, stack
from workbench_ui.views.scores import answers, score_sentence

__all__ = ["Series", "frozen_settings", "job_list", "job_live", "job_samples", "job_title", "job_what", "series"]

_DOING = {"fetch", "rebase", "evaluate"}  # kinds of jobs with words of their own
_TONES = {
    JobState.queued: "idle",
    JobState.running: "busy",
    JobState.interrupted: "warn",
    JobState.succeeded: "good",
    JobState.failed: "bad",
    JobState.failed_permanently: "bad",
    JobState.cancelled: "idle",
}


@dataclass(frozen=True)
class Series:
    """A job's metrics, as the page shows them."""

    train: list[Point] = field(default_factory=list)
    evals: list[Point] = field(default_factory=list)
    latest: Progress | None = None  # every field the newest known value of the present phase
    learned: Progress | None = None  # the same over the lines of the training phase alone
    tested: list[Progress] = field(default_factory=list)  # the lines with sample answers


def series(lines: Sequence[Progress]) -> Series:
    """Sort a job's metrics into what the page shows; `lines` come in order, without the steps that a resumed run repeated."""
    train = [(p.step, p.loss) for p in lines if p.step is not None and p.loss is not None]
    evals = [(p.step, p.eval_loss) for p in lines if p.step is not None and p.eval_loss is not None]
    latest: Progress | None = None
    learned: Progress | None = None
    for p in lines:
        latest = p.onto(latest)
        learned = p.onto(learned) if p.phase == "training" else learned
    return Series(train, evals, latest, learned, [p for p in lines if p.samples])


# ---------------------------------------------------------------- the list


def job_list(jobs: Sequence[Job], t: Words, *, now: datetime | None = None) -> str:
    """One row a job, newest first, each a link to its page."""
    if not jobs:
        return empty(t("jobs.empty_title"), t("jobs.empty"), button(t("jobs.empty_action"), t.link("train"), primary=True, icon="train"))
    return f'<ul class="wb-list">{"".join(_row(job, t, now) for job in jobs)}</ul>'


def job_title(job: Job, t: Words) -> str:
    """Short: the adapter's name where the job makes one, else the job's own title."""
    recipe = job.spec.get("recipe") or {}
    return str(recipe.get("name") or recipe.get("dataset") or t.said(job.title))


def job_what(job: Job, t: Words) -> str:
    """What it does, in one plain-text line; empty where its title says it already."""
    recipe = job.spec.get("recipe") or {}
    if not recipe:
        return ""
    return t(
        "jobs.what", base=recipe.get("base", ""), dataset=recipe.get("dataset", ""), method=t.term("method", recipe.get("method", "lora"))
    )


def _row(job: Job, t: Words, now: datetime | None) -> str:
    side = ""
    if job.state is JobState.running:
        share = job.progress.share if job.progress else None
        side = progress_bar(share, t("jobs.progress")) + f'<span class="wb-quiet">{esc(_time_left(job.progress, t))}</span>'
    elif job.state is JobState.succeeded:
        side = f'<span class="wb-quiet wb-clip">{esc(_outcome(job, t))}</span>'
    elif job.error:
        side = f'<span class="wb-quiet wb-clip">{esc(t.said(job.error.splitlines()[0]))}</span>'
    return (
        f'<li><a href="{esc(t.link("jobs", job=job.id))}"><span class="what"><strong>{esc(job_title(job, t))}</strong>'
        f'<span class="wb-quiet">{esc(" · ".join(filter(None, [job_what(job, t), t.ago(job.created_at, now)])))}</span></span>'
        f'{badge(t.term("state", job.state.value), _TONES[job.state])}<span class="side">{side}</span></a></li>'
    )


def _outcome(job: Job, t: Words) -> str:
    result = job.result or {}
    return score_sentence(result.get("scores") or {}, t) or str(result.get("adapter") or result.get("base") or "")


# ---------------------------------------------------------------- one job


def job_live(job: Job, run: Series, t: Words, *, now: datetime | None = None) -> str:
    """The part of a job's page that changes while it runs: headline, phases, progress, curve, figures."""
    progress = run.latest or job.progress
    total = run.learned.total_steps if run.learned else None
    curve = ""
    if run.train or run.evals or (job.kind == "train" and not job.state.final):
        chart = loss_chart(run.train, run.evals, t, total_steps=total)
        curve = card(t("jobs.curve"), chart + facts(((name, esc(value)) for name, value in _figures(job, run, t, now)), "wb-tiles"))
    return stack([_headline(job, progress, t), curve])


def _headline(job: Job, progress: Progress | None, t: Words) -> str:
    if job.state is JobState.succeeded:
        return _ready(job, t)
    if job.state in {JobState.failed, JobState.failed_permanently}:
        return _failed(job, t)
    if job.state is JobState.cancelled:
        again = button(t("jobs.again"), t.link("train", job=job.id)) if job.kind == "train" else ""
        return panel("idle", f"<strong>{esc(t('jobs.cancelled'))}</strong> {esc(t('jobs.cancelled_more'))}", icon="stop", actions=again)
    share = progress.share if progress and job.state is JobState.running else None
    left = _time_left(progress, t) or t.said(progress.message or "" if progress else "")
    steps = _stepper(job, progress, t) if job.kind == "train" else ""
    return (
        f'<section class="wb-card wb-now"><p class="headline" role="status">{esc(_doing(job, progress, t))}</p>{steps}'
        f"{progress_bar(share, t('jobs.progress'))}"
        f'<p class="under"><span>{esc(left)}</span><span class="wb-quiet">{esc(t("jobs.close"))}</span></p></section>'
    )


def _doing(job: Job, progress: Progress | None, t: Words) -> str:
    if job.cancel_requested:
        return t("jobs.doing.stopping")
    if job.state is not JobState.running:
        return t(f"jobs.doing.{job.state.value}")
    if job.kind != "train":
        return t(f"jobs.doing.{job.kind}" if job.kind in _DOING else "jobs.doing.other")
    return t(f"jobs.doing.{_phase(progress)}")


def _phase(progress: Progress | None) -> str:
    """What a running training is doing; a phase that this version does not know comes after all others."""
    phase = progress.phase if progress else PHASES[0]
    return phase if phase in PHASES else PHASES[-1]


def _time_left(progress: Progress | None, t: Words) -> str:
    if progress is None or not round(progress.seconds_left or 0):
        return ""  # unknown, or the next phase is about to say its own
    return t("jobs.left", time=t.elapsed(progress.seconds_left))


def _stepper(job: Job, progress: Progress | None, t: Words) -> str:
    at = PHASES.index(_phase(progress)) if job.state is JobState.running else -1
    items = []
    for i, phase in enumerate(PHASES):
        kind = "past" if i < at else "here" if i == at else "ahead"
        mark, here = ICONS["ok"] if i < at else "", ' aria-current="step"' if i == at else ""
        items.append(f'<li class="{kind}"{here}>{mark}{esc(t(f"phase.{phase}"))}</li>')
    return f'<ol class="wb-steps">{"".join(items)}</ol>'


def _ready(job: Job, t: Words) -> str:
    result = job.result or {}
    made = str(result.get("adapter") or "")
    told = score_sentence(result.get("scores") or {}, t)
    actions = ""
    if made:
        actions = button(t("jobs.see_adapter"), t.link("adapters", adapter=made), primary=True) + button(
            t("adapters.download"), download_link(made), icon="down", download=True
        )
    if job.kind == "fetch":
        actions = button(t("jobs.train_on"), t.link("train", base=str(result.get("base"))), primary=True, icon="train")
    if job.kind == "rebase":
        seen = button(t("jobs.see_checks"), t.link("rebase", base=str(result.get("base"))), primary=True)
        failed = [f"{ref}: {t.said(told)}" for ref, told in (result.get("failed") or {}).items()]
        warning = panel("warn", bullet_list(failed), icon="warn") if failed else ""
        return panel("good", f"<strong>{esc(t('jobs.checked'))}</strong>", icon="ok", actions=seen) + warning
    name = made or str(result.get("base") or result.get("out") or result.get("folder") or "")
    return panel("good", f"<strong>{t.html('jobs.ready', name=name)}</strong> {esc(told)}", icon="ok", actions=actions)


def download_link(adapter: str) -> str:
    """Where `files.py` serves an adapter as a zip; `adapter` is `name@3`."""
    name, _, version = adapter.partition("@")
    return f"/files/adapters/{name}/{version}.zip"


def _failed(job: Job, t: Words) -> str:
    reason = esc(t.said(job.error) if job.error else t("jobs.no_reason")).replace("\n", "<br>")
    again = button(t("jobs.change"), t.link("train", job=job.id), primary=True) if job.kind == "train" else ""
    return panel("bad", f"<strong>{esc(t('jobs.failed'))}</strong><div class='reason'>{reason}</div>", icon="warn", actions=again)


def _figures(job: Job, run: Series, t: Words, now: datetime | None) -> list[tuple[str, str]]:
    progress = run.learned
    if progress is None:
        return []
    step = t.number(progress.step) if progress.step is not None else ""
    best = min((value for _, value in run.evals), default=None)
    return [
        (t("figure.step"), t("figure.of", part=step, whole=t.number(progress.total_steps)) if step and progress.total_steps else step),
        (t("figure.passes"), f"{progress.epoch:.2g}" if progress.epoch is not None else ""),
        (t("figure.error"), t.number(progress.loss) if progress.loss is not None else ""),
        (t("figure.best"), t.number(best) if best is not None else ""),
        (t("figure.speed"), t("figure.tokens_s", n=t.number(round(progress.tokens_per_second))) if progress.tokens_per_second else ""),
        (t("figure.tokens"), t.tokens(progress.tokens) if progress.tokens else ""),
        (t("figure.elapsed"), t.elapsed(job.worked(now))),
    ]


def job_samples(run: Series, t: Words) -> str:
    """The sample answers of the newest test beside those of the first one."""
    if not run.tested:
        return ""
    *earlier, newest = run.tested
    before = {row.get("prompt"): row.get("answer") for line in earlier[:1] for row in line.samples or []}
    rows: list[dict[str, Any]] = [{**row, "before": before.get(row.get("prompt"))} for row in newest.samples or []]
    columns = [("before", t("answers.first")), ("answer", t("answers.now"))]
    note = t("jobs.samples_at", step=t.number(newest.step)) if newest.step is not None else ""
    return card(t("jobs.samples"), quiet(note) + answers(rows, columns, t))


def frozen_settings(job: Job, t: Words) -> str:
    """The settings this job was submitted with, which no later edit of any form can change."""
    recipe = job.spec.get("recipe") or {}
    pairs = [(t("jobs.id"), f"<code>{esc(job.id)}</code>"), (t("jobs.submitted"), esc(t.date(job.created_at)))]
    pairs += [(a.state and t("jobs.attempt", n=a.n), esc(t.term("state", a.state))) for a in job.attempts if len(job.attempts) > 1]
    values = recipe or {key: value for key, value in job.spec.items() if not isinstance(value, dict | list)}
    return (
        facts(pairs)
        + '<div class="wb-settings">'
        + facts((key, f"<code>{esc('–' if value in (None, []) else typed(value))}</code>") for key, value in values.items())
        + "</div>"
    )
