"""Stage 2 of the rebase check: what two bases do on prompts that need no labels, and whether the adapter pushes both alike.

Explains and triages; the verdict never rests on it. One model is in memory at a time: the old base is asked first, and what
it said is kept as small tensors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.errors import DataError
from workbench.hf.generate import greedy, stop_ids
from workbench.hf.load import compute_dtype, load_adapter, load_base, load_tokenizer
from workbench.hf.packed import log_probs, pad
from workbench.hf.render import IGNORED, prompt_ids, render
from workbench.rebase.result import Probes

__all__ = ["DOSES", "Told", "passages_nll", "probe", "tell"]

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
LAYERS = 9  # evenly spaced; never the embeddings, whose last-token states may all be one token's
CONTINUED = 24  # tokens of the answer whose log-probabilities are compared
EFFECTS = 24  # prompts of which an answer is generated
DOSE_ROWS = 8
_TOKENS = 1024  # of a batch, padding included


@dataclass(frozen=True)
class Told:
    """What one base said on the prompts, and what the adapter changed about it."""

    states: torch.Tensor  # [layers, prompts, hidden], float32: last-token states
    layers: list[int]
    log_probs: torch.Tensor  # [prompts, vocabulary], float16: the next token
    answers: list[str]  # greedy, with the adapter: the shared continuations
    effects: list[float]  # per prompt: log p with the adapter - log p without, over the continuation
    divergence: float  # mean KL(with || without) per token of the continuations, nats
    dose: dict[str, float]


def probe(
    home: Path,
    new: Path,
    adapter: Path,
    rows: Sequence[dict[str, Any]],
    *,
    max_length: int,
    prompts: int = 64,
    dtype: torch.dtype | None = None,
) -> Probes:
    """Compare `home` and `new` on the prompts of at most `prompts` rows, and the adapter's effect on both.

    The rows' answers are used by the dose curve alone. Raises `DataError` without rows.
    """
    started = time.monotonic()
    asked = rows[:: max(1, len(rows) // prompts)][:prompts]
    if not asked:
        raise DataError("There are no prompts to probe with.", hint="Give the dataset a test part.")
    old = tell(home, adapter, asked, max_length=max_length, dtype=dtype)
    now = tell(new, adapter, asked, max_length=max_length, dtype=dtype, answers=old.answers, doses=DOSES)
    return compare(old, now, seconds=time.monotonic() - started)


def compare(old: Told, now: Told, *, seconds: float = 0.0) -> Probes:
    """The numbers of stage 2 from what both bases said. Where vocabularies differ in size, what needs a common one is None."""
    agreement = jsd = None
    if old.log_probs.shape[1] == now.log_probs.shape[1]:
        p, q = old.log_probs.float(), now.log_probs.float()
        agreement = float((p.argmax(-1) == q.argmax(-1)).float().mean())
        jsd = float(_jsd(p, q).mean())
    cka = {str(layer): linear_cka(x, y) for layer, x, y in zip(old.layers, old.states, now.states, strict=False)}
    correlation, slope = _line(old.effects, now.effects)
    return Probes(
        prompts=old.log_probs.shape[0],
        cka=cka,
        cka_mean=sum(cka.values()) / len(cka),
        top1_agreement=agreement,
        jsd=jsd,
        effect_correlation=correlation,
        effect_slope=slope,
        effect_ratio=now.divergence / old.divergence if old.divergence > 0 else None,
        dose=now.dose,
        best_dose=float(min(now.dose, key=lambda alpha: now.dose[alpha])) if now.dose else None,
        seconds=round(seconds, 2),
    )


def tell(
    base: Path,
    adapter: Path,
    rows: Sequence[dict[str, Any]],
    *,
    max_length: int,
    dtype: torch.dtype | None = None,
    answers: Sequence[str] | None = None,
    doses: Sequence[float] = (),
) -> Told:
    """Ask one base, bare and with the adapter. `answers` are the continuations to judge; without them the adapter gives its own."""
    tokenizer = load_tokenizer(base)
    model = load_base(base, dtype=dtype or compute_dtype(None))
    prompts = [prompt_ids(tokenizer, row)[-max_length:] for row in rows]
    layers, states, log_probs = _read(model, prompts)
    model = load_adapter(model, adapter)
    some = prompts[:EFFECTS]
    if answers is None:
        stop = stop_ids(model, tokenizer)
        found = greedy(model, some, max_new_tokens=CONTINUED, stop=stop)
        answers = [str(tokenizer.decode(tokens, skip_special_tokens=False)) for tokens in found]
    effects, divergence = _effects(model, tokenizer, some, answers)
    dose = _dose_curve(model, tokenizer, rows[:DOSE_ROWS], doses, max_length)
    return Told(states, layers, log_probs, list(answers), effects, divergence, dose)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows of like length, at most `_TOKENS` with their padding."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > _TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(rows: Sequence[list[int]], device: torch.device) -> torch.Tensor:
    """[rows, longest], padded on the right, where causal attention never looks."""
    return pad([(row, row) for row in rows], device=device, whole=True).input_ids


@torch.inference_mode()
def _read(model: Any, prompts: Sequence[list[int]]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """(layers, last-token states [layers, prompts, hidden], next-token log-probabilities [prompts, vocabulary])."""
    depth = int(model.config.get_text_config().num_hidden_layers)
    layers = sorted({round(1 + i * (depth - 1) / (LAYERS - 1)) for i in range(LAYERS)})
    states: dict[int, torch.Tensor] = {}
    said: dict[int, torch.Tensor] = {}
    for batch in _batches([len(p) for p in prompts]):
        rows = [prompts[i] for i in batch]
        ids = _padded(rows, model.device)
        last = torch.zeros(ids.shape, dtype=torch.bool, device=model.device)
        last[torch.arange(len(rows)), [len(row) - 1 for row in rows]] = True
        out = model(input_ids=ids, output_hidden_states=True, logits_to_keep=last, use_cache=False)
        picked = torch.stack([out.hidden_states[layer][last] for layer in layers]).float().cpu()
        logits = out.logits.flatten(0, -2).float().log_softmax(-1).half().cpu()
        for n, i in enumerate(batch):
            states[i], said[i] = picked[:, n], logits[n]
    order = range(len(prompts))
    return layers, torch.stack([states[i] for i in order], 1), torch.stack([said[i] for i in order])


@torch.inference_mode()
def _effects(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], answers: Sequence[str]) -> tuple[list[float], float]:
    """(log p with - without the adapter of each answer, mean KL(with || without) per answer token)."""
    effects: list[float] = [0.0] * len(prompts)
    divergence, tokens = 0.0, 0
    tails = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) or [int(tokenizer.eos_token_id)] for text in answers]
    for batch in _batches([len(p) + len(t) for p, t in zip(prompts, tails, strict=True)]):
        rows = [[*prompts[i], *tails[i]] for i in batch]
        asked = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool)
        for n, i in enumerate(batch):
            asked[n, len(prompts[i]) - 1 : len(rows[n]) - 1] = True
        ids, keep = _padded(rows, model.device), asked.to(model.device)
        with_it = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits.float().flatten(0, -2).log_softmax(-1)
        with model.disable_adapter():
            without = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits.float().flatten(0, -2).log_softmax(-1)
        wanted = torch.tensor([token for i in batch for token in tails[i]], device=model.device).unsqueeze(-1)
        gained = (with_it.gather(-1, wanted) - without.gather(-1, wanted)).squeeze(-1).split([len(tails[i]) for i in batch])
        for i, part in zip(batch, gained, strict=True):
            effects[i] = float(part.sum())
        divergence += float((with_it.exp() * (with_it - without)).sum())
        tokens += len(wanted)
    return effects, divergence / max(tokens, 1)


@contextmanager
def _dosed(model: Any, alpha: float) -> Iterator[None]:
    """The model with every adapter layer's scaling multiplied by `alpha`."""
    layers = [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        for name in layer.scaling:
            layer.scaling[name] *= alpha
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


@torch.inference_mode()
def _dose_curve(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]], doses: Sequence[float], max_length: int) -> dict[str, float]:
    """h(alpha): nats per answer token of the base + alpha times the adapter, on a few labelled rows."""
    rendered = [r for row in rows if not (r := render(tokenizer, row, max_length=max_length)).length.answer_lost]
    answers = [(r.input_ids, [IGNORED] * r.answer_start + r.labels[r.answer_start :]) for r in rendered]
    curve = {}
    for alpha in doses if answers else ():
        with _dosed(model, alpha):
            curve[f"{alpha:g}"] = -float(torch.cat(log_probs(model, answers, packs=False)).mean())
    return curve


@torch.inference_mode()
def passages_nll(model: Any, tokenizer: Any, passages: Sequence[str]) -> list[tuple[float, int]]:
    """(nats, UTF-8 bytes) of each passage; its first token, which nothing predicts, is given."""
    rows = [list(tokenizer(passage)["input_ids"]) for passage in passages]
    scores = log_probs(model, [(ids, [IGNORED, *ids[1:]]) for ids in rows], packs=False)
    return [(-float(row.sum()), len(passage.encode())) for row, passage in zip(scores, passages, strict=True)]


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear CKA of two sets of states, [prompts, hidden] each (Kornblith et al. 2019, arXiv 1905.00414, eq. 3). In [0, 1].

    It does not see a change of coordinates: a permuted model has CKA 1 with the original.
    """
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    k, j = x @ x.T, y @ y.T  # the Gram form: fewer prompts than dimensions
    size = float(k.norm() * j.norm())
    return float((k * j).sum()) / size if size > 0 else 0.0


def _jsd(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence in nats, row by row, from log-probabilities."""
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / 2


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float | None, float | None]:
    """(Pearson's correlation, slope of y on x); None where x or y does not vary."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    xx, yy, xy = float((a * a).sum()), float((b * b).sum()), float((a * b).sum())
    return (xy / (xx * yy) ** 0.5 if xx > 0 and yy > 0 else None), (xy / xx if xx > 0 else None)
