"""What a PEFT folder changes in its base, read from adapter_config.json and the header of adapter_model.safetensors; and stage 0 of
kinds of adapters: some hold what only makes sense on the very weights they were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.bases.configuration import changed, kind_of
from workbench.bases.files import read_json
from workbench.bases.layout import Layout
from workbench.bases.lock import Lock
from workbench.bases.tensors import read_header
from workbench.errors import IntegrityError
from workbench.peft_layout import CONFIG, COUPLED, PREFIX, PROMPTS, TOKENS, WEIGHTS, Shape, shape_of, sort, targeted
from workbench.rebase.findings import found
from workbench.rebase.result import Finding
from workbench.rebase.roles import EMBEDDINGS, OUTPUTS

__all__ = ["Adapted", "base_shapes", "compare_methods", "read_adapter"]

_LORA = frozenset({"LORA", "ADALORA", "XLORA"})
_MULTIPLIES = frozenset({"IA3", "OFT", "BOFT", "HRA", "ROAD", "LN_TUNING", "HIRA"})


@dataclass(frozen=True)
class Adapted:
    """The modules an adapter changes, by the base's own names."""

    config: dict[str, Any]
    adds: dict[str, Shape]  # module -> (out, in) that its LoRA product has, as the base stores that weight; of one expert
    other: frozenset[str] = frozenset()  # modules changed by another method than LoRA, whose shapes are not known here
    full: dict[str, Shape] = field(default_factory=dict)  # tensors saved whole: name -> shape
    tokens: dict[str, Shape] = field(default_factory=dict)  # module -> (rows, width) of embedding rows trained one by one
    prompts: dict[str, Shape] = field(default_factory=dict)  # vectors of prompt or prefix tuning

    @property
    def kind(self) -> str:
        """peft_type, such as "LORA"."""
        return str(self.config.get("peft_type") or "LORA").upper()

    @property
    def experts(self) -> list[str]:
        """PEFT's `target_parameters`."""
        return [str(name) for name in self.config.get("target_parameters") or []]

    @property
    def modules(self) -> list[str]:
        """Every module it changes, in any way."""
        return sorted({*self.adds, *self.other, *self.tokens, *(name.rpartition(".")[0] for name in self.full)})

    @property
    def touches_embeddings(self) -> bool:
        ends = {module.rpartition(".")[2] for module in self.modules}
        return bool(ends & {*OUTPUTS, *EMBEDDINGS})


def read_adapter(folder: Path) -> Adapted:
    """Read a PEFT folder without its numbers. Raises `IntegrityError` when it is none or damaged."""
    config, file = read_json(folder / CONFIG), folder / WEIGHTS
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise IntegrityError(f"{folder} has no {missing[0]}.", hint="An adapter is a folder saved by PEFT's save_pretrained.")
    tensors = read_header(file)
    vectors = {n for n in tensors if not n.startswith(PREFIX)} if str(config.get("peft_type")).upper() in PROMPTS else set()
    contents = sort({name: info for name, info in tensors.items() if name not in vectors})
    turned = bool(config.get("fan_in_fan_out"))
    adds = {module: shape_of(contents.lora[module], turned=turned) or () for module in contents.pairs()}
    return Adapted(
        config,
        adds,
        other=frozenset(contents.other.keys() - adds.keys()),
        full={name: info.shape for name, info in contents.whole.items()},
        tokens={module: parts[TOKENS].shape for module, parts in contents.lora.items() if TOKENS in parts},
        prompts={name: tensors[name].shape for name in vectors},
    )


def base_shapes(lock: Lock, modules: Mapping[str, Shape | None], experts: Sequence[str] = ()) -> dict[str, Shape | None]:
    """Shape of the matrix of each module in a base: () where it is there in a packed form, None where it is not.

    `modules` may say which shape is expected: it decides nothing, but which way round a matrix stands is told in its terms.
    `experts` are an adapter's `target_parameters`; the shape of theirs is that of one expert.
    """
    packed, layout = {name.rpartition(".")[0] for name in lock.tensors}, Layout(lock)
    of_experts = targeted(layout, experts)
    shapes: dict[str, Shape | None] = {}
    for module, added in modules.items():
        parameter = of_experts.get(module) or layout.weight(module, like=added)
        if parameter is None:
            shapes[module] = () if module in packed else None
        elif any("float" not in lock.tensors[name].dtype for name in parameter.tensors):
            shapes[module] = ()
        else:
            shapes[module] = parameter.added if parameter.added == added else parameter.shape
    return shapes


# ---------------------------------------------------------------- the method


def compare_methods(adapted: Adapted, home: Lock, new: Lock) -> list[Finding]:
    """Findings about the method; none for plain LoRA, rank-stabilised or not. Only for bases whose weights differ."""
    config = adapted.config
    findings = []
    init = config.get("init_lora_weights")
    name = next((word for start, word in COUPLED.items() if isinstance(init, str) and init.lower().startswith(start)), None)
    if name:
        findings.append(found("coupled_initialisation", method=name, init_lora_weights=init))
    if config.get("use_dora"):
        findings.append(found("dora", modules=len(adapted.adds)))
    findings += _full(adapted, new)
    findings += _tokens(adapted, new)
    if adapted.kind in PROMPTS:
        findings.append(_prompt(adapted, home, new))
    elif adapted.kind in _MULTIPLIES:
        findings.append(found("multiplicative_adapter", peft_type=adapted.kind, modules=len(adapted.modules)))
    elif adapted.kind not in _LORA:
        findings.append(found("other_adapter_kind", peft_type=adapted.kind))
    return findings


def _full(adapted: Adapted, new: Lock) -> list[Finding]:
    """Tensors saved whole: biases, and weights of modules_to_save."""
    biases = sorted(name for name in adapted.full if name.endswith(".bias"))
    weights = {name: shape for name, shape in adapted.full.items() if name not in biases}
    findings = []
    if biases:
        findings.append(found("biases_saved", count=len(biases), tensors=biases))
    if weights:
        there = base_shapes(new, {name.removesuffix(".weight"): shape for name, shape in weights.items()})
        wrong: dict[str, dict[str, list[int] | None]] = {}
        for name, shape in sorted(weights.items()):
            now = there[name.removesuffix(".weight")] if name.endswith(".weight") else None
            if now != shape and now != ():
                wrong[name] = {"was": list(shape), "is": list(now) if now else None}
        shapes = {name: list(shape) for name, shape in sorted(weights.items())}
        findings.append(_fitting("full_weights_saved", wrong, count=len(weights), names=sorted(weights), tensors=shapes, do_not_fit=wrong))
    return findings


def _tokens(adapted: Adapted, new: Lock) -> list[Finding]:
    """Embedding rows trained one by one, by token id."""
    if not adapted.tokens:
        return []
    given = adapted.config.get("trainable_token_indices") or adapted.config.get("token_indices") or []
    ids = [n for part in (given.values() if isinstance(given, dict) else [given]) for n in part if isinstance(n, int)]
    there = base_shapes(new, dict.fromkeys(adapted.tokens))
    highest = max(ids, default=0)
    wrong = {}
    for module, shape in adapted.tokens.items():
        now = there[module]
        if now is None or (len(now) == 2 and (shape[-1] != now[1] or highest >= now[0])):
            wrong[module] = {"was": [highest + 1, shape[-1]], "is": list(now) if now else None}  # at least so many rows
    rows = sum(shape[0] for shape in adapted.tokens.values())
    return [_fitting("trained_tokens", wrong, rows=rows, ids=ids, do_not_fit=wrong)]


def _prompt(adapted: Adapted, home: Lock, new: Lock) -> Finding:
    """Vectors in place of tokens fit where every size they are made of is the same."""
    sizes = {key: values for key, values in changed(home, new).items() if kind_of(key) in {"hidden_size", "layers", "heads"}}
    return _fitting("virtual_tokens", sizes, peft_type=adapted.kind, sizes={key: list(values) for key, values in sizes.items()})


def _fitting(name: str, misfits: Mapping[str, object], **details: object) -> Finding:
    """A finding that is milder where all of it fits."""
    return found(name, "text", *(["misfit"] if misfits else []), milder=not misfits, **details)
