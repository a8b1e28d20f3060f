"""What changed between two bases, from their locks alone (plus the tokenizers' files where both are on disk).

Severities: "break" - an adapter of the first cannot load on the second, or would mean something else; "risk" - it loads and may
behave differently; "note" - worth knowing.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.bases.configuration import BREAKING, changed, kind_of
from workbench.bases.lock import Lock, token_ids
from workbench.bases.sketch import drift
from workbench.records import Base, as_json

__all__ = ["BaseDiff", "Change", "Drift", "Vocabulary", "compare", "group_of", "layer_of", "vocabulary"]

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
    """How far a group of tensors moved: |B - A| / |A|, Frobenius, over the group; estimated from the locks' sketches.

    That is about 9 % off for one tensor and 1 % for 100. A rebase check reads the weights themselves.
    """

    group: str  # "embeddings" | "attention" | "mlp" | "norms" | "other" | "all", or "layer 7"
    tensors: int
    relative: float


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
            total, *groups = self.drift
            parts = ", ".join(f"{d.group} {d.relative:.2%}" for d in groups if d.relative)
            lines.append(f"note: {self.moved} tensors moved by about {total.relative:.2%} of their size in all ({parts}).")
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


def compare(a: Lock, b: Lock, first: Base, second: Base) -> BaseDiff:
    """Compare two bases by their locks, and their tokenizers where both have one."""
    shared = {name: (tensor, b.tensors[name]) for name, tensor in a.tensors.items() if name in b.tensors}
    comparable = {name: pair for name, pair in shared.items() if pair[0].shape == pair[1].shape}
    moved = {n: (x, y) for n, (x, y) in comparable.items() if (x.sha256, x.dtype) != (y.sha256, y.dtype)}
    distance = {n: drift(x.numbers(), y.numbers()) for n, (x, y) in moved.items() if x.sketch is not None and y.sketch is not None}
    norms = {n: x.norm or 0.0 for n, (x, _) in comparable.items()}
    kinds: dict[str, list[str]] = {"all": list(norms), **{kind: [] for kind, _ in _GROUPS}, "other": []}
    layers: dict[int, list[str]] = {}
    for name in norms:
        kinds[group_of(name)].append(name)
        if (layer := layer_of(name)) is not None:
            layers.setdefault(layer, []).append(name)
    old, new = (a.chat_template or "").splitlines(), (b.chat_template or "").splitlines()
    template_diff = "\n".join(difflib.unified_diff(old, new, str(first.ref), str(second.ref), n=1, lineterm=""))
    return BaseDiff(
        a=str(first.ref),
        b=str(second.ref),
        changes=tuple([*_config(a, b), *_tokenizer(a, b, first.path, second.path), *_rest(a, b, first, second)]),
        added=tuple(sorted(b.tensors.keys() - a.tensors.keys())),
        removed=tuple(sorted(a.tensors.keys() - b.tensors.keys())),
        reshaped=tuple(sorted(shared.keys() - comparable.keys())),
        moved=len(moved),
        same=len(comparable) - len(moved),
        drift=_drift(kinds, distance, norms),
        layers=_drift({f"layer {layer}": layers[layer] for layer in sorted(layers)}, distance, norms),
        tensors={n: d / norms[n] if norms[n] else 0.0 for n, d in distance.items()},
        template_diff=template_diff,
    )


def _drift(groups: dict[str, list[str]], distance: dict[str, float], norms: dict[str, float]) -> tuple[Drift, ...]:
    """How far each group of tensors moved; groups without any are left out."""
    drifts = []
    for group, names in groups.items():
        size = sum(norms[n] ** 2 for n in names)
        moved = sum(distance.get(n, 0.0) ** 2 for n in names)
        drifts += [Drift(group, len(names), (moved / size) ** 0.5 if size else 0.0)] if names else []
    return tuple(drifts)


def _config(a: Lock, b: Lock) -> Iterator[Change]:
    for key, (before, after) in changed(a, b).items():
        kind = kind_of(key)
        yield Change(f"config.{key}", before, after, "break" if kind in BREAKING else "note" if kind == "other" else "risk")


def _tokenizer(a: Lock, b: Lock, first: Path, second: Path) -> Iterator[Change]:
    for key in sorted((a.tokenizer.keys() | b.tokenizer.keys()) - {"vocab_size"}):
        before, after = a.tokenizer.get(key), b.tokenizer.get(key)
        if before != after:
            what = f"tokenizer.{key.removesuffix('_sha256')}"
            yield _vocabulary(a, b, first, second) if key == "vocab_sha256" else Change(what, _short(before), _short(after), "risk")


def _short(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and len(value) == 64 else value


def vocabulary(first: Path, second: Path) -> Vocabulary | None:
    """Compare the token ids of two base folders; None where one has no tokenizer.json. Raises `IntegrityError` for a broken one."""
    old, new = token_ids(first), token_ids(second)
    if old is None or new is None:
        return None
    moved = {token: (n, new[token]) for token, n in old.items() if token in new and new[token] != n}
    gone = {token: n for token, n in old.items() if token not in new}
    return Vocabulary(moved, gone, {token: n for token, n in new.items() if token not in old})


def _vocabulary(a: Lock, b: Lock, first: Path, second: Path) -> Change:
    """A shared token with another id breaks every adapter; tokens that were only appended do not."""
    before, after = f"{a.tokenizer.get('vocab_size')} tokens", f"{b.tokenizer.get('vocab_size')} tokens"
    tokens = vocabulary(first, second)
    if tokens is None:
        return Change("tokenizer.vocab", before, after, "risk")
    words = f"{after}: {len(tokens.added)} new, {len(tokens.gone)} gone, {len(tokens.moved)} with another id"
    return Change("tokenizer.vocab", before, words, "break" if tokens.moved or tokens.gone else "risk")


def _rest(a: Lock, b: Lock, first: Base, second: Base) -> list[Change]:
    severity = {"eos_token": "break", "pad_token": "break"}
    changes = [
        Change(f"special_ids.{key}", a.special_ids.get(key), b.special_ids.get(key), severity.get(key, "risk"))
        for key in sorted(a.special_ids.keys() | b.special_ids.keys())
    ]
    changes += [
        Change("eos_token_ids", list(a.eos_token_ids), list(b.eos_token_ids), "risk"),
        Change("chat_template", _short(a.chat_template_sha256), _short(b.chat_template_sha256), "risk"),
        Change("dtype", a.dtype, b.dtype, "risk"),
        Change("quantization", a.quantization, b.quantization, "risk"),
        Change("license", first.license, second.license, "note"),
    ]
    return [change for change in changes if change.before != change.after]
