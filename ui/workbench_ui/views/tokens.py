"""One row as the model sees it: the exact text, with what it learns, what it only reads, and what the template adds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from workbench.words import Words
from workbench_ui.views.markup import esc, quiet

__all__ = ["Span", "row_preview"]

Span = tuple[str, str]  # text, and one of "template", "prompt", "learned"

_CLASSES = ("learned", "prompt", "template")
_LONGEST = 6000  # characters shown; a row may be a whole book


def row_preview(rows: Sequence[Sequence[Span]], at: int, t: Words) -> str:
    """Row `at` (from 0) of `rows`, neighbours of one class joined, with its legend."""
    if not rows:
        return quiet(t("preview.none"))
    at = at % len(rows)
    left = _LONGEST
    parts: list[str] = []
    for kind, neighbours in groupby(rows[at], key=itemgetter(1)):
        shown = "".join(text for text, _ in neighbours)[:left]
        parts.append(f'<span class="{esc(kind)}">{_visible(shown)}</span>')
        left -= len(shown)
        if left <= 0:
            parts.append(f"<em> {esc(t('preview.cut'))}</em>")
            break
    label = t("preview.label", n=at + 1, of=len(rows))
    legend = "".join(f'<li class="{kind}">{esc(t(f"preview.{kind}"))}</li>' for kind in _CLASSES)
    return (
        f'<div class="wb-preview"><ul class="legend">{legend}</ul>'
        f'<div class="text" tabindex="0" role="group" aria-label="{esc(label)}">{"".join(parts)}</div>'
        f"{quiet(label)}</div>"
    )


def _visible(text: str) -> str:
    """A line break is a token like any other: show that it is there."""
    return esc(text).replace("\n", '<i aria-hidden="true">⏎</i>\n')
