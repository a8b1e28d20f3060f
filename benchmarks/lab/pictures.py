"""The lab's two pictures, as SVG text: the matrix of verdicts, and the best stage-1 signal against kept success.

Every verdict has a sign beside its colour, and every mark says its numbers when pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.lab.cells import Cell
from benchmarks.lab.contest import SIGNALS, kept
from workbench.rebase.verdicts import STATES

__all__ = ["SIGNS", "matrix", "scatter"]

# tone -> (fill, ink)
_TONES = {
    "good": ("#d7efdc", "#14532d"),
    "info": ("#dbeafe", "#1e3a8a"),
    "idle": ("#f1f1f1", "#444444"),
    "warn": ("#fdf3cf", "#6b4e00"),
    "bad": ("#f9d2d2", "#7f1d1d"),
}
SIGNS = {name: (state.mark, *_TONES[state.tone]) for name, state in STATES.items() if state.verdict}  # verdict -> (sign, fill, ink)
WIDE, HIGH, LEFT, TOP = 92, 44, 56, 64  # of a cell, and the space for names


def matrix(cells: Sequence[Cell]) -> str:
    """One panel per adapter: sources down, targets across."""
    names = list(dict.fromkeys(cell.name for cell in cells))
    bases = list(dict.fromkeys(cell.source for cell in cells))
    panel = (LEFT + WIDE * len(bases) + 24, TOP + HIGH * len(bases) + 20)
    columns = min(2, len(names))
    size = (panel[0] * columns, panel[1] * math.ceil(len(names) / columns) + 46)
    parts = []
    for n, name in enumerate(names):
        at = (panel[0] * (n % columns), panel[1] * (n // columns))
        parts += _panel(name, bases, [cell for cell in cells if cell.name == name], at)
    x = 8.0
    used = {cell.check.word for cell in cells}
    for word, (sign, fill, ink) in SIGNS.items():
        if word in used:
            parts.append(_box(x, size[1] - 34, 22, 22, fill) + _text(x + 11, size[1] - 18, sign, ink, "middle", 14))
            parts.append(_text(x + 28, size[1] - 18, word, "#222222", "start", 13))
            x += 28 + 8 * len(word) + 18
    return _svg(size, "Verdicts of every adapter of the lineage lab on every base", parts)


def _panel(name: str, bases: list[str], cells: list[Cell], at: tuple[int, int]) -> Iterator[str]:
    left, top = at
    yield _text(left + LEFT, top + 22, name, "#111111", "start", 15, bold=True)
    yield _text(left + LEFT, top + 40, "made on ↓   put on →", "#555555", "start", 12)
    for i, base in enumerate(bases):
        yield _text(left + LEFT + WIDE * i + WIDE / 2, top + TOP - 6, base, "#111111", "middle", 13, bold=True)
        yield _text(left + LEFT - 10, top + TOP + HIGH * i + HIGH / 2 + 5, base, "#111111", "end", 13, bold=True)
    for cell in cells:
        x, y = left + LEFT + WIDE * bases.index(cell.target), top + TOP + HIGH * bases.index(cell.source)
        sign, fill, ink = SIGNS[cell.check.word or "cannot load"]
        score = f"{cell.score('new_adapter'):.2f}"
        yield f"<g>{_title(cell)}{_box(x + 1, y + 1, WIDE - 2, HIGH - 2, fill, ink if cell.home else None)}"
        yield _text(x + WIDE / 2, y + 19, f"{sign} {score}", ink, "middle", 14, bold=True)
        yield _text(x + WIDE / 2, y + 35, cell.check.word or "", ink, "middle", 10.5) + "</g>"


def _title(cell: Cell) -> str:
    numbers = ", ".join(
        f"{label} {cell.score(arm):.3f}" for arm, label in (("home", "A"), ("home_adapter", "A+a"), ("new", "B"), ("new_adapter", "B+a"))
    )
    return f"<title>{escape(f'{cell.name}: {cell.source} to {cell.target}: {cell.check.word}; {numbers}')}</title>"


def scatter(cells: Sequence[Cell], signal: str) -> str:
    """Kept success against a signal of the contest. `cells` as it counts them."""
    _, read = SIGNALS[signal]
    points = [(x, kept(cell), cell) for cell in cells if (x := read(cell)) is not None]
    xs = [x for x, _, _ in points]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) > 8
    scale = math.log10 if logarithmic else float
    low, high = scale(min(xs)), scale(max(xs))
    pad = (high - low) * 0.06 or 1.0
    low, high = low - pad, high + pad
    width, height, left, top = 620, 330, 64, 44

    def place(x: float) -> float:
        return left + (scale(x) - low) / (high - low) * width

    def rise(share: float) -> float:
        return top + height * (1 - share / 1.05)

    parts = [_text(left, 22, f"{signal} against kept success, {len(points)} cells", "#111111", "start", 15, bold=True)]
    parts.append(_box(left, top, width, height, "#fafafa"))
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path d="M{left} {rise(share):.1f}H{left + width}" stroke="#dddddd"/>')
        parts.append(_text(left - 8, rise(share) + 4, f"{share:g}", "#444444", "end", 12))
    for i in range(5):
        at = low + (high - low) * (i + 0.5) / 5
        shown = 10**at if logarithmic else at
        parts.append(_text(left + width * (i + 0.5) / 5, top + height + 18, f"{shown:.3g}", "#444444", "middle", 12))
    axis = signal + (" (logarithmic)" if logarithmic else "")
    parts.append(_text(left + width / 2, top + height + 38, axis, "#222222", "middle", 13))
    parts.append(_text(left - 48, top - 8, "kept", "#222222", "start", 13))
    for x, share, cell in points:
        sign, _, ink = SIGNS[cell.check.word or "cannot load"]
        parts.append(f"<g>{_title(cell)}{_text(place(x), rise(share) + 5, sign, ink, 'middle', 15, bold=True)}</g>")
    words = [word for word in SIGNS if any(cell.check.word == word for _, _, cell in points)]
    legend = "   ".join(f"{SIGNS[word][0]} {word}" for word in words)
    parts.append(_text(left, top + height + 62, legend, "#222222", "start", 13))
    return _svg((left + width + 24, top + height + 78), "Kept success against the best stage-1 signal", parts)


def _svg(size: tuple[int, int], title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" role="img" font-family="sans-serif">'
    )
    body = "\n".join([f"<title>{escape(title)}</title>", _box(0, 0, size[0], size[1], "#ffffff"), *parts])
    return f"{head}\n{body}\n</svg>\n"


def _box(x: float, y: float, width: float, height: float, fill: str, edge: str | None = None) -> str:
    stroke = f' stroke="{edge}" stroke-width="2"' if edge else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}"{stroke}/>'


def _text(x: float, y: float, text: str, ink: str, anchor: str, size: float, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" text-anchor="{anchor}" font-size="{size:g}"{weight}>{escape(text)}</text>'
