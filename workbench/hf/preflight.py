"""What is made sure of before the first step and after the last one, each with a sentence on what to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from workbench.errors import IntegrityError, TrainingError
from workbench.hf.packed import ATTENTION, Row, forward, pack, pad, padded_forward, split, trim
from workbench.hf.render import IGNORED, end_of_turn_id

__all__ = [
    "Footprint",
    "check_change",
    "check_fit",
    "check_targets",
    "learned_log_probs",
    "load_start",
    "probe",
    "stop_at_end_of_turn",
    "supervised",
]

_SAME_WITHIN = {torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}  # nats, the worst of some dozen tokens


@dataclass(frozen=True)
class Footprint:
    """What a trial forward pass showed."""

    packs: bool  # packed rows give what padded rows give
    why_not: str  # else, the reason
    bytes_per_token: int  # kept for the backward pass


def stop_at_end_of_turn(model: Any, tokenizer: Any, *, chat: bool) -> list[str]:
    """Generation must stop where the learned answers end. Mends the stop list, and returns notes."""
    end = end_of_turn_id(tokenizer) if chat else int(tokenizer.eos_token_id)
    name = tokenizer.convert_ids_to_tokens(end)
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
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head]
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown:
        raise TrainingError(
            f"lora_target_modules: this base has no {' and no '.join(unknown)}.",
            hint=f"It has: {', '.join(sorted({name.rpartition('.')[2] for name in linear}))}; all-linear takes them all.",
        )


def load_start(model: Any, weights: Path) -> None:
    """Put the weights of `weights`.safetensors into what is trained; raises `IntegrityError` unless every one has its place."""
    try:
        state = load_file(weights.with_suffix(".safetensors"))
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"The checkpoint to begin with cannot be read: {error}") from None
    whole = not hasattr(model, "peft_config")
    wanted = model.state_dict() if whole else get_peft_model_state_dict(model, save_embedding_layers=False)
    tied = {key for key in model.all_tied_weights_keys if key not in state} if whole else set()  # saved once
    wrong = sorted((wanted.keys() - tied) ^ state.keys())
    wrong += sorted(key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape)
    if wrong:
        raise IntegrityError(
            f"The checkpoint to begin with is not of this base and recipe: {len(wrong)} weights are missing, surplus or of another shape: "
            f"{', '.join(wrong[:4])}{', …' if len(wrong) > 4 else ''}."
        )
    if whole:
        model.load_state_dict(state, strict=False)
    else:
        set_peft_model_state_dict(model, state)


def check_fit(model: Any, rows: Sequence[Row]) -> None:
    """Rows must fit the model's context and its vocabulary; raises `TrainingError` with what would."""
    longest, highest = max(len(ids) for ids, _ in rows), max(max(ids) for ids, _ in rows)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and longest > context:
        raise TrainingError(
            f"There are rows of {longest} tokens, and this base reads {context} at most.", hint=f"Set max_length: {context}"
        )
    known = model.get_input_embeddings().weight.shape[0]
    if highest >= known:
        raise TrainingError(
            f"The tokenizer gives token {highest}, and this base knows {known} only: they do not belong together.",
            hint="Add the base again with its own tokenizer: workbench base add",
        )


def probe(model: Any, rows: Sequence[Row], dtype: torch.dtype) -> Footprint:
    """Run two or three short rows both ways: packed and padded must agree; and count what is kept for the backward pass.

    Leaves the model with packed attention where that works, else with its own.
    """
    shortest = sorted(rows, key=lambda row: len(row[0]))[:3]
    few = [trim(row) for row in (shortest[-1], *shortest[:-1])]  # the longest first
    on = next(model.parameters()).device
    own = model.config._attn_implementation
    padded, packed = pad(few, device=on), pack(few, device=on)
    tokens = sum(len(ids) - 1 for ids, _ in few)
    with torch.autocast(on.type, dtype=dtype, enabled=dtype != torch.float32):
        wanted, kept = _kept(model, lambda: padded_forward(model, padded))
        try:
            model.set_attn_implementation(ATTENTION)
            found, kept = _kept(model, lambda: forward(model, packed))
            apart = float((found - wanted).abs().max())
            why_not = "" if apart <= _SAME_WITHIN[dtype] else f"packed rows score up to {apart:.3g} nats apart from padded ones"
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            why_not = str(error).splitlines()[0] if str(error) else type(error).__name__
    if why_not:
        model.set_attn_implementation(own)
    return Footprint(not why_not, why_not, kept // tokens)


def _kept(model: Any, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The result of `run`, and the bytes that it keeps for the backward pass beside the weights."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would tie the graph to itself, and nothing would ever be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = run()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return found.detach(), sum(size for pointer, size in kept.items() if pointer not in weights)


def learned_log_probs(model: Any, rows: Sequence[Row], *, packs: bool, tokens: int = 1024) -> torch.Tensor:
    """Log-probabilities of the learned tokens of `rows`, without gradients."""
    on = next(model.parameters()).device
    parts = []
    with torch.no_grad():
        for part in split([trim(row) for row in rows], tokens):
            parts.append(forward(model, pack(part, device=on)) if packs else padded_forward(model, pad(part, device=on)))
    return torch.cat(parts).cpu()


def check_change(before: torch.Tensor, after: torch.Tensor, noise: float) -> float:
    """The largest change of a learned token's log-probability; raises `TrainingError` when training changed nothing.

    `noise` is how far apart the base scored the same tokens twice, in other batches: a change within it is rounding.
    """
    if not bool(torch.isfinite(after).all()):
        raise TrainingError("The trained weights give NaN.", hint="Lower learning_rate to a tenth and start again.")
    change = float((after - before).abs().max())
    noise = max(noise, 8 * torch.finfo(before.dtype).eps * float(before.abs().max()))  # where both sums happened to round alike
    if change <= noise:
        raise TrainingError(
            f"Training changed nothing: no log-probability moved by more than {change:.0e}, and rounding alone moves them by {noise:.0e}.",
            hint="Raise learning_rate or the number of steps.",
        )
    return change


def supervised(rows: Sequence[Row]) -> int:
    """Number of learned tokens."""
    return sum(label != IGNORED for _, labels in rows for label in labels)
