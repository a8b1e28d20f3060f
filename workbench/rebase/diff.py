"""What changed between two bases, whoever uses them: what stage 0 finds, and how far the weights moved by the sketches in their locks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workbench.bases.lock import Lock
from workbench.bases.sketch import drift
from workbench.rebase.factors import Sums, total
from workbench.rebase.result import Finding
from workbench.rebase.roles import GROUPS, group_of, layer_of
from workbench.rebase.structure import between
from workbench.records import Base, as_json

__all__ = ["BaseDiff", "Drift", "compare"]


@dataclass(frozen=True)
class Drift:
    """How far a group of tensors moved: |B - A| / |A|, Frobenius, over the group; estimated from the locks' sketches.

    That is about 9 % off for one tensor and 1 % for 100. A rebase check reads the weights themselves.
    """

    group: str  # one of `roles.GROUPS`, "all", or "layer 7"
    tensors: int
    relative: float


@dataclass(frozen=True)
class BaseDiff:
    """What changed from base `a` to base `b`."""

    a: str
    b: str
    findings: tuple[Finding, ...]  # of configuration, tokenizer, chat template, number format and licence, gravest first
    added: tuple[str, ...]  # tensors only in b
    removed: tuple[str, ...]  # tensors only in a
    reshaped: tuple[str, ...]
    moved: int  # tensors of equal shape with other values
    same: int  # tensors of equal bytes
    drift: tuple[Drift, ...]  # all, then by group
    layers: tuple[Drift, ...]  # by layer, in order
    tensors: dict[str, float] = field(default_factory=dict)  # relative drift of every moved tensor
    template_diff: str = ""

    @property
    def identical(self) -> bool:
        """Same function: weights, configuration, tokenizer and template are all equal."""
        return not (self.findings or self.added or self.removed or self.reshaped or self.moved)

    def as_dict(self) -> dict[str, Any]:
        return {**as_json(self), "identical": self.identical, "summary": self.summary()}

    def summary(self) -> list[str]:
        """What changed, in sentences, gravest first."""
        if self.identical:
            return [f"{self.b} is the same model as {self.a}."]
        told = {level: [f"{level}: {f.text}" for f in self.findings if f.level == level] for level in ("break", "risk", "note")}
        lines = told["break"]
        for word, names in (("new", self.added), ("gone", self.removed), ("of another shape", self.reshaped)):
            if names:
                shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
                lines.append(f"break: {len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {word} ({shown}).")
        lines += told["risk"] + told["note"]
        if self.moved:
            total, *groups = self.drift
            parts = ", ".join(f"{d.group} {d.relative:.2%}" for d in groups if d.relative)
            lines.append(f"note: {self.moved} tensors moved by about {total.relative:.2%} of their size in all ({parts}).")
        else:
            lines.append(f"note: all {self.same} shared tensors are identical.")
        return lines


def compare(a: Lock, b: Lock, first: Base, second: Base) -> BaseDiff:
    """Compare two bases by their locks, tokenizers and chat templates. Raises `IntegrityError` for a folder that cannot be read."""
    shared = {name: (tensor, b.tensors[name]) for name, tensor in a.tensors.items() if name in b.tensors}
    comparable = {name: pair for name, pair in shared.items() if pair[0].shape == pair[1].shape}
    moved = {n: (x, y) for n, (x, y) in comparable.items() if (x.sha256, x.dtype) != (y.sha256, y.dtype)}
    distance = {n: drift(x.numbers(), y.numbers()) for n, (x, y) in moved.items() if x.sketch is not None and y.sketch is not None}
    norms = {n: x.norm or 0.0 for n, (x, _) in comparable.items()}
    groups: dict[str, list[str]] = {"all": list(norms), **{group: [] for group in GROUPS}}
    layers: dict[int, list[str]] = {}
    for name in norms:
        groups[group_of(name)].append(name)
        if (layer := layer_of(name)) is not None:
            layers.setdefault(layer, []).append(name)
    findings, template_diff = between(a, b, first.path, second.path)
    return BaseDiff(
        a=str(first.ref),
        b=str(second.ref),
        findings=findings,
        added=tuple(sorted(b.tensors.keys() - a.tensors.keys())),
        removed=tuple(sorted(a.tensors.keys() - b.tensors.keys())),
        reshaped=tuple(sorted(shared.keys() - comparable.keys())),
        moved=len(moved),
        same=len(comparable) - len(moved),
        drift=_drift(groups, distance, norms),
        layers=_drift({f"layer {layer}": layers[layer] for layer in sorted(layers)}, distance, norms),
        tensors={n: d / norms[n] if norms[n] else 0.0 for n, d in distance.items()},
        template_diff=template_diff,
    )


def _drift(groups: dict[str, list[str]], distance: dict[str, float], norms: dict[str, float]) -> tuple[Drift, ...]:
    """How far each group of tensors moved; groups without any are left out."""
    sums = {n: Sums(weight=norm**2, drift=distance.get(n, 0.0) ** 2) for n, norm in norms.items()}
    return tuple(Drift(group, len(names), total(sums[n] for n in names).relative) for group, names in groups.items() if names)
