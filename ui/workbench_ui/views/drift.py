"""What happened to the weights between two bases: one sentence, and a strip over the layers. None of it decides anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.rebase.result import ModuleDrift, Weights
from workbench.words import Words
from workbench_ui.views.markup import card, esc, facts

__all__ = ["drift_card", "drift_sentence", "layer_drift"]

_BOX, _ROW, _LEFT, _TOP = 24, 30, 92, 6  # of the strip, in pixels
_SHADES = 6


def drift_sentence(weights: Weights, t: Words) -> str:
    """`Trained further in the same coordinates: the adapted weights moved by 2.1% (attention 1.4%, MLP 2.6%), …`"""
    change = t(f"rebase.change.{weights.change}")
    notes = "".join(" " + t(f"rebase.drift.note.{note}") for note in weights.notes)
    if weights.drift is None:
        return change + t("rebase.head.end") + notes
    moved = t("rebase.drift.moved", drift=_percent(weights.drift, t))
    groups = layer_drift(weights.modules)
    by_group = [t("rebase.drift.group", group=t.term("rebase.group", g), drift=_percent(_joint(groups[g].values()), t)) for g in groups]
    if len(by_group) > 1:
        moved = t("rebase.drift.groups", moved=moved, groups=t("rebase.head.join").join(by_group))
    parts = [moved]
    if weights.ratio is not None:
        parts.append(t("rebase.drift.ratio", n=t.number(weights.ratio)))
    if not weights.exact:
        error = _percent(weights.error, t) if weights.error is not None else "?"
        parts.append(t("rebase.drift.estimated", error=error))
    return t("rebase.drift.sentence", change=change, parts=t("rebase.head.join").join(parts)) + notes


def layer_drift(modules: Sequence[ModuleDrift]) -> dict[str, dict[int, float]]:
    """group -> layer -> root mean square of the relative drift of its modules; modules outside the layers are left out."""
    found: dict[str, dict[int, list[float]]] = {}
    for module in modules:
        if module.layer is not None and math.isfinite(module.drift):
            found.setdefault(module.group, {}).setdefault(module.layer, []).append(module.drift)
    return {group: {layer: _joint(values) for layer, values in sorted(layers.items())} for group, layers in sorted(found.items())}


def _joint(values: object) -> float:
    listed = list(values)  # type: ignore[call-overload]
    return math.sqrt(sum(v * v for v in listed) / len(listed))


def drift_card(weights: Weights, t: Words) -> str:
    """The sentence, the strip with its legend, and the figures."""
    pairs = [
        (t("rebase.drift.input"), esc(_percent(weights.input, t)) if weights.input is not None else ""),
        (t("rebase.drift.output"), esc(_percent(weights.output, t)) if weights.output is not None else ""),
        (t("rebase.drift.alignment"), esc(f"{weights.alignment:+.2f}") if weights.alignment is not None else ""),
        (t("rebase.drift.embeddings"), esc(_percent(weights.embeddings, t)) if weights.embeddings is not None else ""),
        (t("rebase.drift.worst"), esc(t("rebase.head.join").join(_layer(name, t) for name in weights.worst))),
    ]
    band = f'<p class="wb-quiet">{esc(t(f"rebase.band.{weights.band}"))}</p>' if weights.band in {"green", "amber", "red"} else ""
    note = f'<p class="wb-quiet">{esc(t("rebase.drift.how"))}</p>'
    body = f'<p class="sentence">{esc(drift_sentence(weights, t))}</p>{band}{_strip(weights, t)}{facts(pairs)}{note}'
    return card(t("rebase.drift"), body)


def _strip(weights: Weights, t: Words) -> str:
    groups = layer_drift(weights.modules)
    layers = sorted({layer for found in groups.values() for layer in found})
    most = max((value for found in groups.values() for value in found.values()), default=0.0)
    if not layers:
        return ""
    size = max(8, min(_BOX, 700 // len(layers)))
    rows = ""
    for y, (group, found) in enumerate(groups.items()):
        top = _TOP + y * _ROW
        rows += f'<text x="0" y="{top + 17}">{esc(t.term("rebase.group", group))}</text>'
        for x, layer in enumerate(layers):
            if layer in found:
                told = t("rebase.drift.layer", layer=layer, drift=_percent(found[layer], t))
                at = f'x="{_LEFT + x * size}" y="{top}" width="{size - 2}" height="{_ROW - 6}" rx="3"'
                rows += f'<rect class="s{_shade(found[layer], most)}" {at}><title>{esc(told)}</title></rect>'
    foot = _TOP + len(groups) * _ROW
    step = max(1, math.ceil(len(layers) * 22 / (len(layers) * size)))
    marks = "".join(
        f'<text class="tick" x="{_LEFT + x * size + (size - 2) / 2:g}" y="{foot + 12}">{layer}</text>'
        for x, layer in enumerate(layers)
        if x % step == 0
    )
    width, height = _LEFT + len(layers) * size + 8, foot + 18
    legend = "".join(f'<span class="s{shade}"></span>' for shade in range(_SHADES))
    return (
        f'<div class="wb-strip" tabindex="0" role="region" aria-label="{esc(t("rebase.drift.strip"))}">'
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="wb-drift-t wb-drift-d">'
        f'<title id="wb-drift-t">{esc(t("rebase.drift.strip"))}</title>'
        f'<desc id="wb-drift-d">{esc(drift_sentence(weights, t))}</desc>{rows}{marks}</svg></div>'
        f'<p class="wb-legend wb-quiet"><span>0%</span>{legend}<span>{esc(_percent(most, t))}</span>'
        f'<span class="of">{esc(t("rebase.drift.legend"))}</span></p>{_table(groups, layers, t)}'
    )


def _table(groups: dict[str, dict[int, float]], layers: Sequence[int], t: Words) -> str:
    """The strip as numbers, folded."""
    heads = "".join(f'<th scope="col">{esc(t.term("rebase.group", group))}</th>' for group in groups)
    rows = "".join(
        f'<tr><th scope="row">{layer}</th>'
        + "".join(f"<td>{esc(_percent(found[layer], t)) if layer in found else '–'}</td>" for found in groups.values())
        + "</tr>"
        for layer in layers
    )
    return (
        f'<details class="wb-words"><summary>{esc(t("rebase.drift.numbers"))}</summary><table class="wb-table"><thead><tr>'
        f'<th scope="col">{esc(t("rebase.drift.layer_word"))}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></details>'
    )


def _shade(value: float, most: float) -> int:
    return min(_SHADES - 1, int(_SHADES * value / most)) if most > 0 else 0


def _layer(name: str, t: Words) -> str:
    """`layer 24` in the page's words; other names, such as `embeddings`, as they are."""
    kind, _, number = name.partition(" ")
    return t("rebase.drift.layer_n", n=number) if kind == "layer" and number.isdigit() else t.term("rebase.group", name)


def _percent(share: float, t: Words) -> str:
    """Drift is small, so two digits: `2.1%`, `0.034%`, `140%`."""
    return f"{t.number(float(f'{100 * share:.2g}'))}%"
