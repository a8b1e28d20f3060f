"""The answer to "we are moving to a new base": one headline, one row per adapter with the worst first, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from workbench.rebase.release import Cell, moving, safety
from workbench.rebase.result import STAGES, Check
from workbench.rebase.telling import figures
from workbench.rebase.verdicts import State, badness
from workbench.records import Adapter, AdapterRef, Base, BaseRef, Dataset, Job
from workbench.words import Words
from workbench_ui.views.markup import button, empty, esc, panel, progress_bar

__all__ = [
    "act_button",
    "actions",
    "adapter_of",
    "answer",
    "detail_link",
    "no_adapters",
    "no_bases",
    "one_base",
    "picker",
    "retrain_link",
    "row",
    "sign",
]


def picker(bases: Sequence[Base], chosen: str, t: Words) -> str:
    """The question as native radio buttons, so that arrow keys work; `bases` in the order to show."""
    items = []
    for base in bases:
        checked = ' checked="checked"' if str(base.ref) == chosen else ""
        items.append(f'<label><input type="radio" name="wb-base" value="{esc(base.ref)}"{checked}/><span>{esc(base.ref)}</span></label>')
    return f'<fieldset class="wb-choose"><legend>{esc(t("rebase.moving"))}</legend><div>{"".join(items)}</div></fieldset>' if items else ""


def detail_link(adapter: str, base: str, t: Words) -> str:
    """The address of one cell."""
    return t.link("rebase", base=base, adapter=adapter)


def retrain_link(adapter: Adapter, base: str, t: Words) -> str:
    """The Train page, filled in with what this adapter was trained with, on the new base."""
    if adapter.job_id:
        return t.link("train", job=adapter.job_id, base=base)
    known = {"dataset": adapter.dataset} if adapter.dataset else {}
    return t.link("train", base=base, name=adapter.name, **known)


def adapter_of(check: Check) -> Adapter:
    """What a check still knows of an adapter that is gone."""
    ref = AdapterRef.parse(check.adapter)
    return Adapter(
        name=ref.name,
        version=ref.version or 0,
        path=Path(),
        base=BaseRef.parse(check.home),
        base_lock_sha256=check.home_lock_sha256,
        dataset=check.dataset,
        dataset_sha256=None,
        method="lora",
        manifest_sha256=check.adapter_sha256,
        created_at=datetime.fromisoformat(check.created_at),
    )


# ---------------------------------------------------------------- the rows


def answer(
    cells: Sequence[Cell],
    base: str,
    t: Words,
    *,
    at_home: int = 0,
    seconds: float | None = None,
    datasets: Sequence[Dataset] = (),
) -> str:
    """The headline, the button for everything that is not checked yet, and the rows with the worst first.

    `cells` are the newest versions that were made for another base, `at_home` counts those made for this one; `seconds` is the
    estimate for all that wait. Adapters without evidence can be tested on one of `datasets`.
    """
    home = t.n("rebase.at_home", at_home, base=base) if at_home else ""
    if not cells:
        return f'<div class="wb-answer">{panel("good", esc(home), icon="home")}</div>' if home else no_adapters(t)
    waiting = sum(cell.state.waits for cell in cells)
    everything = ""
    if waiting > 1:
        cost = f" ({t('train.about', value=t.duration(seconds))})" if seconds else ""
        everything = act_button("check", t("rebase.check_all", n=waiting) + cost, "", base, primary=True)
    rows = "".join(row(cell, t, datasets=datasets) for cell in sorted(cells, key=lambda c: (-badness(c.state.name), c.adapter.name)))
    under = f'<p class="wb-quiet">{esc(home)}</p>' if home else ""
    told = moving([cell.state for cell in cells], base, [cell.retrain_seconds for cell in cells if cell.state.broken])
    sure = safety([cell.check if cell.state.verdict else None for cell in cells], base) if len(cells) > 1 else None
    under = (f'<p class="sure">{t.markup(sure)}</p>' if sure is not None else "") + under
    return (
        f'<div class="wb-answer"><div class="top" data-row="">'
        f'<h2 class="headline" role="status">{t.markup(told)}</h2>{everything}</div>'
        f'<ul class="wb-verdicts">{rows}</ul>{under}</div>'
    )


def row(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = ()) -> str:
    """One adapter: icon, word, sentence, figures, what to do."""
    state, numbers = cell.state, ""
    if cell.check is not None and state.name not in {"stale", "busy"}:
        numbers = f'<p class="figures">{t.markup(figures(cell.check))}</p>'
    elif cell.failed is not None and cell.job is None:
        said = t("rebase.failed", error=t.said((cell.failed.error or t("jobs.no_reason")).splitlines()[0]))
        numbers = f'<p class="figures">{esc(said)} <a href="{esc(t.link("jobs", job=cell.failed.id))}">{esc(t("rebase.see_job"))}</a></p>'
    progress = _progress(cell.job, t) if cell.job is not None else ""
    return (
        f'<li class="wb-verdict wb-{state.tone}" data-row="{esc(cell.adapter.ref)}">{sign(state)}<div>'
        f'<p class="word">{esc(t(f"rebase.word.{state.key}"))}</p>'
        f'<p class="says">{t.markup(cell.headline)}</p>{numbers}{progress}</div>'
        f'<div class="wb-actions">{actions(cell, t, datasets=datasets)}</div></li>'
    )


def sign(state: State) -> str:
    """The mark that tells a state from the others without its colour; the word beside it says it all."""
    return f'<span class="wb-sign" aria-hidden="true">{esc(state.mark)}</span>'


def actions(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = (), details: bool = True) -> str:
    """What can be done about this cell; without `details` for the page that shows them already."""
    ref, base, parts = cell.adapter.ref, cell.base, list[str]()
    if cell.job is not None:
        return button(t("rebase.see_job"), t.link("jobs", job=cell.job.id))
    state = cell.state.name
    if cell.state.broken:
        parts.append(button(t("rebase.retrain", base=base), retrain_link(cell.adapter, base, t)))
    elif state == "untested":
        parts.append(_evaluate(cell.adapter, datasets, t))
    elif state in {"unchecked", "looked"}:
        parts.append(act_button("check", t("rebase.check_now"), ref, base, about=cell.adapter.name))
    if cell.check is not None and (not details or state == "stale"):
        parts.append(act_button("check", t("rebase.check_again"), ref, base, about=cell.adapter.name))
    if details and cell.check is not None:
        label = f"{t('rebase.details')}: {cell.adapter.name}"
        parts.append(f'<a class="more" href="{esc(detail_link(ref, base, t))}" aria-label="{esc(label)}">{esc(t("rebase.details"))}</a>')
    return "".join(parts)


def act_button(what: str, label: str, adapter: str, base: str, *, about: str = "", primary: bool = False) -> str:
    """A button that the page's script turns into an event; `about` tells it from its neighbours for screen readers."""
    kind = "wb-button wb-primary" if primary else "wb-button"
    named = f' aria-label="{esc(label)}: {esc(about)}"' if about else ""
    return (
        f'<button type="button" class="{kind}" data-do="{esc(what)}" data-adapter="{esc(adapter)}" data-base="{esc(base)}"{named}>'
        f"{esc(label)}</button>"
    )


def _evaluate(adapter: Adapter, datasets: Sequence[Dataset], t: Words) -> str:
    """An imported adapter comes without evidence: which test set shall it be scored on?"""
    if not datasets:
        return button(t("rebase.add_test"), t.link("train"))
    first = sorted(datasets, key=lambda d: (d.name != adapter.dataset, d.bundled, d.name))
    options = "".join(f'<option value="{esc(d.name)}">{esc(d.name)} · {esc(t.n("score.questions", d.test_rows))}</option>' for d in first)
    label = f"{t('rebase.test_on')}: {adapter.name}"
    return (
        f'<span class="wb-pick"><select aria-label="{esc(label)}">{options}</select>'
        f"{act_button('evaluate', t('rebase.test_now'), adapter.ref, '', about=adapter.name)}</span>"
    )


def _progress(job: Job, t: Words) -> str:
    phase = job.progress.phase if job.progress else ""
    said = t(f"rebase.stage.{phase}") if phase in STAGES else t.term("state", job.state.value)
    bar = progress_bar(job.progress.share if job.progress else None, t("jobs.progress"))
    return f'{bar}<p class="figures">{esc(said)}</p>'


# ---------------------------------------------------------------- nothing to check


def no_bases(t: Words) -> str:
    """Without a base there is nowhere to move to."""
    return empty(t("rebase.no_bases_title"), esc(t("rebase.no_bases")), button(t("rebase.get_base"), t.link("train"), primary=True))


def one_base(base: Base, t: Words) -> str:
    """With one base only, everything is at home; says how a second one gets here."""
    return panel("idle", t.html("rebase.one_base", base=base.ref), icon="ask", actions=button(t("rebase.get_base"), t.link("train")))


def no_adapters(t: Words) -> str:
    """Without adapters there is nothing to move."""
    start = button(t("adapters.empty_action"), t.link("train", dataset="order-codes", preset="quick"), primary=True, icon="train")
    return empty(t("adapters.empty_title"), esc(t("rebase.no_adapters")), start)
