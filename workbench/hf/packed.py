"""Several rows as one sequence without padding, their common beginning computed once.

A batch of rows that all start with the same tokens (a system prompt, an instruction) is laid out as

    [ common beginning | rest of row 1 | rest of row 2 | ... ]        one sequence, batch size 1

Every row's tokens keep the positions they have alone, and attention is restricted to the common beginning and the
row's own tokens, so each token sees exactly what it sees in a padded batch: the loss and its gradient are the same
up to rounding (`tests/hf/test_packed.py`), and no work is spent on padding, on repeats of the beginning, or on the
tokens after the last learned one. The linear layers see one long sequence; only attention knows about rows, and only
positions that predict a learned token pass through the output layer.

What a model's own mask says is kept, whatever it is (windows, chunks): all rows begin at position 0, so the mask of a
single row of the longest length is the mask of each, and transformers builds that one from the model's mask functions.

It works for every model that calls transformers' attention interface and passes its keyword arguments on;
`workbench.hf.proof` proves it on real rows before a run relies on it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workbench.hf.prefix import shared_tokens
from workbench.hf.render import IGNORED, supervised
from workbench.hf.rope import length_kind

__all__ = ["ATTENTION", "Batch", "Layout", "Row", "attend", "common_beginning", "log_probs", "masks_for", "pack"]
__all__ += ["pad", "row_mask", "scored", "split", "trim"]

ATTENTION = "workbench_packed"  # the name under which transformers finds `attend`
Row = tuple[list[int], list[int]]  # (input_ids, labels), equally long
_PLAIN_ATTENTION_UP_TO = 1024  # keys; beyond it the fused kernel's smaller memory is worth its slower backward on a CPU
_WHOLE_LOGITS_UP_TO = 256 * 1024**2  # bytes of float32 logits; beyond it TRL's fused head works in tiles
_row_length: ContextVar[int | None] = ContextVar("_row_length", default=None)  # of the packed batch whose masks are being made


@dataclass(frozen=True)
class Layout:
    """Where rows lie in a packed sequence of T tokens: `prefix` common ones, then each row's own.

    `gather` [n, S] holds the position in the sequence of each row's own tokens, S the longest row's; missing ones
    point at the row's first. `scatter` [T - prefix] is the way back: where own token t lies in the flattened [n, S].
    """

    prefix: int
    gather: Tensor
    scatter: Tensor

    @property
    def row_length(self) -> int:
        """Tokens of the longest row, the common ones included."""
        return self.prefix + self.gather.shape[1]


@dataclass(frozen=True)
class Batch:
    """What goes into the model, and what each position is to predict: [1, T] for packed rows, [n, S] for padded ones."""

    input_ids: Tensor
    stands_for: Tensor  # in how many rows the token is: 1 but for the common beginning, 0 for padding
    next_labels: Tensor  # the learned token that follows, else IGNORED
    position_ids: Tensor | None = None  # of packed rows: each token's position in its own row
    layout: Layout | None = None  # of packed rows

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model is called with."""
        # the mask tells the load-balancing loss of mixtures of experts how often a token counts; attention asks `row_mask`
        inputs: dict[str, Any] = {"input_ids": self.input_ids, "attention_mask": self.stands_for}
        return inputs if self.layout is None else {**inputs, "position_ids": self.position_ids, "packed_layout": self.layout}


def trim(row: Row) -> Row:
    """The row without the tokens after its last learned one; nothing in the loss depends on them."""
    ids, labels = row
    last = max((i for i, label in enumerate(labels) if label != IGNORED), default=0)
    return ids[: last + 1], labels[: last + 1]


def common_beginning(rows: Sequence[Row]) -> int:
    """Number of tokens all rows begin with, leaving each the token before its first learned one to itself."""
    possible = min(next((i for i, label in enumerate(labels) if label != IGNORED), 1) for _, labels in rows) - 1
    return shared_tokens([ids for ids, _ in rows], possible)


def split(rows: Sequence[Row], tokens: int, *, kind: Callable[[int], Hashable] = lambda length: 0) -> list[list[Row]]:
    """Groups of at most `tokens` tokens each, the common beginning counted once; a longer row stands alone.

    Rows are taken in order, and those of whose length `kind` says something else go into another group.
    """
    groups: list[list[Row]] = []
    for one in {kind(len(ids) - 1): None for ids, _ in rows}:
        alike = [row for row in rows if kind(len(row[0]) - 1) == one]
        prefix = common_beginning(alike)
        used = tokens + 1
        for row in alike:
            own = len(row[0]) - prefix
            if used + own > tokens:
                groups.append([])
                used = prefix
            groups[-1].append(row)
            used += own
    return groups


def pack(rows: Sequence[Row], *, device: torch.device, share: bool = True, whole: bool = False) -> Batch:
    """Lay out `rows`, each with a learned token; with `share` their common beginning stands once.

    The last token of each is only predicted, and goes into the model with `whole` alone, where all tokens count.
    """
    prefix = common_beginning(rows) if share and len(rows) > 1 else 0
    ids = list(rows[0][0][:prefix])
    positions = list(range(prefix))
    follows = [IGNORED] * prefix
    gather: list[list[int]] = []
    scatter: list[int] = []
    longest = max(len(row_ids) for row_ids, _ in rows) - (not whole) - prefix
    for n, (row_ids, labels) in enumerate(rows):
        own = len(row_ids) - (not whole) - prefix
        start = len(ids)
        ids += row_ids[prefix : prefix + own]
        positions += range(prefix, prefix + own)
        follows += [*labels[prefix + 1 :], IGNORED][:own]
        gather.append([start + (i if i < own else 0) for i in range(longest)])
        scatter += range(n * longest, n * longest + own)
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    stands_for = tensor([[len(rows)] * prefix + [1] * len(scatter)])
    return Batch(tensor([ids]), stands_for, tensor([follows]), tensor([positions]), Layout(prefix, tensor(gather), tensor(scatter)))


def pad(rows: Sequence[Row], *, device: torch.device, whole: bool = False) -> Batch:
    """Rows as an ordinary batch [n, S], padded on the right; for models on which packed rows do not stay apart. `whole` as in `pack`."""
    fed = [len(ids) - (not whole) for ids, _ in rows]
    width = max(fed)
    ids = [row_ids[:own] + [0] * (width - own) for own, (row_ids, _) in zip(fed, rows, strict=True)]
    mask = [[1] * own + [0] * (width - own) for own in fed]
    follows = [([*labels[1:], IGNORED][:own]) + [IGNORED] * (width - own) for own, (_, labels) in zip(fed, rows, strict=True)]
    tensor = partial(torch.tensor, dtype=torch.long, device=device)
    return Batch(tensor(ids), tensor(mask), tensor(follows))


def scored(model: Any, batch: Batch, *, tiles: bool = False, balance: bool = False) -> tuple[Tensor, Tensor | None]:
    """(log-probabilities [N], float32, of the learned tokens in row order; with `balance` the load-balancing loss of the experts).

    The output layer runs only where something is learned. `tiles` says that TRL's fused one is on the model, for batches whose
    logits would take too much memory.
    """
    inputs, next_labels = batch.inputs, batch.next_labels
    if balance:
        inputs["output_router_logits"] = True
    learned = next_labels != IGNORED
    columns = learned.any(dim=0).nonzero().flatten()
    logits_bytes = 4 * len(columns) * len(next_labels) * model.get_output_embeddings().weight.shape[0]
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    # TRL's head looks for the layers in `base_model`, and for the balance of experts in `num_experts`
    fits = plain.base_model is not plain and (not balance or hasattr(plain.config.get_text_config(), "num_experts"))
    tiled = tiles and fits and logits_bytes > _WHOLE_LOGITS_UP_TO
    how = {"shift_labels": next_labels, "fused_lm_head": True} if tiled else {"use_cache": False, "logits_to_keep": columns}
    with masks_for(batch):
        out = model(**inputs, **how)
    aux = out.aux_loss if balance else None
    if tiled:
        return out.log_probs[learned].float(), aux
    here = learned[:, columns]
    wanted = out.logits.flatten(0, 1) if bool(here.all()) else out.logits[here]
    return -F.cross_entropy(wanted.float(), next_labels[:, columns][here], reduction="none"), aux


@torch.no_grad()
def log_probs(model: Any, rows: Sequence[Row], *, packs: bool, tokens: int = 1024) -> list[Tensor]:
    """Log-probabilities of the learned tokens of each row, float32 on the CPU, from batches of at most `tokens` tokens."""
    on, trimmed = next(model.parameters()).device, [trim(row) for row in rows]
    by_row: dict[int, Tensor] = {}
    for part in split([row for row in trimmed if len(row[0]) > 1], tokens, kind=length_kind(model)):
        of_part = scored(model, pack(part, device=on) if packs else pad(part, device=on))[0].cpu()
        by_row |= zip(map(id, part), of_part.split([supervised(labels) for _, labels in part]), strict=True)
    return [by_row.get(id(row), torch.zeros(0)) for row in trimmed]


@contextmanager
def masks_for(batch: Batch) -> Iterator[None]:
    """While a model is called with `batch.inputs`: its masks are made for the rows of `batch`."""
    token = _row_length.set(batch.layout.row_length if batch.layout else None)
    try:
        yield
    finally:
        _row_length.reset(token)


def row_mask(*, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **how: Any) -> Tensor | None:
    """transformers' mask of True where a token looks [1, 1, S, S]; for a packed batch that of its longest row. None: plain causal."""
    length = _row_length.get()
    if length is not None:
        q_length, kv_length, attention_mask = length, length, None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **how)  # type: ignore[no-any-return]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: Layout | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over a packed sequence; transformers' own where there is no layout.

    `query` is [1, H, T, D], `key` and `value` [1, K, T, D] with H a multiple of K; the result is [1, T, H, D].
    `attention_mask` is what `row_mask` gave, `softcap` bounds the scores (Gemma 2), `s_aux` [H] are sinks (gpt-oss).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attention = partial(_attention, scale=scale, dropout=dropout, softcap=softcap or None, sinks=s_aux)
    if packed_layout is None:
        if not softcap and s_aux is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
        return attention(query, key, value, attention_mask), None
    # token first: gathering rows then copies whole lines of memory
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    p, (n, longest) = packed_layout.prefix, packed_layout.gather.shape
    flat = packed_layout.gather.reshape(-1)
    own_q, own_k, own_v = (x.index_select(0, flat).view(n, longest, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    parts = []
    mask = attention_mask
    if p:
        first_q, first_k, first_v = (x[None, :p].transpose(1, 2) for x in (q, k, v))
        parts.append(attention(first_q, first_k, first_v, None if mask is None else mask[..., :p, :p])[0])
        own_k, own_v = (torch.cat([x.expand(n, -1, -1, -1), own], dim=2) for x, own in ((first_k, own_k), (first_v, own_v)))
    rest = attention(own_q, own_k, own_v, None if mask is None else mask[..., p:, :])
    parts.append(rest.reshape(n * longest, *rest.shape[2:]).index_select(0, packed_layout.scatter))
    return torch.cat(parts)[None], None


def _attention(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, *, scale: float, dropout: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention of the last S of L tokens: `q` [n, H, S, D], `k` and `v` [n, K, L, D] -> [n, S, H, D].

    `seen` [1 or n, 1, S, L] is True where a token looks; None is causal. Plain products: on a CPU and short rows the
    backward pass of the fused kernel takes longer.
    """
    (n, heads, s, d), (_, groups, length, _) = q.shape, k.shape
    if seen is None:
        places = torch.arange(length, device=q.device)
        seen = places[length - s :, None] >= places
    if length > _PLAIN_ATTENTION_UP_TO and softcap is None and sinks is None:  # or torch's kernel cannot do it
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout, scale=scale, enable_gqa=heads != groups)
        return out.transpose(1, 2)
    mask = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, torch.finfo(q.dtype).min)
    if mask.ndim == 4:
        mask = mask[:, :, None]  # a group of heads shares its keys
    each = heads // groups
    scores = torch.matmul(q.reshape(n, groups, each * s, d) * scale, k.transpose(2, 3)).view(n, groups, each, s, length)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + mask
    if sinks is not None:
        sinks = sinks.to(scores.dtype).view(1, groups, each, 1, 1).expand(n, -1, -1, s, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32)[..., :length].to(q.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    out = torch.matmul(weights.reshape(n, groups, each * s, length), v)
    return out.view(n, heads, s, v.shape[-1]).transpose(1, 2)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, row_mask)
