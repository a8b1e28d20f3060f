"""The error curve as inline SVG: drawn on the server, 500 points at most, no plotting library in the browser.

The lines are one SVG stretched over the plot; labels and dots are HTML over it, placed in percent, so text keeps its
size on any screen. The page's script reads the drawn points back for the pointer's read-out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.words import Words
from workbench_ui.views.markup import esc

__all__ = ["MAX_POINTS", "Point", "downsample", "loss_chart", "nice_ticks", "smooth"]

Point = tuple[int, float]  # optimiser step, nats per supervised token

MAX_POINTS = 300
_WIDTH, _HEIGHT = 1000, 400  # units of the viewBox, stretched to the plot's size


def downsample(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most `most` points: neighbours are averaged, first and last stay as they are."""
    if len(points) <= most:
        return list(points)
    inner, buckets = points[1:-1], most - 2
    means: list[Point] = []
    for i in range(buckets):
        part = inner[i * len(inner) // buckets : (i + 1) * len(inner) // buckets]
        means.append((part[len(part) // 2][0], sum(value for _, value in part) / len(part)))
    return [points[0], *means, points[-1]]


def smooth(points: Sequence[Point]) -> list[Point]:
    """A mean over the neighbours on both sides, a twentieth of the run in all. Centred, so that it never lags behind a fall."""
    reach = max(1, len(points) // 40)
    weights = [reach + 1 - abs(i) for i in range(-reach, reach + 1)]
    out: list[Point] = []
    for at, (step, _) in enumerate(points):
        near = [(w, points[at + i][1]) for i, w in zip(range(-reach, reach + 1), weights, strict=True) if 0 <= at + i < len(points)]
        out.append((step, sum(w * value for w, value in near) / sum(w for w, _ in near)))
    return out


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values from below `low` to above `high`, about `count` of them apart by 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0) / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def loss_chart(train: Sequence[Point], evals: Sequence[Point], t: Words, *, total_steps: int | None = None) -> str:
    """The error on the training rows (faint as measured, strong as smoothed) and on the rows held back (dots, best marked)."""
    train = [p for p in train if math.isfinite(p[1])]
    evals = [p for p in evals if math.isfinite(p[1])]
    if not train and not evals:
        return f'<div class="wb-chart wb-chart-empty"><p>{esc(t("chart.empty"))}</p></div>'
    shown = downsample(train)
    line = smooth(shown)
    values = [value for _, value in [*shown, *evals]]
    low = 0.0 if min(values) < 0.4 * max(values) else min(values)
    ticks = nice_ticks(low, max(values))
    right = max([total_steps or 0, *(step for step, _ in [*train, *evals]), 2])
    scale = _Scale(right, ticks[0], ticks[-1])
    best = min(evals, key=lambda p: p[1], default=None)
    return (
        f'<figure class="wb-chart" data-right="{right}" data-low="{ticks[0]}" data-high="{ticks[-1]}" data-step="{esc(t("chart.step"))}">'
        f'<div class="wb-plot" role="img" aria-label="{esc(_sentence(train, evals, best, t))}">'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{_grid(ticks, scale)}{_area(line, scale)}'
        f"{_line('raw', shown, scale)}{_line('mean', line, scale)}{_line('eval', evals, scale)}</svg>"
        f"{_labels(ticks, right, scale, t)}{_dots(evals, best, scale, t)}</div>"
        f"<figcaption>{_legend(bool(evals), t)}</figcaption></figure>"
    )


class _Scale:
    """Steps and errors to the viewBox, and to percent of the plot."""

    def __init__(self, right: float, low: float, high: float) -> None:
        self.right, self.low, self.span = right, low, high - low

    def xy(self, point: tuple[float, float]) -> str:
        return f"{_WIDTH * point[0] / self.right:.1f},{_HEIGHT * (1 - (point[1] - self.low) / self.span):.1f}"

    def percent(self, point: tuple[float, float]) -> str:
        return f"left:{100 * point[0] / self.right:.2f}%;top:{100 * (1 - (point[1] - self.low) / self.span):.2f}%"


def _grid(ticks: Sequence[float], scale: _Scale) -> str:
    return "".join(f'<path class="grid" d="M{scale.xy((0, y))}L{scale.xy((scale.right, y))}"/>' for y in ticks)


def _line(kind: str, points: Sequence[Point], scale: _Scale) -> str:
    return f'<polyline class="{kind}" points="{" ".join(map(scale.xy, points))}"/>' if len(points) > 1 else ""


def _area(points: Sequence[Point], scale: _Scale) -> str:
    if len(points) < 2:
        return ""
    floor = [(points[-1][0], scale.low), (points[0][0], scale.low)]
    return f'<polygon class="area" points="{" ".join(map(scale.xy, [*points, *floor]))}"/>'


def _labels(ticks: Sequence[float], right: int, scale: _Scale, t: Words) -> str:
    left = "".join(f'<span class="y" style="{scale.percent((0, y))}">{y:g}</span>' for y in ticks)
    steps = [0, right // 2, right] if right >= 4 else [0, right]
    below = "".join(f'<span class="x" style="left:{100 * x / right:.2f}%">{t.number(x)}</span>' for x in steps)
    return f'<div class="wb-axis" aria-hidden="true">{left}{below}</div>'


def _dots(evals: Sequence[Point], best: Point | None, scale: _Scale, t: Words) -> str:
    dots = "".join(f'<i class="dot{" best" if p == best else ""}" style="{scale.percent(p)}"></i>' for p in evals)
    if best is None:
        return dots
    side = (" flip" if best[0] > 0.7 * scale.right else "") + (" up" if best[1] - scale.low < 0.2 * scale.span else "")
    return dots + f'<span class="best-label{side}" style="{scale.percent(best)}">{esc(t("chart.best", value=t.number(best[1])))}</span>'


def _legend(with_evals: bool, t: Words) -> str:
    items = [("mean", t("chart.train"))] + ([("eval", t("chart.eval"))] if with_evals else [])
    marks = "".join(f'<span class="key {kind}">{esc(text)}</span>' for kind, text in items)
    return f'{marks}<span class="axis-name">{esc(t("chart.axis"))}</span>'


def _sentence(train: Sequence[Point], evals: Sequence[Point], best: Point | None, t: Words) -> str:
    points = list(train) or list(evals)
    first, last = points[0], smooth(downsample(points))[-1]
    told = t("chart.sentence", first=t.number(first[1]), last=t.number(last[1]), step=t.number(last[0]))
    return told + (" " + t("chart.sentence_best", value=t.number(best[1]), step=t.number(best[0])) if best else "")
