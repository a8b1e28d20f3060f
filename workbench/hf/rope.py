"""Which rows may stand beside each other where the rotary positions depend on the longest of them.

Phi-3's longrope turns all keys of a forward pass by another set of angles as soon as one row is longer than the context of
its pretraining; dynamic NTK scaling takes angles of its own for every length beyond it. A row's score must be the same
whatever stands beside it, so rows of another kind never share a forward pass, nor the keys and values of a beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["LONG", "alike", "length_kind"]

Kind = Callable[[int], Hashable]
LONG = 2**40  # tokens: longer than any row


def length_kind(model: Any) -> Kind:
    """A function of a row's length in tokens, equal for rows that `model` turns by the same angles."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    ropes = [rope for rope in (given, *given.values()) if isinstance(rope, dict)]  # one for all layers, or one per type of layer
    context = int(getattr(config, "max_position_embeddings", 0) or 0)
    switches = [int(rope.get("original_max_position_embeddings") or context) for rope in ropes if rope.get("rope_type") == "longrope"]
    scales = any("dynamic" in str(rope.get("rope_type")) for rope in ropes)
    return lambda length: (*(length > switch for switch in switches), max(length, context) if scales else 0)


def alike(kind: Kind, length: int) -> int:
    """How many tokens can follow a row of `length` tokens, each given those before it, until the row is of another `kind`."""
    return 1 + bisect_left(range(1, LONG), True, key=lambda more: kind(length + more) != kind(length))
