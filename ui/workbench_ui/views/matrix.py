"""Every adapter version on every base, as a real table: each cell is a link and says in words what its colour says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.records import Adapter
from workbench.words import Words
from workbench_ui.icons import ICONS
from workbench_ui.views.markup import esc
from workbench_ui.views.rebase import detail_link
from workbench_ui.views.verdict import Cell, look, show, word

__all__ = ["matrix"]


def matrix(adapters: Sequence[Adapter], bases: Sequence[str], cells: Mapping[tuple[str, str], Cell], t: Words, *, chosen: str = "") -> str:
    """Rows are adapters, columns are bases, both in the order given; `cells` by (adapter's reference, base)."""
    heads = "".join(f'<th scope="col"{_chosen(base, chosen)}>{esc(base)}</th>' for base in bases)
    rows = ""
    for adapter in adapters:
        found = "".join(f"<td{_chosen(base, chosen)}>{_cell(cells[adapter.ref, base], t)}</td>" for base in bases)
        rows += f'<tr><th scope="row">{esc(adapter.name)} <span class="wb-quiet">v{adapter.version}</span></th>{found}</tr>'
    return (
        f'<div class="wb-matrix" tabindex="0" role="region" aria-label="{esc(t("rebase.matrix"))}"><table>'
        f'<caption class="wb-sr">{esc(t("rebase.matrix_how"))}</caption>'
        f'<thead><tr><th scope="col">{esc(t("rebase.adapter"))}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="wb-quiet">{esc(t("rebase.matrix_how"))}</p>'
    )


def _chosen(base: str, chosen: str) -> str:
    return ' class="chosen"' if base == chosen else ""


def _cell(cell: Cell, t: Words) -> str:
    state = cell.state
    tone, icon = look(state)
    link = t.link("adapters", adapter=cell.adapter.ref) if state == "home" else detail_link(cell.adapter.ref, cell.base, t)
    said, scores = word(state, t), _scores(cell, t)
    label = t("rebase.cell", adapter=cell.adapter.ref, base=cell.base, word=said) + (f", {scores}" if scores else "")
    under = f"<small>{esc(scores)}</small>" if scores else ""
    return f'<a class="wb-cell wb-{tone}" href="{esc(link)}" aria-label="{esc(label)}">{ICONS[icon]}<span>{esc(said)}{under}</span></a>'


def _scores(cell: Cell, t: Words) -> str:
    """With the adapter at home and here: `80% → 56%`."""
    if cell.check is None or cell.check.verdict is None or cell.state in {"stale", "busy", "home"}:
        return ""
    arms, metric = cell.check.verdict.arms, cell.check.verdict.metric
    if "new_adapter" not in arms:
        return ""
    return f"{show(arms['home_adapter'][metric], metric, t)} → {show(arms['new_adapter'][metric], metric, t)}"
