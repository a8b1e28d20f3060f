"""Stage 0, kinds of adapters: some hold what only makes sense on the very weights they were trained on."""

from __future__ import annotations

from workbench.bases.configuration import changed, kind_of
from workbench.bases.lock import Lock
from workbench.peft_layout import COUPLED, PROMPTS, Shape
from workbench.rebase.adapter import Adapted, base_shapes
from workbench.rebase.findings import found
from workbench.rebase.result import Finding

__all__ = ["compare_methods"]

_LORA = frozenset({"LORA", "ADALORA", "XLORA"})
_MULTIPLIES = frozenset({"IA3", "OFT", "BOFT", "HRA", "ROAD", "LN_TUNING", "HIRA"})


def compare_methods(adapted: Adapted, home: Lock, new: Lock) -> list[Finding]:
    """Findings about the method; none for plain LoRA, rank-stabilised or not. Only for bases whose weights differ."""
    config = adapted.config
    findings = []
    init = config.get("init_lora_weights")
    name = next((word for start, word in COUPLED.items() if isinstance(init, str) and init.lower().startswith(start)), None)
    if name:
        text = f"The adapter was initialised by {name} from the old base's weights and not converted, so its factors fit that base alone."
        findings.append(found("coupled_initialisation", text, details={"init_lora_weights": init}))
    if config.get("use_dora"):
        findings.append(found("dora", f"The adapter is a DoRA: it holds the column norms of {len(adapted.adds)} modules of the old base."))
    findings += _full(adapted, new)
    findings += _tokens(adapted, new)
    if adapted.kind in PROMPTS:
        findings.append(_prompt(adapted, home, new))
    elif adapted.kind in _MULTIPLIES:
        text = f"The adapter is of kind {adapted.kind}: it scales or turns the weights of {len(adapted.modules)} modules."
        findings.append(found("multiplicative_adapter", text, details={"peft_type": adapted.kind}))
    elif adapted.kind not in _LORA:
        text = f"The adapter is of kind {adapted.kind}, whose shapes were not compared with the new base."
        findings.append(found("other_adapter_kind", text, details={"peft_type": adapted.kind}))
    return findings


def _full(adapted: Adapted, new: Lock) -> list[Finding]:
    """Tensors saved whole: biases, and weights of modules_to_save."""
    biases = sorted(name for name in adapted.full if name.endswith(".bias"))
    weights = {name: shape for name, shape in adapted.full.items() if name not in biases}
    findings = []
    if biases:
        text = f"The adapter replaces {len(biases)} biases of the base by its own."
        findings.append(found("biases_saved", text, details={"tensors": biases}))
    if weights:
        there = base_shapes(new, {name.removesuffix(".weight"): shape for name, shape in weights.items()})
        wrong: dict[str, tuple[Shape, Shape | None]] = {}
        for name, shape in weights.items():
            now = there[name.removesuffix(".weight")] if name.endswith(".weight") else None
            if now != shape and now != ():
                wrong[name] = (shape, now)
        listed = ", ".join(sorted(weights)[:3]) + (" and more" if len(weights) > 3 else "")
        text = f"The adapter replaces {len(weights)} whole tensors of the base by its own ({listed})."
        if wrong:
            first = min(wrong)
            was, now = wrong[first]
            text += f" {len(wrong)} do not fit: {first} is {_size(was)} in it and {_size(now) if now else 'absent'} in the new base."
        details = {"tensors": {name: list(shape) for name, shape in sorted(weights.items())}, "do_not_fit": sorted(wrong)}
        findings.append(found("full_weights_saved", text, milder=not wrong, details=details))
    return findings


def _tokens(adapted: Adapted, new: Lock) -> list[Finding]:
    """Embedding rows trained one by one, by token id."""
    if not adapted.tokens:
        return []
    given = adapted.config.get("trainable_token_indices") or adapted.config.get("token_indices") or []
    ids = [n for part in (given.values() if isinstance(given, dict) else [given]) for n in part if isinstance(n, int)]
    there = base_shapes(new, dict.fromkeys(adapted.tokens))
    problems = []
    for module, shape in adapted.tokens.items():
        now = there[module]
        if now is None:
            problems.append(f"{module} does not exist in the new base")
        elif len(now) == 2 and (shape[-1] != now[1] or max(ids, default=0) >= now[0]):
            problems.append(f"{module} has {_size(now)} and rows of width {shape[-1]} up to id {max(ids, default=0)} were trained")
    rows = sum(shape[0] for shape in adapted.tokens.values())
    text = f"The adapter replaces {rows} embedding rows by its own." + (f" They do not fit: {'; '.join(problems)}." if problems else "")
    return [found("trained_tokens", text, milder=not problems, details={"ids": ids, "problems": problems})]


def _prompt(adapted: Adapted, home: Lock, new: Lock) -> Finding:
    """Vectors in place of tokens fit where every size they are made of is the same."""
    sizes = {key: values for key, values in changed(home, new).items() if kind_of(key) in {"hidden_size", "layers", "heads"}}
    text = f"The adapter is of kind {adapted.kind}: vectors in the space of the old base."
    if sizes:
        key, (before, after) = next(iter(sizes.items()))
        text += f" They do not fit: {key} was {before} and is {after}."
    return found(
        "virtual_tokens", text, milder=not sizes, details={"peft_type": adapted.kind, "sizes": {k: list(v) for k, v in sizes.items()}}
    )


def _size(shape: Shape) -> str:
    return " x ".join(str(n) for n in shape)
