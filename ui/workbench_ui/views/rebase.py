"""The answer to "we are moving to a new base": one headline, one row per adapter with the worst first, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from workbench.rebase.result import Check
from workbench.records import Adapter, AdapterRef, Base, BaseRef, Dataset, Job
from workbench.words import Words
from workbench_ui.icons import ICONS
from workbench_ui.views.markup import button, empty, esc, panel, progress_bar
from workbench_ui.views.verdict import Cell, figures, look, sentence, word

__all__ = [
    "STAGES",
    "act_button",
    "actions",
    "adapter_of",
    "answer",
    "detail_link",
    "headline",
    "no_adapters",
    "no_bases",
    "one_base",
    "picker",
    "retrain_link",
    "row",
]


STAGES = ("structure", "weights", "probes", "behaviour")  # of a check: the phases of its job


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


# ---------------------------------------------------------------- the headline


def headline(cells: Sequence[Cell], base: str, t: Words) -> str:
    """How many work as they are, and how many need what. Safe HTML."""
    counts = {state: sum(cell.state == state for cell in cells) for state in {c.state for c in cells}}
    works, of = counts.get("works", 0), len(cells)
    key = "rebase.head.all" if works == of else "rebase.head.some"
    end = "one" if of == 1 else "single" if works == 1 else "other"
    parts = [t.html(f"{key}.{end}", base=base, works=t.number(works), n=t.number(of))]
    broken = [cell for cell in cells if cell.broken]
    if broken:
        told = t.n("rebase.head.broken", len(broken))
        times = [cell.retrain_seconds for cell in broken]
        if all(seconds is not None for seconds in times):
            told += t("rebase.head.time", time=t.duration(sum(filter(None, times))))
        parts.append(esc(told))
    for state, key in (
        ("not needed", "not_needed"),
        ("no gain at home", "no_gain"),
        ("too close to tell", "too_close"),
        ("busy", "busy"),
        ("untested", "untested"),
    ):
        if counts.get(state):
            parts.append(esc(t.n(f"rebase.head.{key}", counts[state])))
    unchecked = sum(counts.get(state, 0) for state in ("unchecked", "stale", "looked"))
    if unchecked:
        parts.append(esc(t.n("rebase.head.unchecked", unchecked)))
    return t("rebase.head.join").join(parts) + t("rebase.head.end")


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
    waiting = sum(cell.open for cell in cells)
    everything = ""
    if waiting > 1:
        cost = f" ({t('train.about', value=t.duration(seconds))})" if seconds else ""
        everything = act_button("check", t("rebase.check_all", n=waiting) + cost, "", base, primary=True)
    rows = "".join(row(cell, t, datasets=datasets) for cell in sorted(cells, key=lambda c: (c.urgency, c.adapter.name)))
    under = f'<p class="wb-quiet">{esc(home)}</p>' if home else ""
    return (
        f'<div class="wb-answer"><div class="top" data-row="">'
        f'<h2 class="headline" role="status">{headline(cells, base, t)}</h2>{everything}</div>'
        f'<ul class="wb-verdicts">{rows}</ul>{under}</div>'
    )


def row(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = ()) -> str:
    """One adapter: icon, word, sentence, figures, what to do."""
    tone, icon = look(cell.state)
    numbers = ""
    if cell.check is not None and cell.state not in {"stale", "busy"}:
        numbers = f'<p class="figures">{esc(figures(cell.check, t))}</p>'
    elif cell.failed is not None and cell.job is None:
        said = t("rebase.failed", error=t.said((cell.failed.error or t("jobs.no_reason")).splitlines()[0]))
        numbers = f'<p class="figures">{esc(said)} <a href="{esc(t.link("jobs", job=cell.failed.id))}">{esc(t("rebase.see_job"))}</a></p>'
    progress = _progress(cell.job, t) if cell.job is not None else ""
    return (
        f'<li class="wb-verdict wb-{tone}" data-row="{esc(cell.adapter.ref)}">{ICONS[icon]}<div>'
        f'<p class="word">{esc(word(cell.state, t))}</p>'
        f'<p class="says">{sentence(cell, t)}</p>{numbers}{progress}</div>'
        f'<div class="wb-actions">{actions(cell, t, datasets=datasets)}</div></li>'
    )


def actions(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = (), details: bool = True) -> str:
    """What can be done about this cell; without `details` for the page that shows them already."""
    ref, base, parts = cell.adapter.ref, cell.base, list[str]()
    if cell.job is not None:
        return button(t("rebase.see_job"), t.link("jobs", job=cell.job.id))
    if cell.broken:
        parts.append(button(t("rebase.retrain", base=base), retrain_link(cell.adapter, base, t)))
    elif cell.state == "untested":
        parts.append(_evaluate(cell.adapter, datasets, t))
    elif cell.state == "unchecked" or cell.state == "looked":
        parts.append(act_button("check", t("rebase.check_now"), ref, base, about=cell.adapter.name))
    if cell.check is not None and (not details or cell.state == "stale"):
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
