"""What is made sure of before the first step and after the last one, each with a sentence on what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench.errors import TrainingError
from workbench.hf.packed import Row, forward, pack, pad, padded_forward, split, trim
from workbench.hf.render import IGNORED, end_of_turn_id

__all__ = ["Footprint", "check_change", "check_end_of_turn", "check_targets", "learned_log_probs", "probe", "supervised"]

_SAME_WITHIN = {torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}  # nats, the worst of some dozen tokens


@dataclass(frozen=True)
class Footprint:
    """What a trial forward pass showed."""

    packs: bool  # packed rows give what padded rows give
    why_not: str  # else, the reason
    bytes_per_token: int  # kept for the backward pass


def check_end_of_turn(model: Any, tokenizer: Any, rows: Sequence[Row], *, chat: bool) -> list[str]:
    """The end of the answer must be learned, and generation must stop there. Returns notes; mends the stop list."""
    end = end_of_turn_id(tokenizer) if chat else int(tokenizer.eos_token_id)
    name = tokenizer.convert_ids_to_tokens(end)
    if not any(end in labels for _, labels in rows):
        raise TrainingError(
            f"No training row teaches the model to end its answer with {name}, so it would never stop.",
            hint="Raise max_length if the rows are cut; else the base's chat template writes no end of turn: use another base.",
        )
    config = model.generation_config
    stops = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if end in stops:
        return []
    config.eos_token_id = [end, *(stop for stop in stops if stop is not None)]
    return [f"The base's generation_config.json does not stop at {name}; generation_config.json beside the result does."]


def check_targets(model: Any, targets: Sequence[str]) -> None:
    """Each of `targets` must name a linear module of the model; raises `TrainingError` with those there are."""
    if tuple(targets) == ("all-linear",):
        return
    head = model.get_output_embeddings()
    linear = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    }
    unknown = [target for target in targets if target.rpartition(".")[2] not in linear]
    if unknown:
        raise TrainingError(
            f"lora_target_modules: this base has no {' and no '.join(unknown)}.",
            hint=f"It has: {', '.join(sorted(linear))}; all-linear takes them all.",
        )


def probe(model: Any, rows: Sequence[Row], dtype: torch.dtype) -> Footprint:
    """Run two or three short rows both ways: packed and padded must agree; and count what is kept for the backward pass."""
    shortest = sorted(rows, key=lambda row: len(row[0]))[:3]
    few = [trim(row) for row in (shortest[-1], *shortest[:-1])]  # the longest first
    on = next(model.parameters()).device
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    packs, why_not = True, ""
    autocast = torch.autocast(on.type, dtype=dtype, enabled=dtype != torch.float32)
    with torch.no_grad(), autocast:
        wanted = padded_forward(model, pad(few, device=on))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), autocast:
        try:
            found = forward(model, pack(few, device=on))
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            packs, why_not = False, str(error).splitlines()[0]
            kept.clear()
            found = padded_forward(model, pad(few, device=on))
    apart = float((found.detach() - wanted).abs().max())
    if packs and not apart <= _SAME_WITHIN.get(dtype, 0.25):
        packs, why_not = False, f"packed rows score up to {apart:.3g} nats apart from padded ones"
    tokens = sum(len(ids) - 1 for ids, _ in few)
    return Footprint(packs, why_not, sum(size for pointer, size in kept.items() if pointer not in weights) // tokens)


def learned_log_probs(model: Any, rows: Sequence[Row], *, packs: bool, tokens: int = 1024) -> torch.Tensor:
    """Log-probabilities of the learned tokens of `rows`, without gradients."""
    on = next(model.parameters()).device
    parts = []
    with torch.no_grad():
        for part in split([trim(row) for row in rows], tokens):
            parts.append(forward(model, pack(part, device=on)) if packs else padded_forward(model, pad(part, device=on)))
    return torch.cat(parts).cpu()


def check_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest change of a learned token's log-probability; raises `TrainingError` when training changed nothing."""
    if not bool(torch.isfinite(after).all()):
        raise TrainingError("The trained weights give NaN.", hint="Lower learning_rate to a tenth and start again.")
    change = float((after - before).abs().max())
    if change == 0.0:
        raise TrainingError(
            "Training changed nothing: the model answers exactly as the base does.", hint="Raise learning_rate or the number of steps."
        )
    return change


def supervised(rows: Sequence[Row]) -> int:
    """Number of learned tokens."""
    return sum(label != IGNORED for _, labels in rows for label in labels)
