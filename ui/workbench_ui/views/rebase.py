"""The answer to "we are moving to a new base": one headline, one row per adapter with the worst first, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from urllib.parse import urlencode

from workbench.rebase import report
from workbench.rebase.release import Cell, moving, safety
from workbench.rebase.result import STAGES, Check
from workbench.rebase.telling import figures, tell
from workbench.rebase.verdicts import State, badness
from workbench.records import Adapter, Base, Dataset, Job
from workbench.words import Words
from workbench_ui.views.adapters import no_adapters
from workbench_ui.views.markup import button, empty, esc, panel, progress_bar, stack

__all__ = ["answer", "detail", "gone", "matrix", "no_bases", "one_base", "picker", "row"]


def picker(bases: Sequence[Base], chosen: str, t: Words) -> str:
    """The question as native radio buttons, so that arrow keys work; `bases` in the order to show."""
    items = []
    for base in bases:
        checked = ' checked="checked"' if str(base.ref) == chosen else ""
        items.append(f'<label><input type="radio" name="wb-base" value="{esc(base.ref)}"{checked}/><span>{esc(base.ref)}</span></label>')
    return f'<fieldset class="wb-choose"><legend>{esc(t("rebase.moving"))}</legend><div>{"".join(items)}</div></fieldset>' if items else ""


def _retrain_link(adapter: Adapter, base: str, t: Words) -> str:
    """The Train page, filled in with what this adapter was trained with, on the new base."""
    if adapter.job_id:
        return t.link("train", job=adapter.job_id, base=base)
    known = {"dataset": adapter.dataset} if adapter.dataset else {}
    return t.link("train", base=base, name=adapter.name, **known)


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
        return f'<div class="wb-answer">{panel("good", esc(home), icon="home")}</div>' if home else no_adapters(t, "rebase.no_adapters")
    waiting = sum(cell.state.waits for cell in cells)
    everything = ""
    if waiting > 1:
        cost = f" ({t('train.about', value=t.duration(seconds))})" if seconds else ""
        everything = _act_button("check", t("rebase.check_all", n=waiting) + cost, "", base, primary=True)
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
        f'<li class="wb-verdict wb-{state.tone}" data-row="{esc(cell.adapter.ref)}">{_sign(state)}<div>'
        f'<p class="word">{esc(t(f"rebase.word.{state.key}"))}</p>'
        f'<p class="says">{t.markup(cell.headline)}</p>{numbers}{progress}</div>'
        f'<div class="wb-actions">{_actions(cell, t, datasets=datasets)}</div></li>'
    )


def _sign(state: State) -> str:
    """The mark that tells a state from the others without its colour; the word beside it says it all."""
    return f'<span class="wb-sign" aria-hidden="true">{esc(state.mark)}</span>'


def _actions(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = (), details: bool = True) -> str:
    """What can be done about this cell; without `details` for the page that shows them already."""
    ref, base, parts = cell.adapter.ref, cell.base, list[str]()
    if cell.job is not None:
        return button(t("rebase.see_job"), t.link("jobs", job=cell.job.id))
    state = cell.state.name
    if cell.state.broken:
        parts.append(button(t("rebase.retrain", base=base), _retrain_link(cell.adapter, base, t)))
    elif state == "untested":
        parts.append(_evaluate(cell.adapter, datasets, t))
    elif state in {"unchecked", "looked"}:
        parts.append(_act_button("check", t("rebase.check_now"), ref, base, about=cell.adapter.name))
    if cell.check is not None and (not details or state == "stale"):
        parts.append(_act_button("check", t("rebase.check_again"), ref, base, about=cell.adapter.name))
    if details and cell.check is not None:
        label, link = f"{t('rebase.details')}: {cell.adapter.name}", t.link("rebase", base=base, adapter=ref)
        parts.append(f'<a class="more" href="{esc(link)}" aria-label="{esc(label)}">{esc(t("rebase.details"))}</a>')
    return "".join(parts)


def _act_button(what: str, label: str, adapter: str, base: str, *, about: str = "", primary: bool = False) -> str:
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
        f"{_act_button('evaluate', t('rebase.test_now'), adapter.ref, '', about=adapter.name)}</span>"
    )


def _progress(job: Job, t: Words) -> str:
    phase = job.progress.phase if job.progress else ""
    said = t(f"rebase.stage.{phase}") if phase in STAGES else t.term("state", job.state.value)
    bar = progress_bar(job.progress.share if job.progress else None, t("jobs.progress"))
    return f'{bar}<p class="figures">{esc(said)}</p>'


# ---------------------------------------------------------------- one check in full


def detail(cell: Cell, t: Words, *, datasets: Sequence[Dataset] = ()) -> str:
    """All sections; without a check, what is missing and the button that gets it."""
    if cell.check is None:
        return f'<ul class="wb-verdicts">{row(cell, t, datasets=datasets)}</ul>'
    return _told(cell.check, t, _actions(cell, t, details=False), stale=cell.stale, retrain_seconds=cell.retrain_seconds)


def gone(check: Check, t: Words) -> str:
    """The same of an adapter that was removed since: nothing can be done about it any more."""
    return stack([panel("warn", t.html("rebase.adapter_gone", adapter=check.adapter), icon="warn"), _told(check, t, stale=True)])


def _told(check: Check, t: Words, buttons: str = "", *, stale: bool, retrain_seconds: float | None = None) -> str:
    """The engine's telling, below it the page's buttons and what `files.py` serves of it."""
    telling = tell(check, stale=stale, retrain_seconds=retrain_seconds)
    query = urlencode({"adapter": check.adapter, "base": check.base, "lang": t.lang})
    for label, kind in ((t("rebase.report"), "html"), ("JSON", "json")):
        buttons += button(label, f"/files/rebase/check.{kind}?{query}", icon="down", download=True)
    return stack([report.verdict(telling, t, buttons), report.sections(telling, t)])


# ---------------------------------------------------------------- every adapter on every base


def matrix(cells: Sequence[Cell], t: Words, *, chosen: str = "") -> str:
    """Rows are adapters, columns are bases, as `bench.rebase.matrix` gives them."""
    heads = "".join(f'<th scope="col"{_chosen(base, chosen)}>{esc(base)}</th>' for base in dict.fromkeys(cell.base for cell in cells))
    rows = ""
    for _, of_adapter in groupby(cells, key=lambda cell: cell.adapter.ref):
        row = list(of_adapter)
        name, version = row[0].adapter.name, row[0].adapter.version
        shown = "".join(f"<td{_chosen(cell.base, chosen)}>{_cell(cell, t)}</td>" for cell in row)
        rows += f'<tr><th scope="row">{esc(name)} <span class="wb-quiet">v{version}</span></th>{shown}</tr>'
    return (
        f'<div class="wb-matrix" tabindex="0" role="region" aria-label="{esc(t("rebase.matrix"))}"><table>'
        f'<caption class="wb-sr">{esc(t("rebase.matrix_how"))}</caption>'
        f'<thead><tr><th scope="col">{esc(t("rebase.adapter"))}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="wb-quiet">{esc(t("rebase.matrix_how"))}</p>'
    )


def _chosen(base: str, chosen: str) -> str:
    return ' class="chosen"' if base == chosen else ""


def _cell(cell: Cell, t: Words) -> str:
    state, adapter = cell.state, cell.adapter.ref
    link = t.link("adapters", adapter=adapter) if state.name == "home" else t.link("rebase", base=cell.base, adapter=adapter)
    said, scores = t(f"rebase.word.{state.key}"), t.say(cell.scores) if cell.scores is not None else ""
    label = t("rebase.cell", adapter=adapter, base=cell.base, word=said) + (f", {scores}" if scores else "")
    under = f"<small>{esc(scores)}</small>" if scores else ""
    return (
        f'<a class="wb-cell wb-{state.tone}" href="{esc(link)}" aria-label="{esc(label)}">{_sign(state)}<span>{esc(said)}{under}</span></a>'
    )


# ---------------------------------------------------------------- nothing to check


def no_bases(t: Words) -> str:
    """Without a base there is nowhere to move to."""
    return empty(t("rebase.no_bases_title"), esc(t("rebase.no_bases")), button(t("rebase.get_base"), t.link("train"), primary=True))


def one_base(base: Base, t: Words) -> str:
    """With one base only, everything is at home; says how a second one gets here."""
    return panel("idle", t.html("rebase.one_base", base=base.ref), icon="ask", actions=button(t("rebase.get_base"), t.link("train")))
