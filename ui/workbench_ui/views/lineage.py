"""Where everything comes from, as inline SVG: bases from left to right, below each one the adapters that were made for it.

Solid lines join a base with the one that continues it and with its adapters; dashed ones join an adapter with the version
that was retrained from it elsewhere. The same is told in words below the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.ancestry import bases_in_order, retrained_from
from workbench.records import Adapter, Base
from workbench.words import Words
from workbench_ui.views.markup import esc

__all__ = ["lineage"]

_WIDE, _HIGH, _ACROSS, _DOWN = 222, 46, 60, 16  # of a box, and the gaps between boxes
_LONGEST = 24  # characters that fit into a box


@dataclass(frozen=True)
class _Box:
    x: int
    y: int
    width: int = _WIDE

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def middle(self) -> int:
        return self.y + _HIGH // 2


def lineage(bases: Sequence[Base], adapters: Sequence[Adapter], t: Words, *, chosen: str = "") -> str:
    """The picture and its text. Adapters whose base is not on disk stand below a box that says so."""
    refs = [str(base.ref) for base in bases_in_order(bases)]
    refs += sorted({str(adapter.base) for adapter in adapters} - set(refs))
    below = {ref: sorted((a for a in adapters if str(a.base) == ref), key=lambda a: (a.name, a.version)) for ref in refs}
    at = {ref: _Box(i * (_WIDE + _ACROSS) + 2, 2) for i, ref in enumerate(refs)}
    for ref in refs:
        for n, adapter in enumerate(below[ref], start=1):
            at[adapter.ref] = _Box(at[ref].x + 18, 2 + n * (_HIGH + _DOWN), _WIDE - 18)
    width = len(refs) * (_WIDE + _ACROSS) - _ACROSS + 24
    height = 4 + _HIGH + max((len(found) for found in below.values()), default=0) * (_HIGH + _DOWN)
    present = {str(base.ref) for base in bases}
    lines = _lines(bases, below, adapters, at)
    boxes = "".join(_base_box(ref, at[ref], t, chosen=ref == chosen, gone=ref not in present) for ref in refs)
    for a in (adapter for found in below.values() for adapter in found):
        boxes += _box("adapter", at[a.ref], a.name, f"v{a.version}", t.link("adapters", adapter=a.ref))
    summary = t("lineage.summary", bases=t.n("lineage.bases", len(refs)), adapters=t.n("lineage.adapters", len(adapters)))
    return (
        f'<div class="wb-lineage" tabindex="0" role="region" aria-label="{esc(t("lineage.title"))}">'
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="group" aria-labelledby="wb-lin-t wb-lin-d">'
        f'<title id="wb-lin-t">{esc(t("lineage.title"))}</title><desc id="wb-lin-d">{esc(summary)}</desc>{lines}{boxes}</svg></div>'
        f"{_in_words(refs, below, bases, adapters, t)}"
    )


def _lines(bases: Sequence[Base], below: dict[str, list[Adapter]], adapters: Sequence[Adapter], at: dict[str, _Box]) -> str:
    drawn = []
    for base in bases:
        start, end = at.get(str(base.continues)), at[str(base.ref)]
        if start is not None and start.x < end.x:
            drawn.append(f'<path class="grows" d="M{start.right},{start.middle}L{end.x - 2},{end.middle}"/>')
            drawn.append(f'<path class="tip" d="M{end.x - 9},{end.middle - 5}L{end.x - 1},{end.middle}L{end.x - 9},{end.middle + 5}"/>')
    for ref, found in below.items():
        if found:
            x, last = at[ref].x + 7, at[found[-1].ref].middle
            drawn.append(f'<path class="hangs" d="M{x},{at[ref].y + _HIGH}V{last}"/>')
            drawn += [f'<path class="hangs" d="M{x},{at[a.ref].middle}H{at[a.ref].x}"/>' for a in found]
    for older, newer in retrained_from(adapters):
        a, b = at[older], at[newer]
        out, reach = (b.x, -30) if a.x < b.x else (b.right, 30)
        drawn.append(f'<path class="again" d="M{a.right},{a.middle}C{a.right + 30},{a.middle} {out + reach},{b.middle} {out},{b.middle}"/>')
    return "".join(drawn)


def _base_box(ref: str, box: _Box, t: Words, *, chosen: bool, gone: bool) -> str:
    kind = "base chosen" if chosen else "base gone" if gone else "base"
    note = t("lineage.gone") if gone else t("lineage.chosen") if chosen else t("fact.base")
    return _box(kind, box, ref, note, t.link("rebase", base=ref) if not gone else "")


def _box(kind: str, box: _Box, name: str, note: str, link: str) -> str:
    shown = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    inner = (
        f'<title>{esc(name)}</title><rect x="{box.x}" y="{box.y}" width="{box.width}" height="{_HIGH}" rx="9"/>'
        f'<text class="name" x="{box.x + 13}" y="{box.y + 20}">{esc(shown)}</text>'
        f'<text class="note" x="{box.x + 13}" y="{box.y + 36}">{esc(note)}</text>'
    )
    if not link:
        return f'<g class="{kind}">{inner}</g>'
    return f'<a class="{kind}" href="{esc(link)}" aria-label="{esc(name)}, {esc(note)}">{inner}</a>'


def _in_words(refs: Sequence[str], below: dict[str, list[Adapter]], bases: Sequence[Base], adapters: Sequence[Adapter], t: Words) -> str:
    grown = {str(base.ref): str(base.continues) for base in bases if base.continues}
    origin = dict((newer, older) for older, newer in retrained_from(adapters))
    items = ""
    for ref in refs:
        head = t.html("lineage.continues", base=ref, parent=grown[ref]) if ref in grown else esc(ref)
        made = [a.ref + (f" ({t('lineage.from', parent=origin[a.ref])})" if a.ref in origin else "") for a in below[ref]]
        items += f"<li><strong>{head}</strong>: {esc(', '.join(made) or t('lineage.none'))}</li>"
    return f'<details class="wb-words"><summary>{esc(t("lineage.in_words"))}</summary><ul>{items}</ul></details>'
