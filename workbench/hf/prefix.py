"""Rows that start alike (a system prompt, an instruction) share the keys and values of that start: it is computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

__all__ = ["Prefix", "common_prefix", "plain_cache", "shared_tokens"]

WORTH = 4  # tokens; a shorter start is cheaper to repeat than to look after


def shared_tokens(rows: Sequence[list[int]], limit: int) -> int:
    """How many first tokens all rows share, at most `limit`."""
    first, last = min(rows), max(rows)  # rows between them share at least what these two share
    shared = 0
    while shared < min(limit, len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return shared


def common_prefix(rows: Sequence[list[int]], limit: int) -> int:
    """`shared_tokens` of several rows; 0 where sharing is not worth it."""
    shared = shared_tokens(rows, limit) if len(rows) > 1 else 0
    return shared if shared >= WORTH else 0


def plain_cache(cache: Any) -> bool:
    """True when every layer keeps all keys and values, one slot per token."""
    # a class of its own (MiniMax) keeps more than keys and values
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)


class Prefix:
    """The keys and values of a start that all rows share, under one arm."""

    def __init__(self, cache: Any, ids: Sequence[int]) -> None:
        self.ids = list(ids)
        self.plain = plain_cache(cache)
        self._cache = cache

    @property
    def length(self) -> int:
        return len(self.ids)

    @classmethod
    @torch.inference_mode()
    def compute(cls, model: Any, ids: Sequence[int]) -> Prefix | None:
        """One forward pass over `ids`; None when there are none or the model's cache cannot be shared between rows."""
        if not ids:
            return None
        inputs = torch.tensor([list(ids)], device=model.device)
        cache: Any = getattr(model(input_ids=inputs, use_cache=True, logits_to_keep=1), "past_key_values", None)
        known = DynamicLayer, DynamicSlidingWindowLayer
        if type(cache) is not DynamicCache or any(type(layer) not in known for layer in cache.layers):
            return None
        return cls(cache, ids)

    def expanded(self, rows: int) -> Any:
        """A cache for a batch of `rows` that starts with this prefix. It may grow; the prefix stays as it is."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in cache.layers:
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache
