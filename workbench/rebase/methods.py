"""Stage 0, kinds of adapters: some hold what only makes sense on the very weights they were trained on."""

from __future__ import annotations

from workbench.bases.configuration import changed, kind_of
from workbench.bases.lock import Lock
from workbench.peft_layout import COUPLED, PROMPTS
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
        said = ("text", "misfit") if wrong else ("text",)
        shapes = {name: list(shape) for name, shape in sorted(weights.items())}
        findings.append(
            found(
                "full_weights_saved", *said, milder=not wrong, count=len(weights), names=sorted(weights), tensors=shapes, do_not_fit=wrong
            )
        )
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
    said = ("text", "misfit") if wrong else ("text",)
    return [found("trained_tokens", *said, milder=not wrong, rows=rows, ids=ids, do_not_fit=wrong)]


def _prompt(adapted: Adapted, home: Lock, new: Lock) -> Finding:
    """Vectors in place of tokens fit where every size they are made of is the same."""
    sizes = {key: values for key, values in changed(home, new).items() if kind_of(key) in {"hidden_size", "layers", "heads"}}
    said = ("text", "misfit") if sizes else ("text",)
    listed = {key: list(values) for key, values in sizes.items()}
    return found("virtual_tokens", *said, milder=not sizes, peft_type=adapted.kind, sizes=listed)
