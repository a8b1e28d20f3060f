"""What changed between two bases, from their locks alone (plus the tokenizers' files where both are on disk).

Severities: "break" - an adapter of the first cannot load on the second, or would mean something else; "risk" - it loads and may
behave differently; "note" - worth knowing.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.bases.configuration import BREAKING, changed, kind_of
from workbench.bases.lock import Lock, TensorLock
from workbench.records import Base, as_json

__all__ = ["BaseDiff", "Change", "Drift", "Vocabulary", "compare", "exact_drift", "group_of", "layer_of", "vocabulary"]

_GROUPS = (
    ("embeddings", re.compile(r"embed|wte|wpe|lm_head|word_embeddings")),
    ("norms", re.compile(r"norm|ln_|\.ln\d")),
    ("attention", re.compile(r"attn|attention|query_key_value|q_proj|k_proj|v_proj|o_proj")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|experts|gate_proj|up_proj|down_proj|fc\d|dense")),
)
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Change:
    """One thing that differs."""

    what: str  # "config.rope_theta", "tokenizer.vocab", "special_ids.eos_token", "chat_template", …
    before: Any
    after: Any
    severity: str  # "break" | "risk" | "note"


@dataclass(frozen=True)
class Vocabulary:
    """How the tokens of two bases differ."""

    moved: dict[str, tuple[int, int]]  # token -> (id before, id after)
    gone: dict[str, int]
    added: dict[str, int]


@dataclass(frozen=True)
class Drift:
    """How far a group of tensors moved: |B - A| / |A|, Frobenius, over the group."""

    group: str  # "embeddings" | "attention" | "mlp" | "norms" | "other" | "all", or "layer 7"
    tensors: int
    relative: float
    exact: bool = False  # False: estimated from sketches, about 9 % off for one tensor and 1 % for 100


@dataclass(frozen=True)
class BaseDiff:
    """What changed from base `a` to base `b`."""

    a: str
    b: str
    changes: tuple[Change, ...]
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
        return not (self.changes or self.added or self.removed or self.reshaped or self.moved)

    def as_dict(self) -> dict[str, Any]:
        return {**as_json(self), "identical": self.identical, "summary": self.summary()}

    def summary(self) -> list[str]:
        """What changed, in sentences, gravest first."""
        if self.identical:
            return [f"{self.b} is the same model as {self.a}."]
        words = {s: [f"{s}: {_in_words(c)}" for c in self.changes if c.severity == s] for s in ("break", "risk", "note")}
        lines = words["break"]
        for word, names in (("new", self.added), ("gone", self.removed), ("of another shape", self.reshaped)):
            if names:
                shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
                lines.append(f"break: {len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {word} ({shown}).")
        lines += words["risk"] + words["note"]
        if self.moved:
            total = next(d for d in self.drift if d.group == "all")
            parts = ", ".join(f"{d.group} {d.relative:.2%}" for d in self.drift if d.group != "all" and d.relative)
            about = "" if total.exact else "about "
            lines.append(f"note: {self.moved} tensors moved by {about}{total.relative:.2%} of their size in all ({parts}).")
        else:
            lines.append(f"note: all {self.same} shared tensors are identical.")
        return lines


def _in_words(change: Change) -> str:
    if change.what == "chat_template":
        return "the chat template changed."
    short = [json.dumps(v, ensure_ascii=False)[:60] if not isinstance(v, str) else v[:60] for v in (change.before, change.after)]
    return f"{change.what} was {short[0]} and is {short[1]}."


def group_of(name: str) -> str:
    """The kind of module a tensor belongs to, by its name."""
    return next((group for group, pattern in _GROUPS if pattern.search(name)), "other")


def layer_of(name: str) -> int | None:
    """The number of the layer that a module or tensor belongs to."""
    match = _LAYER.search(f".{name}.")
    return int(match[1]) if match else None


def compare(a: Lock, b: Lock, first: Base, second: Base, *, exact: bool = False) -> BaseDiff:
    """Compare two locks; with `exact`, read both bases' weights for the drift instead of estimating it."""
    shared = [name for name in a.tensors if name in b.tensors]
    reshaped = [n for n in shared if a.tensors[n].shape != b.tensors[n].shape]
    comparable = [n for n in shared if a.tensors[n].shape == b.tensors[n].shape]
    moved = [n for n in comparable if a.tensors[n].sha256 != b.tensors[n].sha256 or a.tensors[n].dtype != b.tensors[n].dtype]
    if exact:
        distance = exact_drift(first.path, second.path, moved)
    else:
        distance = {n: d for n in moved if (d := _estimate(a.tensors[n], b.tensors[n])) is not None}
    norms = {n: a.tensors[n].norm or 0.0 for n in comparable}
    old, new = (a.chat_template or "").splitlines(), (b.chat_template or "").splitlines()
    template_diff = "\n".join(difflib.unified_diff(old, new, str(first.ref), str(second.ref), n=1, lineterm=""))
    return BaseDiff(
        a=str(first.ref),
        b=str(second.ref),
        changes=tuple([*_config(a, b), *_tokenizer(a, b, first.path, second.path), *_rest(a, b, first, second)]),
        added=tuple(sorted(b.tensors.keys() - a.tensors.keys())),
        removed=tuple(sorted(a.tensors.keys() - b.tensors.keys())),
        reshaped=tuple(sorted(reshaped)),
        moved=len(moved),
        same=len(comparable) - len(moved),
        drift=_grouped(comparable, distance, norms, exact),
        layers=_by_layer(comparable, distance, norms, exact),
        tensors={n: d / norms[n] if norms[n] else 0.0 for n, d in distance.items()},
        template_diff=template_diff,
    )


def _estimate(a: TensorLock, b: TensorLock) -> float | None:
    from workbench.bases.sketch import drift

    return None if a.sketch is None or b.sketch is None else drift(a.numbers(), b.numbers())


def _relative(names: list[str], distance: dict[str, float], norms: dict[str, float]) -> float:
    size = sum(norms[n] ** 2 for n in names)
    return float((sum(distance.get(n, 0.0) ** 2 for n in names) / size) ** 0.5) if size else 0.0


def _grouped(names: list[str], distance: dict[str, float], norms: dict[str, float], exact: bool) -> tuple[Drift, ...]:
    found = [Drift("all", len(names), _relative(names, distance, norms), exact)]
    for group in [*(g for g, _ in _GROUPS), "other"]:
        members = [n for n in names if group_of(n) == group]
        if members:
            found.append(Drift(group, len(members), _relative(members, distance, norms), exact))
    return tuple(found)


def _by_layer(names: list[str], distance: dict[str, float], norms: dict[str, float], exact: bool) -> tuple[Drift, ...]:
    layers: dict[int, list[str]] = {}
    for name in names:
        if (layer := layer_of(name)) is not None:
            layers.setdefault(layer, []).append(name)
    return tuple(Drift(f"layer {n}", len(layers[n]), _relative(layers[n], distance, norms), exact) for n in sorted(layers))


def exact_drift(a: Path, b: Path, names: list[str]) -> dict[str, float]:
    """|B - A| (Frobenius) of tensors that both folders hold in equal shapes. Raises `IntegrityError` for values that are not finite."""
    from workbench.bases.stream import distance, in_file_order
    from workbench.bases.tensors import FLOAT_DTYPES, folder_tensors

    first, second = folder_tensors(a), folder_tensors(b)
    readable = [name for name in names if {first[name].dtype, second[name].dtype} <= FLOAT_DTYPES]
    return {name: distance(first[name], second[name])[0] ** 0.5 for name in in_file_order(readable, first)}


def _config(a: Lock, b: Lock) -> list[Change]:
    changes = []
    for key, (before, after) in changed(a, b).items():
        kind = kind_of(key)
        severity = "break" if kind in BREAKING else "note" if kind == "other" else "risk"
        changes.append(Change(f"config.{key}", before, after, severity))
    return changes


def _tokenizer(a: Lock, b: Lock, first: Path, second: Path) -> list[Change]:
    changes = []
    for key in sorted(a.tokenizer.keys() | b.tokenizer.keys()):
        before, after = a.tokenizer.get(key), b.tokenizer.get(key)
        if before == after or key == "vocab_size":
            continue
        name = key.removesuffix("_sha256")
        if name == "vocab":
            changes.append(_vocabulary(a, b, first, second))
        else:
            changes.append(Change(f"tokenizer.{name}", _short(before), _short(after), "risk"))
    return changes


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value


def vocabulary(first: Path, second: Path) -> Vocabulary | None:
    """Compare the token ids of two base folders; None where one has no tokenizer.json. Raises `IntegrityError` for a broken one."""
    from workbench.bases.lock import token_ids

    one, two = token_ids(first), token_ids(second)
    if one is None or two is None:
        return None
    moved = {token: (n, two[token]) for token, n in one.items() if token in two and two[token] != n}
    gone = {token: n for token, n in one.items() if token not in two}
    return Vocabulary(moved, gone, {token: n for token, n in two.items() if token not in one})


def _vocabulary(a: Lock, b: Lock, first: Path, second: Path) -> Change:
    """A shared token with another id breaks every adapter; tokens that were only appended do not."""
    before, after = f"{a.tokenizer.get('vocab_size')} tokens", f"{b.tokenizer.get('vocab_size')} tokens"
    found = vocabulary(first, second)
    if found is None:
        return Change("tokenizer.vocab", before, after, "risk")
    words = f"{after}: {len(found.added)} new, {len(found.gone)} gone, {len(found.moved)} with another id"
    return Change("tokenizer.vocab", before, words, "break" if found.moved or found.gone else "risk")


def _rest(a: Lock, b: Lock, first: Base, second: Base) -> list[Change]:
    changes = []
    for key in sorted(a.special_ids.keys() | b.special_ids.keys()):
        id_before, id_after = a.special_ids.get(key), b.special_ids.get(key)
        if id_before != id_after:
            changes.append(Change(f"special_ids.{key}", id_before, id_after, "break" if key in {"eos_token", "pad_token"} else "risk"))
    if a.eos_token_ids != b.eos_token_ids:
        changes.append(Change("eos_token_ids", list(a.eos_token_ids), list(b.eos_token_ids), "risk"))
    if a.chat_template_sha256 != b.chat_template_sha256:
        changes.append(Change("chat_template", _short(a.chat_template_sha256), _short(b.chat_template_sha256), "risk"))
    rest: list[tuple[str, Any, Any, str]] = [
        ("dtype", a.dtype, b.dtype, "risk"),
        ("quantization", a.quantization, b.quantization, "risk"),
        ("license", first.license, second.license, "note"),
    ]
    for what, before, after, severity in rest:
        if before != after:
            changes.append(Change(what, before, after, severity))
    return changes
