"""Stage 0: what configurations, tokenizers, chat templates and tensor shapes say about an adapter on a new base.

No weights are read and no model is loaded. Every difference is listed; the breaks alone mean that the adapter cannot be used as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.bases.configuration import changed, kind_of
from workbench.bases.diff import group_of, layer_of
from workbench.bases.files import read_json
from workbench.bases.lock import Lock, read_lock
from workbench.errors import IntegrityError
from workbench.foreign import GIB, Limits
from workbench.peft_layout import Shape
from workbench.rebase.adapter import Adapted, base_shapes, read_adapter
from workbench.rebase.findings import found, ordered
from workbench.rebase.methods import compare_methods
from workbench.rebase.result import Finding, Structure
from workbench.rebase.templates import compare_templates
from workbench.rebase.tokenizers import Loaded, compare_tokenizers

__all__ = ["examine"]

# Kinds of settings with one finding each, and how the finding's sentence begins.
_SETTINGS = {
    "activation": ("activation_changed", "The activation function differs"),
    "bias": ("bias_changed", "Biases differ"),
    "qk_norm": ("qk_norm_changed", "Normalisation of queries and keys differs"),
    "rope": ("rope_changed", "Rotary position embedding differs"),
    "window": ("window_changed", "The attention window differs"),
    "context": ("context_changed", "The longest context differs"),
    "norm_eps": ("norm_eps_changed", "The epsilon of the norms differs"),
    "softcap": ("softcap_changed", "Soft caps of logits differ"),
    "multiplier": ("multiplier_changed", "Scaling factors differ"),
    "routing": ("routing_changed", "The routing to experts differs"),
    "other": ("config_changed", "Other settings differ"),
}
_SIZES = {
    "hidden_size": "hidden_size_changed",
    "layers": "layer_count_changed",
    "heads": "heads_changed",
    "intermediate_size": "intermediate_size_changed",
    "experts": "experts_changed",
}
_SECONDS = 30  # for tokenizers and templates, many times what honest ones take
_LISTED = 6  # settings or modules named in a sentence; all are in the details


def examine(adapter: Path, home: Lock, new: Lock, *, home_folder: Path | None, new_folder: Path, texts: Sequence[str] = ()) -> Structure:
    """Compare an adapter and its home base with a new base.

    `texts` (such as the test set's prompts) measure how differently the two tokenizers cut. `home_folder` may be None or gone: the
    lock and the tokenizer in the adapter's folder stand in. Raises `IntegrityError` when the adapter itself cannot be read.
    """
    started = time.perf_counter()
    adapted = read_adapter(adapter)
    findings = _home(adapter, home)
    if home.sha256 and home.sha256 == new.sha256:
        findings.append(found("same_base", "The new base is the home base: both locks are the same."))
        return Structure(ordered(findings), seconds=time.perf_counter() - started)
    if home_folder is not None and not home_folder.is_dir():
        home_folder = None
    copy = adapter if (adapter / "tokenizer.json").is_file() else None
    misfits = _modules(adapted, new)
    same_weights = home.weights_sha256 == new.weights_sha256
    if same_weights:
        findings.append(found("same_weights", f"All {len(new.tensors)} tensors are the same, byte for byte."))
    else:
        findings += compare_methods(adapted, home, new)
    findings += misfits
    findings += _settings(adapted, home, new, fits=not misfits)
    findings += _tensors(home, new)
    found_by_running, difference = _run_limited(home, new, home_folder or copy, new_folder, list(texts))
    findings += found_by_running
    findings += _numbers(home, new)
    findings += _license(home_folder, new_folder)
    return Structure(ordered(findings), difference, time.perf_counter() - started)


# -- tokenizers and chat templates: programs of strangers


def _run_limited(home: Lock, new: Lock, home_folder: Path | None, new_folder: Path, texts: list[str]) -> tuple[list[Finding], str]:
    """What differs between tokenizers and chat templates, found out in a child that cannot hang or crash this process."""
    seconds = round(_SECONDS + sum(map(len, texts)) / 50_000)
    limits = Limits(
        "The new base's tokenizer or chat template", memory=2 * GIB, seconds=seconds, preload=("tokenizers", __name__), error=IntegrityError
    )
    try:
        return limits.run(_run, home, new, home_folder, new_folder, texts)
    except IntegrityError as error:
        return [found("tokenizer_unreadable", error.message)], ""


def _run(home: Lock, new: Lock, home_folder: Path | None, new_folder: Path, texts: list[str]) -> tuple[list[Finding], str]:
    loaded = Loaded(home, new, home_folder, new_folder)
    templates, difference = compare_templates(home, new, loaded)
    return [*compare_tokenizers(home, new, loaded, texts), *templates], difference


# -- whose adapter it is


def _home(adapter: Path, home: Lock) -> list[Finding]:
    """Is the base in hand the one of the training?"""
    findings = []
    own = adapter / "chat_template.jinja"
    if own.is_file() and home.chat_template is not None and own.read_text(encoding="utf-8", errors="replace") != home.chat_template:
        findings.append(found("own_chat_template", "The adapter's own chat template is not that of its home base."))
    try:
        trained = read_lock(adapter / "base.lock.json")
    except IntegrityError as error:
        missing = not (adapter / "base.lock.json").is_file()
        why = "there is no base.lock.json in its folder" if missing else error.message
        return [*findings, found("home_unknown", f"It is not known which base the adapter was trained on: {why}.".replace("..", "."))]
    if trained.sha256 == home.sha256:
        return findings
    if trained.weights_sha256 != home.weights_sha256:
        text = (
            f"The adapter was trained on weights {trained.weights_sha256[:12]} ({_source(trained)}) and the home base given has "
            f"{home.weights_sha256[:12]} ({_source(home)})."
        )
        details = {"trained_on": trained.weights_sha256, "given": home.weights_sha256}
        return [*findings, found("home_mismatch", text, details=details)]
    parts = {
        "the configuration": trained.config_sha256 == home.config_sha256,
        "the tokenizer": trained.tokenizer == home.tokenizer and trained.special_ids == home.special_ids,
        "the chat template": trained.chat_template_sha256 == home.chat_template_sha256,
        "the stop tokens": trained.eos_token_ids == home.eos_token_ids,
    }
    differ = [part for part, equal in parts.items() if not equal]
    if differ:  # else only the place it came from differs
        text = f"The home base given has the weights of the training, but differs in {', '.join(differ)}."
        findings.append(found("home_mismatch", text, milder=True, details={"differ": differ}))
    return findings


def _source(lock: Lock) -> str:
    source = lock.source
    name = source.get("repo") or source.get("base") or source.get("name") or source.get("kind") or "unknown source"
    return f"{name}, {lock.parameters:,} parameters"


# -- do the modules fit


def _modules(adapted: Adapted, new: Lock) -> list[Finding]:
    """All modules that are missing, in one finding; all that have another shape, in another."""
    shapes = base_shapes(new, {**dict.fromkeys(adapted.other), **adapted.adds}, adapted.experts)
    missing = sorted(module for module, shape in shapes.items() if shape is None)
    wrong: dict[str, tuple[Shape, Shape]] = {}
    for module, added in adapted.adds.items():
        shape = shapes[module]
        if shape and shape != added:
            wrong[module] = (added, shape)
    findings = []
    total = len(shapes)
    if missing:
        text = f"{len(missing)} of the adapter's {total} modules do not exist in the new base: {_names(missing)}."
        findings.append(found("module_missing", text, details={"modules": missing, "of": total}))
    if wrong:
        first = min(wrong)
        text = (
            f"{len(wrong)} of the adapter's {total} modules have another shape: {_names(sorted(wrong))}. "
            f"{first} was {_size(wrong[first][0])} and is {_size(wrong[first][1])}."
        )
        details = {"modules": {m: {"was": list(x), "is": list(y)} for m, (x, y) in sorted(wrong.items())}, "of": total}
        findings.append(found("module_reshaped", text, details=details))
    return findings


# -- the configuration


def _settings(adapted: Adapted, home: Lock, new: Lock, *, fits: bool) -> list[Finding]:
    """One finding per kind of setting that differs."""
    kinds: dict[str, dict[str, tuple[Any, Any]]] = {}
    for key, pair in changed(home, new).items():
        kinds.setdefault(kind_of(key), {})[key] = pair
    findings = []
    for kind, (name, words) in _SETTINGS.items():
        if kind in kinds:
            findings.append(found(name, f"{words}: {_changes(kinds[kind])}.", details=_details(kinds[kind])))
    for kind, name in _SIZES.items():
        if kind in kinds:
            values = kinds[kind]
            milder = kind != "hidden_size" and not _affected(kind, adapted, values)
            findings.append(found(name, f"Sizes differ: {_changes(values)}.", milder=milder, details=_details(values)))
    if "identity" in kinds:
        before, after = (f"{lock.model_type} ({', '.join(lock.architectures) or 'no architecture named'})" for lock in (home, new))
        text = f"The model was {before} and is {after}."
        findings.append(found("architecture_changed", text, milder=fits, details=_details(kinds["identity"])))
    if "tied" in kinds:
        before, after = ("tied" if value else "untied" for value in kinds["tied"]["tie_word_embeddings"])
        touches = adapted.touches_embeddings
        text = f"Input and output embeddings were {before} and are {after}; the adapter changes {'them' if touches else 'neither'}."
        findings.append(found("tied_embeddings_changed", text, milder=not touches, details=_details(kinds["tied"])))
    return findings


def _affected(kind: str, adapted: Adapted, values: dict[str, tuple[Any, Any]]) -> bool:
    """Whether the adapter changes modules whose meaning hangs on this size."""
    modules = adapted.modules
    if kind == "layers":
        left = min((after for _, after in values.values() if isinstance(after, int)), default=0)
        return any((layer_of(module) or 0) >= left for module in modules) if left else True
    if kind == "experts":
        return any("expert" in module or "router" in module or module.endswith(".gate") for module in modules)
    wanted = "attention" if kind == "heads" else "mlp"
    return any(group_of(module) == wanted for module in modules)


def _tensors(home: Lock, new: Lock) -> list[Finding]:
    """Norms that only the tensors' names tell of: configurations do not say where a family puts them."""
    before, after = _norms(home), _norms(new)
    qk = {"q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_layernorm", "key_layernorm"}
    findings = []
    if (before & qk) != (after & qk) and bool(before & qk) != bool(after & qk):
        text = "Queries and keys were {} and are {}.".format(*("normalised" if side & qk else "not normalised" for side in (before, after)))
        findings.append(found("qk_norm_changed", text, details={"was": sorted(before & qk), "is": sorted(after & qk)}))
    if before - qk != after - qk:
        text = f"Norms of a layer were {', '.join(sorted(before - qk)) or 'none'} and are {', '.join(sorted(after - qk)) or 'none'}."
        findings.append(found("norm_placement_changed", text, details={"was": sorted(before - qk), "is": sorted(after - qk)}))
    return findings


def _norms(lock: Lock) -> set[str]:
    """Last names of the norms inside layers, such as input_layernorm."""
    paths = (name.rpartition(".")[0] for name in lock.tensors if layer_of(name) is not None and group_of(name) == "norms")
    return {path.rpartition(".")[2] for path in paths}


# -- number formats and terms


def _numbers(home: Lock, new: Lock) -> list[Finding]:
    findings = []
    if home.dtype != new.dtype:
        text = f"Weights were stored as {home.dtype} and are stored as {new.dtype}."
        findings.append(found("dtype_changed", text, details={"was": home.dtype, "is": new.dtype}))
    if home.quantization != new.quantization:
        text = f"Weights were {_quantised(home)} and are {_quantised(new)}."
        findings.append(found("quantization_changed", text, details={"was": home.quantization, "is": new.quantization}))
    return findings


def _quantised(lock: Lock) -> str:
    if lock.quantization is None:
        return "not quantised"
    told = [str(lock.quantization[key]) for key in ("quant_method", "bits") if lock.quantization.get(key) is not None]
    return f"quantised ({', '.join(told)} bits)" if len(told) == 2 else f"quantised ({', '.join(told) or 'method not named'})"


def _license(home_folder: Path | None, new_folder: Path) -> list[Finding]:
    if home_folder is None:
        return []
    before, after = (read_json(folder / "base.json").get("license") for folder in (home_folder, new_folder))
    if before == after or not before or not after:
        return []
    return [found("license_changed", f"The licence was {before} and is {after}.", details={"was": before, "is": after})]


# -- words


def _changes(values: dict[str, tuple[Any, Any]]) -> str:
    shown = [f"{key} was {_value(before)} and is {_value(after)}" for key, (before, after) in list(values.items())[:_LISTED]]
    return "; ".join(shown) + (f"; and {len(values) - _LISTED} more" if len(values) > _LISTED else "")


def _value(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _details(values: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {key: {"was": before, "is": after} for key, (before, after) in values.items()}


def _names(modules: list[str]) -> str:
    return ", ".join(modules[:3]) + (f" and {len(modules) - 3} more" if len(modules) > 3 else "")


def _size(shape: Shape) -> str:
    return " x ".join(str(n) for n in shape)
