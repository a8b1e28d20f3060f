"""Proof that packed rows give what each row gives alone, on the model and the rows of the run.

Three rows, the longest among them, go through the first few layers of the model, as many as show every kind of layer
once, in float32 and in training mode. Every token's state must be what its row has alone; and when the tokens of the first row are
exchanged, the other rows must stay put bit for bit: the shapes are the same, so all sums are made in the same order.
Nothing is decided by a name: a window, a chunk, a recurrence or a bias that a packed batch would not respect shows in
the numbers, whatever the architecture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from workbench.hf.load import first_line
from workbench.hf.machine import enough_memory
from workbench.hf.packed import ATTENTION, Batch, Row, masks_for, pack, pad, trim
from workbench.hf.rope import length_kind

__all__ = ["Proof", "prove"]

_TRIAL = "workbench_trial"  # our attention, noting who calls it
_WITHIN = 1e-4  # of a state's size, in float32: a row laid out otherwise is summed in another order
_STAYS = 1e-5  # the same where even equal shapes are summed otherwise: experts receive other groups of tokens
_FAILS = (NotImplementedError, RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)


@dataclass(frozen=True)
class Proof:
    """What came out. `why_not` is empty when rows may be packed."""

    why_not: str
    random: bool  # a pass in training mode draws random numbers: dropout, jitter
    layers: int  # that were looked at
    seconds: float


def prove(model: Any, rows: Sequence[Row]) -> Proof:
    """Try `rows` packed on `model`, which is left with packed attention where that is right, else with its own."""
    began, own, training = time.perf_counter(), model.config._attn_implementation, model.training
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    # the model without its head, under whatever name (Llama 4's `base_model` is itself)
    decoder = next((module for module in plain.modules() if isinstance(module, PreTrainedModel) and module is not plain), plain)
    few = _few(model, rows)
    with ExitStack() as stack:
        stack.callback(model.train, training)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng())
        layers = stack.enter_context(_first_of_each_kind(decoder, few[0]))
        stack.enter_context(_in_float32(decoder, plain.get_input_embeddings()))
        callers = _watch()
        random = False
        try:
            model.train()
            with enough_memory():
                random = _draws(decoder, few[0])
                why_not = _difference(model, decoder, few, random=random)
        except _FAILS as error:
            why_not = f"its forward pass fails on them: {first_line(error)}"
        model.set_attn_implementation(own)
        why_not = why_not and _in_words(decoder, layers, callers, why_not)
    if not why_not:
        model.set_attn_implementation(ATTENTION)
    return Proof(why_not, random, len(layers), time.perf_counter() - began)


def _few(model: Any, rows: Sequence[Row]) -> list[Row]:
    """The longest row, a short one before it, and one between the two behind it; all may share a forward pass."""
    kind = length_kind(model)
    trimmed = sorted((trim(row) for row in rows), key=lambda row: len(row[0]))
    alike = [row for row in trimmed if kind(len(row[0]) - 1) == kind(len(trimmed[-1][0]) - 1)]
    return [alike[0], alike[-1], alike[len(alike) // 2]]


def _watch() -> set[int]:
    """Register our attention anew, under a name of its own; the set it returns takes the ids of the modules that use it for rows."""
    callers: set[int] = set()
    attend: Callable[..., Any] = AttentionInterface()[ATTENTION]

    def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("packed_layout") is not None:
            callers.add(id(module))
        return attend(module, *args, **kwargs)

    AttentionInterface.register(_TRIAL, watched)
    AttentionMaskInterface.register(_TRIAL, AttentionMaskInterface()[ATTENTION])
    return callers


def _difference(model: Any, decoder: Any, few: list[Row], *, random: bool) -> str:
    """How packed rows differ from rows alone, in words; empty when they do not."""
    exact = not any("expert" in name for name, _ in decoder.named_parameters())
    model.train(not random)  # numbers that are drawn differ between layouts, and not where only tokens differ
    alone = [_states(decoder, pad([row], device=model.device))[0] for row in few]
    model.set_attn_implementation(_TRIAL)
    for share in (True, False):
        batch = pack(few, device=model.device, share=share)
        model.train(not random)
        apart = max(_apart(a, b) for a, b in zip(_states(decoder, batch), alone, strict=True))
        model.train()
        before, after = (_states(decoder, some)[1:] for some in (batch, _exchanged(batch, decoder)))
        moved = max(_apart(a, b) for a, b in zip(before, after, strict=True))
        if moved > (0.0 if exact else _STAYS):
            return f"a row's states change by {moved:.1g} of their size with another row's tokens"
        if not apart <= _WITHIN:
            return f"a row's states are {apart:.1g} of their size from those of the row alone"
        if not batch.layout or not batch.layout.prefix:
            break
    return ""


def _draws(decoder: Any, row: Row) -> bool:
    """A forward pass draws random numbers: the generator is not where it was."""
    state = torch.cuda.get_rng_state if decoder.device.type == "cuda" else torch.get_rng_state
    torch.manual_seed(0)
    before = state()
    _states(decoder, pad([row], device=decoder.device), seed=0)
    return not torch.equal(before, state())


def _states(decoder: Any, batch: Batch, *, seed: int = 0) -> list[Tensor]:
    """The last hidden state of every token, row by row: [tokens, hidden] each, float32."""
    torch.manual_seed(seed)
    with masks_for(batch):
        states = decoder(**batch.inputs, use_cache=False).last_hidden_state.float()
    if batch.layout is None:
        return list(states)
    p, (n, longest) = batch.layout.prefix, batch.layout.gather.shape
    own = batch.layout.scatter.div(longest, rounding_mode="floor").bincount(minlength=n).tolist()
    return [torch.cat([states[0, :p], part]) for part in states[0, p:].split(own)]


def _exchanged(batch: Batch, decoder: Any) -> Batch:
    """The batch with other tokens in the own part of its first row."""
    assert batch.layout is not None
    p, own = batch.layout.prefix, int((batch.layout.scatter < batch.layout.gather.shape[1]).sum())
    ids = batch.input_ids.clone()
    ids[0, p : p + own] = (ids[0, p : p + own] + 1) % decoder.get_input_embeddings().weight.shape[0]
    return replace(batch, input_ids=ids)


def _apart(a: Tensor, b: Tensor) -> float:
    """The largest distance of two states of a token, as a part of the state's size. Equal bits: 0. NaN counts as far."""
    far = (a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=1e-30)
    return float(far.nan_to_num(nan=float("inf")).max())


def _in_words(decoder: Any, layers: Sequence[nn.Module], callers: set[int], why: str) -> str:
    """The reason as far as it shows in who called our attention."""
    if not any("attention" in type(module).__name__.lower() for module in decoder.modules()):
        return "it has no attention; its layers carry a state from token to token, which would run on from row to row"
    if not callers:
        return "its attention keeps to itself which tokens it mixes, so rows cannot be kept apart in it"
    other = sum(not any(id(module) in callers for module in layer.modules()) for layer in layers)
    if other:
        return f"{other} of its first {len(layers)} layers mix tokens otherwise than by attention, which would run on from row to row"
    return why


@contextmanager
def _first_of_each_kind(decoder: Any, row: Row) -> Iterator[list[nn.Module]]:
    """`decoder` with its first layers only, as many as it takes to have one of each kind; all of them where it needs them."""
    depth = decoder.config.get_text_config().num_hidden_layers
    name, layers = next(((n, m) for n, m in decoder.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth), ("", None))
    if layers is None:
        yield [decoder]
        return
    kinds = [_kind(decoder, i, layer) for i, layer in enumerate(layers)]
    parent, _, attribute = name.rpartition(".")
    holder, some = decoder.get_submodule(parent), layers[: 1 + max(kinds.index(kind) for kind in kinds)]
    setattr(holder, attribute, some)
    try:
        try:
            with enough_memory():
                _states(decoder, pad([(row[0][:2], row[1][:2])], device=decoder.device))
        except _FAILS:
            some = layers
            setattr(holder, attribute, layers)
        yield list(some)
    finally:
        setattr(holder, attribute, layers)


def _kind(decoder: Any, i: int, layer: nn.Module) -> str:
    """Equal for layers that do the same with other weights: the same modules with the same settings."""
    types = getattr(decoder.config.get_text_config(), "layer_types", None)
    settings = [
        (name, type(module).__name__, {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str) and "idx" not in k})
        for name, module in layer.named_modules()
    ]
    return repr((types[i] if types else None, settings))


@contextmanager
def _in_float32(decoder: Any, embeddings: nn.Module) -> Iterator[None]:
    """Compute in float32 with `decoder`, whose weights come back as they were. Large embeddings stay; what they give is cast."""
    kept: list[tuple[Tensor, Tensor]] = []
    computed: list[tuple[Any, torch.dtype]] = []
    hook = embeddings.register_forward_hook(lambda module, args, out: out.float())
    try:
        for module in decoder.modules():
            if isinstance(getattr(module, "compute_dtype", None), torch.dtype):  # bitsandbytes
                computed.append((module, module.compute_dtype))
                module.compute_dtype = torch.float32
            for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)] if module is not embeddings else []:
                if tensor.dtype in (torch.bfloat16, torch.float16):
                    kept.append((tensor, tensor.data))
                    tensor.data = tensor.data.float()
        yield
    finally:
        hook.remove()
        for tensor, data in kept:
            tensor.data = data
        for module, dtype in computed:
            module.compute_dtype = dtype
