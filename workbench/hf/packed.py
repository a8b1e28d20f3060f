"""Several rows as one sequence without padding, their common beginning computed once.

A batch of rows that all start with the same tokens (a system prompt, an instruction) is laid out as

    [ common beginning | rest of row 1 | rest of row 2 | ... ]        one sequence, batch size 1

Every row's tokens keep the positions they have alone, and attention is restricted to the common beginning and the
row's own tokens, so each token sees exactly what it sees in a padded batch: the loss and its gradient are the same
up to rounding (`tests/hf/test_packed.py`), and no work is spent on padding, on repeats of the beginning, or on the
tokens after the last learned one. The linear layers see one long sequence; only attention knows about rows, and only
positions that predict a learned token pass through the output layer.

It works for every model that calls transformers' attention interface and passes its keyword arguments on;
`workbench.hf.preflight` tries it on real rows before a run relies on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workbench.hf.render import IGNORED

__all__ = ["ATTENTION", "Layout", "Pack", "Row", "common_beginning", "forward", "pack", "pad", "padded_forward", "split", "trim"]

ATTENTION = "workbench_packed"  # the name under which transformers finds `attend`
Row = tuple[list[int], list[int]]  # (input_ids, labels), equally long
_PLAIN_ATTENTION_UP_TO = 1024  # keys; beyond it the fused kernel's smaller memory is worth its slower backward on a CPU
_WHOLE_LOGITS_UP_TO = 256 * 1024**2  # bytes of float32 logits; beyond it TRL's fused head works in tiles


@dataclass(frozen=True)
class Layout:
    """Where rows lie in a packed sequence of T tokens: `prefix` common ones, then each row's own.

    `gather` [n, S] holds the position in the sequence of each row's own tokens, S the longest row's; missing ones
    point at the row's first. `scatter` [T - prefix] is the way back: where own token t lies in the flattened [n, S].
    """

    prefix: int
    gather: Tensor
    scatter: Tensor


@dataclass(frozen=True)
class Pack:
    """A packed batch: what goes into the model, and what each position is to predict."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]: each token's position in its own row
    next_labels: Tensor  # [1, T]: the learned token that follows, else IGNORED
    layout: Layout


def trim(row: Row) -> Row:
    """The row without the tokens after its last learned one; nothing in the loss depends on them."""
    ids, labels = row
    last = max((i for i, label in enumerate(labels) if label != IGNORED), default=0)
    return ids[: last + 1], labels[: last + 1]


def common_beginning(rows: Sequence[Row]) -> int:
    """Number of tokens all rows begin with, leaving each the token before its first learned one to itself."""
    possible = min(next((i for i, label in enumerate(labels) if label != IGNORED), 1) for _, labels in rows) - 1
    first = rows[0][0]
    for i in range(possible):
        if any(ids[i] != first[i] for ids, _ in rows):
            return i
    return max(0, possible)


def split(rows: Sequence[Row], tokens: int) -> list[list[Row]]:
    """Consecutive groups of at most `tokens` tokens each, the common beginning counted once; a longer row stands alone."""
    prefix = common_beginning(rows)
    groups: list[list[Row]] = []
    used = 0
    for row in rows:
        own = len(row[0]) - prefix
        if not groups or used + own > tokens:
            groups.append([])
            used = prefix
        groups[-1].append(row)
        used += own
    return groups


def pack(rows: Sequence[Row], *, device: torch.device, share: bool = True) -> Pack:
    """Lay out trimmed `rows`, each with a learned token; with `share` their common beginning stands once."""
    prefix = common_beginning(rows) if share and len(rows) > 1 else 0
    ids = list(rows[0][0][:prefix])
    positions = list(range(prefix))
    follows = [IGNORED] * prefix
    gather: list[list[int]] = []
    scatter: list[int] = []
    longest = max(len(row_ids) for row_ids, _ in rows) - 1 - prefix
    for n, (row_ids, labels) in enumerate(rows):
        own = len(row_ids) - 1 - prefix  # the last token is only predicted
        start = len(ids)
        ids += row_ids[prefix:-1]
        positions += range(prefix, prefix + own)
        follows += labels[prefix + 1 :]
        gather.append([start + (i if i < own else 0) for i in range(longest)])
        scatter += range(n * longest, n * longest + own)

    def tensor(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Pack(tensor([ids]), tensor([positions]), tensor([follows]), Layout(prefix, tensor(gather), tensor(scatter)))


def forward(model: Any, batch: Pack, *, tiles: bool = False) -> Tensor:
    """Log-probability [N], float32, of every learned token of the packed batch given what precedes it in its row.

    `tiles` says that TRL's fused output layer is on the model, for batches whose logits would take too much memory.
    """
    inputs = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        # transformers takes a mask of four dimensions as ready and hands it to `attend`, which needs none
        "attention_mask": torch.zeros(1, 1, 1, 1, device=batch.input_ids.device),
        "packed_layout": batch.layout,
    }
    return _log_probs(model, inputs, batch.next_labels, tiles)


def pad(rows: Sequence[Row], *, device: torch.device) -> dict[str, Tensor]:
    """Trimmed rows as an ordinary batch [n, S], padded on the right; for models that `forward` does not fit."""
    width = max(len(ids) for ids, _ in rows) - 1
    ids = [row_ids[:-1] + [0] * (width + 1 - len(row_ids)) for row_ids, _ in rows]
    mask = [[1] * (len(row_ids) - 1) + [0] * (width + 1 - len(row_ids)) for row_ids, _ in rows]
    follows = [labels[1:] + [IGNORED] * (width + 1 - len(labels)) for _, labels in rows]
    values = {"input_ids": ids, "attention_mask": mask, "next_labels": follows}
    return {name: torch.tensor(value, dtype=torch.long, device=device) for name, value in values.items()}


def padded_forward(model: Any, batch: dict[str, Tensor], *, tiles: bool = False) -> Tensor:
    """As `forward`, for the batch of `pad`."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return _log_probs(model, inputs, batch["next_labels"], tiles)


def _log_probs(model: Any, inputs: dict[str, Any], next_labels: Tensor, tiles: bool) -> Tensor:
    """Run the model, its output layer only where `next_labels` [n, T] asks; float32 log-probabilities in row order."""
    learned = next_labels != IGNORED
    columns = learned.any(dim=0).nonzero().flatten()
    logits_bytes = 4 * len(columns) * len(next_labels) * model.get_output_embeddings().weight.shape[0]
    if tiles and logits_bytes > _WHOLE_LOGITS_UP_TO:
        found = model(**inputs, shift_labels=next_labels, fused_lm_head=True).log_probs
        return found[learned].float()
    logits = model(**inputs, use_cache=False, logits_to_keep=columns).logits
    here = learned[:, columns]
    wanted = logits.flatten(0, 1) if bool(here.all()) else logits[here]
    return -F.cross_entropy(wanted.float(), next_labels[:, columns][here], reduction="none")


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: Layout | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention over a packed sequence; transformers' own where there is no layout.

    `query` is [1, H, T, D], `key` and `value` [1, K, T, D] with H a multiple of K; the result is [1, T, H, D].
    Raises `NotImplementedError` for what some models ask for and this does not do.
    """
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)
    if dropout or others.get("softcap") or others.get("s_aux") is not None:
        raise NotImplementedError("attention with dropout, soft capping or sinks")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # token first: gathering rows then copies whole lines of memory
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    p, (n, longest) = packed_layout.prefix, packed_layout.gather.shape
    flat = packed_layout.gather.reshape(-1)
    own_q, own_k, own_v = (x.index_select(0, flat).view(n, longest, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    parts = []
    if p:
        first_q, first_k, first_v = (x[None, :p].transpose(1, 2) for x in (q, k, v))
        parts.append(_attention(first_q, first_k, first_v, scale, sliding_window)[0])
        own_k, own_v = (torch.cat([x.expand(n, -1, -1, -1), own], dim=2) for x, own in ((first_k, own_k), (first_v, own_v)))
    rest = _attention(own_q, own_k, own_v, scale, sliding_window)
    parts.append(rest.reshape(n * longest, *rest.shape[2:]).index_select(0, packed_layout.scatter))
    return torch.cat(parts)[None], None


def _attention(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
    """Causal attention of the last S of L tokens: `q` [n, H, S, D], `k` and `v` [n, K, L, D] -> [n, S, H, D].

    Plain products: on a CPU and short rows the backward pass of the fused kernel takes longer.
    """
    (n, heads, s, d), (_, groups, length, _) = q.shape, k.shape
    distance = torch.arange(length - s, length, device=q.device)[:, None] - torch.arange(length, device=q.device)[None]
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    if length > _PLAIN_ATTENTION_UP_TO:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden, scale=scale, enable_gqa=heads != groups).transpose(1, 2)
    mask = torch.zeros(s, length, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))
    each = heads // groups
    scores = torch.matmul(q.reshape(n, groups, each * s, d) * scale, k.transpose(2, 3))
    weights = (scores.view(n, groups, each, s, length) + mask).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    out = torch.matmul(weights.view(n, groups, each * s, length), v)
    return out.view(n, heads, s, v.shape[-1]).transpose(1, 2)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
