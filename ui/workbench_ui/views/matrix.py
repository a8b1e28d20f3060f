"""Every adapter version on every base, as a real table: each cell is a link and says in words what its colour says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from workbench.rebase.release import Cell
from workbench.words import Words
from workbench_ui.views.markup import esc
from workbench_ui.views.rebase import detail_link, sign

__all__ = ["matrix"]


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
    link = t.link("adapters", adapter=adapter) if state.name == "home" else detail_link(adapter, cell.base, t)
    said, scores = t(f"rebase.word.{state.key}"), t.say(cell.scores) if cell.scores is not None else ""
    label = t("rebase.cell", adapter=adapter, base=cell.base, word=said) + (f", {scores}" if scores else "")
    under = f"<small>{esc(scores)}</small>" if scores else ""
    return (
        f'<a class="wb-cell wb-{state.tone}" href="{esc(link)}" aria-label="{esc(label)}">{sign(state)}<span>{esc(said)}{under}</span></a>'
    )
