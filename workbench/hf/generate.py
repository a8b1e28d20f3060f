"""Greedy answers, in batches, from a model in memory.

Greedy means the most likely token at every step and nothing else: the penalties and temperatures of a base's
`generation_config.json` do not apply, so that an answer is exactly what the teacher-forced scores speak of.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from workbench.errors import UsageError
from workbench.hf.prefix import Prefix, plain_cache
from workbench.hf.render import end_of_turn_id, prompt_ids
from workbench.hf.rope import alike, length_kind

__all__ = ["answer", "decode", "decoded", "greedy", "stop_ids"]

BATCH = 16  # rows that are answered together
Ended = Callable[[list[int]], bool]


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the chat template's end of turn, the tokenizer's and the generation config's ends."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    found = {end_of_turn_id(tokenizer), int(tokenizer.eos_token_id)}
    return frozenset(found | set([ends] if isinstance(ends, int) else ends or ()))


def answer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    *,
    max_new_tokens: int,
) -> list[str]:
    """The model's greedy answer to each canonical row, whose last answer is not shown, without its end-of-turn token."""
    stop = stop_ids(model, tokenizer)
    answers = greedy(model, [prompt_ids(tokenizer, row) for row in rows], max_new_tokens=max_new_tokens, stop=stop)
    return [decoded(tokenizer, tokens, stop) for tokens in answers]


def decoded(tokenizer: Any, tokens: Sequence[int], stop: frozenset[int]) -> str:
    """The text of generated `tokens`, up to the token that stopped them."""
    kept = tokens[:-1] if tokens and tokens[-1] in stop else tokens
    return str(tokenizer.decode(list(kept), skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()


def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: frozenset[int],
    prefix: Prefix | None = None,
    ended: Ended | None = None,
) -> list[list[int]]:
    """Continue each prompt (token ids, after `prefix` if given) until a token of `stop`, which is included.

    Prompts of like length go together; the result keeps their order.
    """
    kind, beginning = length_kind(model), prefix.ids if prefix else []
    answers: list[list[int]] = [[] for _ in prompts]

    def length(i: int) -> int:
        return len(beginning) + len(prompts[i]) + len(answers[i])

    unfinished = list(range(len(prompts)))
    while unfinished:
        kinds: dict[Hashable, list[int]] = {}
        for i in sorted(unfinished, key=length):
            kinds.setdefault(kind(length(i)), []).append(i)
        for of_kind, rows in kinds.items():
            # padding between the prefix and the prompts would use up a sliding window
            start = prefix if prefix and prefix.plain and kind(prefix.length) == of_kind else None
            for at in range(0, len(rows), BATCH):
                batch = rows[at : at + BATCH]
                texts = [[*(() if start else beginning), *prompts[i], *answers[i]] for i in batch]
                limits = [min(max_new_tokens, len(answers[i]) + alike(kind, length(i))) for i in batch]
                _continue(model, texts, [answers[i] for i in batch], limits, stop, start, ended)
        # what is left has grown past a length from which on the model turns all its tokens by other angles, so they are read anew
        unfinished = [i for i in unfinished if not _finished(answers[i], max_new_tokens, stop, ended)]
    return answers


@torch.inference_mode()
def _continue(
    model: Any,
    prompts: list[list[int]],
    answers: list[list[int]],
    limits: Sequence[int],
    stop: frozenset[int],
    prefix: Prefix | None,
    ended: Ended | None,
) -> None:
    """Read the prompts, padded on the left so that every row's next token falls on the same place; then decode."""
    longest = max(map(len, prompts))
    skipped = prefix.length if prefix else 0
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.ones(len(prompts), skipped + longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        pad = longest - len(prompt)
        ids[row, pad:] = torch.tensor(prompt)
        mask[row, skipped : skipped + pad] = 0
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, skipped:]
    cache, first = _next(model, ids, mask, positions, prefix.expanded(len(prompts)) if prefix else None)
    if cache is None:
        raise UsageError("This base keeps no cache of keys and values, so it cannot be asked for answers here.", hint="Use another base.")
    decode(model, cache, mask, positions[:, -1] + 1, first, answers=answers, limits=limits, stop=stop, ended=ended)


@torch.inference_mode()
def decode(
    model: Any,
    cache: Any,
    mask: torch.Tensor,
    position: torch.Tensor,
    first: torch.Tensor,
    *,
    answers: Sequence[list[int]],
    limits: Sequence[int],
    stop: frozenset[int],
    ended: Ended | None = None,
) -> None:
    """Go on greedily from a filled cache, one token a step, until each row's answer stops, has `ended` or has its limit of tokens.

    `mask` [rows, slots] says which of the cache's slots a row may look at, `position` [rows] is the place of its next
    token, `first` [rows] that token. `answers` are the rows' tokens so far, and grow. Rows that are finished leave the batch.
    """
    live, token = list(range(len(first))), first
    can_shrink = plain_cache(cache)
    while True:
        for row, new in zip(live, token.tolist(), strict=True):
            if not _finished(answers[row], limits[row], stop, ended):
                answers[row].append(new)
        keep = [i for i, row in enumerate(live) if not _finished(answers[row], limits[row], stop, ended)]
        if not keep:
            return
        if can_shrink and len(keep) < len(live):
            chosen = torch.tensor(keep, device=token.device)
            cache.batch_select_indices(chosen)
            live, mask, position, token = [live[i] for i in keep], mask[chosen], position[chosen], token[chosen]
        else:  # a finished row that cannot leave stands at the beginning, lest its length decide by what angles the others are turned
            position[[i for i in range(len(live)) if i not in keep]] = 0
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        cache, token = _next(model, token[:, None], mask, position[:, None], cache)
        position = position + 1


def _finished(tokens: list[int], limit: int, stop: frozenset[int], ended: Ended | None) -> bool:
    return bool(tokens) and (len(tokens) >= limit or tokens[-1] in stop or (ended is not None and ended(tokens)))


def _next(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> tuple[Any, torch.Tensor]:
    """One forward pass: (the cache filled on, None where the model keeps none; each row's most likely next token)."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    # a model that takes none (ALiBi) reads the places off the attention mask
    places = {"position_ids": positions} if "position_ids" in inspect.signature(plain.forward).parameters else {}
    out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **places)
    return getattr(out, "past_key_values", None), out.logits[:, -1].argmax(-1)
