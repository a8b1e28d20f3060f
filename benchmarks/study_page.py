"""The study's page and picture in docs/, from the checks behind them."""

from __future__ import annotations

import html
import math
from pathlib import Path

from study import FAMILY, print_study

from workbench.rebase.result import Check
from workbench.rebase.verdicts import STATES

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 900, 520, 70, 30, 190, 60
SHAPES = {name: state.mark for name, state in STATES.items() if state.verdict}
COLOURS = ("#1d4ed8", "#b45309", "#047857", "#7c3aed", "#be123c")


def write_page(folder: Path, checks: list[Check]) -> None:
    """Write study.md and images/study.svg."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "study.svg").write_text(picture(checks), encoding="utf-8")
    (folder / "study.md").write_text(page(checks), encoding="utf-8")


def page(checks: list[Check]) -> str:
    adapters = list(dict.fromkeys(one.adapter for one in checks))
    words = {word: sum(one.word == word for one in checks) for word in dict.fromkeys(one.word for one in checks)}
    counted = ", ".join(f"{count} {word}" for word, count in sorted(words.items(), key=lambda item: -item[1]))
    versions = list(dict.fromkeys(one.base.split("@")[1] for one in checks))
    bases, controls = len(versions), ", ".join(version for version in versions if not version.isdigit())
    device = sorted({str(one.how.get("device")) for one in checks if one.how.get("device")})
    return "\n".join(
        [
            "# Adapters of a real model on its later versions",
            "",
            f"{len(adapters)} adapters made for `{FAMILY}@1` (135 million parameters), checked on {bases} other bases: versions",
            "@2, @3, … are the same model trained on, by the workbench itself, on the sources and docstrings of Python's standard",
            f"library; {controls} are controls. Every line is one `workbench rebase check`. Scores are of the",
            "frozen test rows: a share of right answers, or nats per token where the adapter's gain at home is not in those.",
            "Intervals are 95 %.",
            f"Computed on: {', '.join(device) or 'unknown'}. Made by `make study`; this page is what it prints.",
            "",
            f"Verdicts: {counted}.",
            "",
            "![Drift of the base against what is left of the adapter's success](images/study.svg)",
            "",
            print_study(checks),
            "",
        ]
    )


def left(one: Check) -> float | None:
    """What is left of the adapter: its success on B over its success at home; for losses the gain on B over the gain at home."""
    verdict = one.verdict
    if verdict is None or not verdict.contrasts:
        return None
    metric = verdict.metric
    if metric in ("right", "exact_match"):
        before = verdict.arms["home_adapter"][metric]
        return verdict.arms["new_adapter"][metric] / before if before else None
    gain, transfer = verdict.contrasts[metric].gain.value, verdict.contrasts[metric].transfer.value
    return transfer / gain if gain else None


def picture(checks: list[Check]) -> str:
    """Scatter as SVG: one line per adapter over the later versions, controls as single marks; a mark's shape is its verdict."""
    points = [(one, one.weights.drift, share) for one in checks if one.weights and one.weights.drift and (share := left(one)) is not None]
    adapters = list(dict.fromkeys(one.adapter for one, _, _ in points))
    low, high = math.log10(min(d for _, d, _ in points)) - 0.1, math.log10(max(d for _, d, _ in points)) + 0.1
    bottom = min(0.0, max(-1.0, min(s for _, _, s in points)))

    def at(drift: float, share: float) -> tuple[float, float]:
        x = LEFT + (math.log10(drift) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        y = TOP + (1.1 - max(bottom, min(1.1, share))) / (1.1 - bottom) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'role="img" aria-labelledby="t d" font-family="sans-serif">',
        '<title id="t">What is left of each adapter as its base drifts away</title>',
        f'<desc id="d">{html.escape(_described(points))}</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_axes(at, low, high, bottom),
    ]
    for number, adapter in enumerate(adapters):
        colour = COLOURS[number % len(COLOURS)]
        mine = [(one, at(drift, share)) for one, drift, share in points if one.adapter == adapter]
        ladder = [place for one, place in mine if one.base.split("@")[1].isdigit()]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in ladder)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for one, (x, y) in mine:
            tip = html.escape(f"{one.adapter} on {one.base}: {one.word}")
            parts.append(
                f'<text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle" font-size="16" fill="{colour}"><title>{tip}</title>'
                f"{SHAPES.get(one.word or '', '·')}</text>"
            )
            version = one.base.split("@")[1]
            parts.append(
                f'<text x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle" font-size="9" fill="#475569">@{html.escape(version)}</text>'
            )
        parts.append(
            f'<text x="{WIDTH - RIGHT + 14}" y="{TOP + 20 + 22 * number}" font-size="13" fill="{colour}">{html.escape(adapter)}</text>'
        )
    for number, (word, shape) in enumerate(SHAPES.items()):
        y = TOP + 40 + 22 * len(adapters) + 20 * number
        parts.append(f'<text x="{WIDTH - RIGHT + 14}" y="{y}" font-size="12" fill="#334155">{shape}  {word}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(at: object, low: float, high: float, bottom: float) -> list[str]:
    assert callable(at)
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0, -0.5, -1.0):
        if share < bottom:
            continue
        _, y = at(10**low, share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="12" fill="#334155">{100 * share:.0f} %</text>')
    for drift in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        if low <= math.log10(drift) <= high:
            x, _ = at(drift, 0)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#f1f5f9"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" font-size="12" fill="#334155">{100 * drift:g} %</text>'
            )
    middle, style = (LEFT + WIDTH - RIGHT) / 2, 'text-anchor="middle" font-size="13" fill="#0f172a"'
    parts.append(f'<text x="{middle}" y="{HEIGHT - 14}" {style}>drift of the adapted weights, |B − A| / |A|</text>')
    parts.append(f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" {style}>left of the adapter</text>')
    return parts


def _described(points: list[tuple[Check, float, float]]) -> str:
    return "; ".join(
        f"{one.adapter} on {one.base}: drift {100 * drift:.1f} %, {100 * share:.0f} % left, {one.word}" for one, drift, share in points
    )
