"""What happened to the weights between two bases, as it is told: one sentence, a strip over the layers, the figures. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from workbench.blocks import Block, Facts, Fold, Link, Paragraph, Section, Strip, Table
from workbench.rebase.factors import Sums, total
from workbench.rebase.result import ModuleDrift, Weights
from workbench.words import Number, Several, Value, phrase

__all__ = ["LAB", "facts", "known", "moved", "pooled", "sentence"]

# What the lineage lab says of drift as a warning (docs/lab.md, "Which signal foretells it?"): moves of adapters to other bases, and
# Spearman's rho of the drift with the success that was kept, with its 95 % interval. It ranks bases; no limit of it decides.
LAB = {"moves": 120, "rho": -0.90, "low": -0.92, "high": -0.83}
_RANKED = frozenset({"continuation", "independent"})  # the changes that the lab's moves were
_WORST = 10
Key = TypeVar("Key", str, int)


def facts(rows: Iterable[tuple[str, Value | Link | None]]) -> Facts:
    """By their keys; what is not known is left out."""
    return Facts(tuple((phrase(key), value) for key, value in rows if value is not None))


def known(value: float | None, how: str) -> Value | None:
    return None if value is None else Number(value, how)


def moved(weights: Weights) -> Section:
    """The section of a check."""
    blocks: list[Block] = [Paragraph(sentence(weights))]
    if weights.change in _RANKED and weights.drift is not None:
        lab: dict[str, Value] = {name: Number(LAB[name], "direction") for name in ("rho", "low", "high")}
        blocks.append(Paragraph(phrase("rebase.drift.lab", n=Number(LAB["moves"]), **lab), quiet=True))
    blocks += _strip(weights.modules)
    blocks.append(_figures(weights))
    if weights.modules:
        blocks.append(Fold(phrase("rebase.drift.modules"), (_modules(weights.modules),)))
    blocks.append(Paragraph(phrase("rebase.drift.how"), quiet=True))
    return Section("drift", phrase("rebase.drift"), tuple(blocks))


def sentence(weights: Weights) -> Value:
    """`The same model, trained further: the weights under the adapter moved by 2.1% (attention 1.4%, MLP 2.6%), 3.8 times …`"""
    far = weights.change == "unknown" and weights.exact and weights.modules
    change = phrase("rebase.change.too_far" if far else f"rebase.change.{weights.change}")
    notes = tuple(phrase(f"rebase.drift.note.{note}") for note in weights.notes)
    if weights.drift is None or weights.change == "identical":
        return Several((phrase("rebase.drift.only", change=change), *notes), "list.sentence")
    told: Value = phrase("rebase.drift.moved", drift=Number(weights.drift, "drift"))
    groups = _by(weights.modules, lambda module: module.group)
    if len(groups) > 1:
        listed = sorted(((pooled(modules), group) for group, modules in groups.items()), reverse=True)
        named = tuple(phrase("rebase.drift.group", group=_group(group), drift=Number(drift, "drift")) for drift, group in listed)
        told = phrase("rebase.drift.groups", moved=told, groups=Several(named))
    parts = [told]
    if weights.ratio is not None:
        parts.append(phrase("rebase.drift.ratio", n=Number(weights.ratio, "figure")))
    if not weights.exact:
        parts.append(phrase("rebase.drift.estimated", error=Number(weights.error, "drift")))
    said = phrase("rebase.drift.sentence", change=change, parts=Several(tuple(parts), "list.clause"))
    return Several((said, *notes), "list.sentence")


def pooled(modules: Iterable[ModuleDrift]) -> float:
    """Relative drift of modules taken together: |D| / |W_A| over all of their entries, as the drift of the whole check is. Checks made
    before each module's |W_A| was kept count every module alike."""
    listed = [(module.drift, module.weight or 1.0) for module in modules]
    return total(Sums(weight=weight**2, drift=(drift * weight) ** 2) for drift, weight in listed).relative


def _by(modules: Iterable[ModuleDrift], key: Callable[[ModuleDrift], Key | None]) -> dict[Key, list[ModuleDrift]]:
    parts: dict[Key, list[ModuleDrift]] = {}
    for module in modules:
        name = key(module)
        if name is not None and math.isfinite(module.drift):
            parts.setdefault(name, []).append(module)
    return dict(sorted(parts.items()))


def _group(name: str) -> Value:
    return phrase(f"rebase.group.{name}")


def _strip(modules: Iterable[ModuleDrift]) -> list[Block]:
    """Each group's drift layer by layer, as a picture and as numbers."""
    layers = {
        group: {layer: pooled(of_layer) for layer, of_layer in _by(of_group, lambda module: module.layer).items()}
        for group, of_group in _by(modules, lambda module: module.group).items()
    }
    layers = {group: drifts for group, drifts in layers.items() if drifts}
    numbers = sorted({layer for drifts in layers.values() for layer in drifts})
    if not numbers:
        return []
    most = max(drift for drifts in layers.values() for drift in drifts.values())
    shades = tuple((_group(group), tuple(_shade(drifts.get(layer), most) for layer in numbers)) for group, drifts in layers.items())
    title = phrase("rebase.drift.strip")
    head = (phrase("rebase.drift.layer_word"), *map(_group, layers))
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (str(layer), *(Number(drifts.get(layer), "drift") for drifts in layers.values())) for layer in numbers
    )
    picture = Strip(title, phrase("rebase.drift.legend", most=Number(most, "drift")), tuple(numbers), shades)
    return [picture, Fold(phrase("rebase.drift.numbers"), (Table(title, head, rows),))]


def _shade(drift: float | None, most: float) -> tuple[float, Value] | None:
    return None if drift is None else (drift / (most or 1.0), Number(drift, "drift"))


def _figures(weights: Weights) -> Facts:
    shown = {"input": "drift", "output": "drift", "alignment": "direction", "embeddings": "drift", "norms": "drift"}
    rows: list[tuple[str, Value | None]] = [(f"rebase.drift.{name}", known(getattr(weights, name), how)) for name, how in shown.items()]
    rows.append(("rebase.drift.worst", Several(tuple(map(_layer, weights.worst))) if weights.worst else None))
    if weights.lineage is not None and weights.lineage.reading != "not looked at":
        reading = phrase(f"rebase.lineage.{weights.lineage.reading}", share=Number(weights.lineage.identity, "share"))
        rows.append(("rebase.drift.lineage", reading))
    return facts(rows)


def _layer(name: str) -> Value:
    """`layer 24`, as the record names it."""
    kind, _, number = name.partition(" ")
    return phrase("rebase.drift.layer_n", n=number) if kind == "layer" and number.isdigit() else name


def _modules(modules: Iterable[ModuleDrift]) -> Table:
    columns = ("ratio", "input", "output", "alignment")
    hows = dict(zip(columns, ("figure", "drift", "drift", "direction"), strict=True))
    head = tuple(phrase(f"rebase.drift.column.{name}") for name in ("module", "drift", *columns))
    worst = sorted(modules, key=lambda module: -module.drift)[:_WORST]
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (module.module, Number(module.drift, "drift"), *(Number(getattr(module, name), hows[name]) for name in columns)) for module in worst
    )
    return Table(phrase("rebase.drift.modules"), head, rows)
