"""What is made sure of before the first step and after the last one, each with a sentence on what to change."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from workbench.errors import IntegrityError, TrainingError
from workbench.hf.packed import Row, pack, pad, scored, trim
from workbench.hf.render import end_of_turn_id
from workbench.peft_layout import takes_factors, unmatched_targets

__all__ = [
    "beside_all_linear",
    "check_change",
    "check_fit",
    "check_targets",
    "kept_for_backward",
    "load_start",
    "stop_at_end_of_turn",
]


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


def check_targets(model: Any, targets: Sequence[str], parameters: Sequence[str] = ()) -> None:
    """Each of `targets` must name a linear module of the model and each of `parameters` one of its parameters; raises
    `TrainingError` with those there are."""
    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head]
    held = [name for name, parameter in model.named_parameters() if takes_factors(name, parameter.ndim)]
    named = {"lora_target_modules": (targets, linear), "target_parameters": (parameters, held)}
    if problems := [text for key, (wanted, there) in named.items() if (text := unmatched_targets(key, wanted, there))]:
        raise TrainingError(" ".join(problems), hint="Name others, or use another base.")


def beside_all_linear(model: Any) -> list[str]:
    """Modules that PEFT's all-linear takes for plain linear layers although an adapter on them would break the model or do nothing.

    A router that also chooses returns a pair. The mixers of Mamba, on one kind of machine or all, use the weights of every layer but
    the first without its forward pass, where adapters live.
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    own = [(n, m) for n, m in layers if type(m).__module__.startswith("transformers.models.")]
    with torch.no_grad():
        found = [n for n, m in own if not isinstance(m(m.weight.new_zeros(1, m.in_features)), torch.Tensor)]
    for path, module in model.named_modules():
        if hasattr(module, "A_log") and "mamba" in type(module).__name__.lower():
            found += [f"{path}.{n}" for n, m in module.named_children() if isinstance(m, torch.nn.Linear) and n != "in_proj"]
    return found


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


def kept_for_backward(model: Any, rows: Sequence[Row], dtype: torch.dtype, *, packs: bool) -> tuple[int, int]:
    """(bytes that a forward pass in `dtype` keeps for the backward pass whatever its tokens, bytes for each token more).

    Counted on one short row and on four. Adapted experts keep their weights with the update added.
    """
    few, on = [trim(row) for row in sorted(rows, key=lambda row: len(row[0]))[:4]], next(model.parameters()).device
    seen = []
    for some in (few[:1], few):
        batch = pack(some, device=on) if packs else pad(some, device=on)
        with torch.autocast(on.type, dtype=dtype, enabled=dtype != torch.float32):
            kept = _kept(model, functools.partial(scored, model, batch))
        seen.append((kept, batch.input_ids.numel()))
    (less, short), (more, long) = seen
    per_token = (more - less) // (long - short) if long > short else more // long
    return max(0, less - per_token * short), max(1, per_token)


def _kept(model: Any, run: Callable[[], object]) -> int:
    """The bytes that `run` keeps for the backward pass beside the weights."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself would tie the graph to itself, and nothing would ever be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for pointer, size in kept.items() if pointer not in weights)


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
