"""Stage 0: what configurations, tokenizers, chat templates and tensor shapes say about an adapter on a new base.

No weights are read and no model is loaded. Every difference is listed; the breaks alone mean that the adapter cannot be used as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.bases.configuration import changed, kind_of
from workbench.bases.files import read_json
from workbench.bases.lock import Lock, read_lock
from workbench.errors import IntegrityError
from workbench.foreign import GIB, Limits
from workbench.peft_layout import Shape
from workbench.rebase.adapter import Adapted, base_shapes, compare_methods, read_adapter
from workbench.rebase.findings import found, ordered
from workbench.rebase.result import Finding, Structure
from workbench.rebase.roles import group_of, layer_of
from workbench.rebase.templates import compare_templates
from workbench.rebase.tokenizers import Loaded, compare_tokenizers

__all__ = ["between", "examine"]

# Kinds of settings with one finding each, `<kind>_changed` unless it is named here.
_SETTINGS = (
    "activation", "bias", "qk_norm", "rope", "window", "context", "norm_eps", "softcap", "multiplier", "routing", "other",
)  # fmt: skip
_SIZES = ("hidden_size", "layers", "heads", "intermediate_size", "experts")
_NAMES = {"other": "config_changed", "layers": "layer_count_changed"}
_SECONDS = 30  # for tokenizers and templates, many times what honest ones take


def examine(adapter: Path, home: Lock, new: Lock, *, home_folder: Path | None, new_folder: Path, texts: Sequence[str] = ()) -> Structure:
    """Compare an adapter and its home base with a new base.

    `texts` (such as the test set's prompts) measure how differently the two tokenizers cut. `home_folder` may be None or gone: the
    lock and the tokenizer in the adapter's folder stand in. Raises `IntegrityError` when the adapter itself cannot be read.
    """
    started = time.perf_counter()
    adapted = read_adapter(adapter)
    findings = _home(adapter, home)
    if home.sha256 and home.sha256 == new.sha256:
        findings.append(found("same_base"))
        return Structure(ordered(findings), seconds=time.perf_counter() - started)
    if home_folder is not None and not home_folder.is_dir():
        home_folder = None
    copy = adapter if (adapter / "tokenizer.json").is_file() else None
    misfits = _modules(adapted, new)
    same_weights = home.weights_sha256 == new.weights_sha256
    if same_weights:
        findings.append(found("same_weights", tensors=len(new.tensors)))
    else:
        findings += compare_methods(adapted, home, new)
    findings += misfits
    differences, template_diff = between(home, new, home_folder or copy, new_folder, texts=texts, adapted=adapted, fits=not misfits)
    return Structure(ordered([*findings, *differences]), template_diff, time.perf_counter() - started)


def between(
    home: Lock,
    new: Lock,
    home_folder: Path | None,
    new_folder: Path,
    *,
    texts: Sequence[str] = (),
    adapted: Adapted | None = None,
    fits: bool = False,
) -> tuple[tuple[Finding, ...], str]:
    """What differs between two bases, and their chat templates' difference; `home_folder` holds at least a tokenizer.

    Graver or milder by what an adapter touches, and whether its modules `fit`; without one, as for an adapter of every module.
    """
    if home.sha256 and home.sha256 == new.sha256:
        return (), ""
    by_running, template_diff = _run_limited(home, new, home_folder, new_folder, list(texts))
    findings = [*_settings(adapted, home, new, fits=fits), *_tensors(home, new), *by_running]
    return ordered([*findings, *_numbers(home, new), *_license(home_folder, new_folder)]), template_diff


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
        return [found("tokenizer_unreadable", problems=[error.message])], ""


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
        findings.append(found("own_chat_template"))
    try:
        trained = read_lock(adapter / "base.lock.json")
    except IntegrityError as error:
        missing = not (adapter / "base.lock.json").is_file()
        return [*findings, found("home_unknown", "missing") if missing else found("home_unknown", "unreadable", problems=[error.message])]
    if trained.sha256 == home.sha256:
        return findings
    if trained.weights_sha256 != home.weights_sha256:
        return [*findings, found("home_mismatch", trained_on=_source(trained), given=_source(home))]
    parts = {
        "config.json": trained.config_sha256 == home.config_sha256,
        "tokenizer.json": trained.tokenizer == home.tokenizer and trained.special_ids == home.special_ids,
        "chat_template.jinja": trained.chat_template_sha256 == home.chat_template_sha256,
        "eos_token_id": trained.eos_token_ids == home.eos_token_ids,
    }
    differ = [part for part, equal in parts.items() if not equal]
    if differ:  # else only the place it came from differs
        findings.append(found("home_mismatch", "milder", milder=True, differ=differ))
    return findings


def _source(lock: Lock) -> str:
    """Where a base's weights came from and which ones they are: `tiny (0123456789ab)`."""
    source = lock.source
    name = source.get("repo") or source.get("base") or source.get("name") or source.get("kind") or "?"
    return f"{name} ({lock.weights_sha256[:12]})"


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
        findings.append(found("module_missing", count=len(missing), of=total, modules=missing))
    if wrong:
        shown = {module: {"was": list(was), "is": list(now)} for module, (was, now) in sorted(wrong.items())}
        findings.append(found("module_reshaped", count=len(wrong), of=total, modules=shown))
    return findings


# -- the configuration


def _settings(adapted: Adapted | None, home: Lock, new: Lock, *, fits: bool) -> list[Finding]:
    """One finding per kind of setting that differs."""
    kinds: dict[str, dict[str, tuple[Any, Any]]] = {}
    for key, pair in changed(home, new).items():
        kinds.setdefault(kind_of(key), {})[key] = pair
    findings = []
    for kind, values in kinds.items():
        if kind in {*_SETTINGS, *_SIZES}:
            milder = kind in _SIZES and kind != "hidden_size" and not _affected(kind, adapted, values)
            findings.append(found(_NAMES.get(kind, f"{kind}_changed"), milder=milder, **_details(values)))
    if "identity" in kinds:
        before, after = (f"{lock.model_type} ({', '.join(lock.architectures) or '?'})" for lock in (home, new))
        findings.append(found("architecture_changed", milder=fits, was=before, now=after, **_details(kinds["identity"])))
    if "tied" in kinds:
        said = "tied" if kinds["tied"]["tie_word_embeddings"][1] else "untied"
        touched = adapted is None or adapted.touches_embeddings
        more = "touched" if touched else "untouched"
        findings.append(found("tied_embeddings_changed", said, more, milder=not touched, **_details(kinds["tied"])))
    return findings


def _affected(kind: str, adapted: Adapted | None, values: dict[str, tuple[Any, Any]]) -> bool:
    """Whether the adapter changes modules whose meaning hangs on this size."""
    if adapted is None:
        return True
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
        said = "added" if after & qk else "removed"
        findings.append(found("qk_norm_changed", said, was=sorted(before & qk), now=sorted(after & qk)))
    if before - qk != after - qk:
        findings.append(found("norm_placement_changed", was=sorted(before - qk), now=sorted(after - qk)))
    return findings


def _norms(lock: Lock) -> set[str]:
    """Last names of the norms inside layers, such as input_layernorm."""
    paths = (name.rpartition(".")[0] for name in lock.tensors if layer_of(name) is not None and group_of(name) == "norms")
    return {path.rpartition(".")[2] for path in paths}


# -- number formats and terms


def _numbers(home: Lock, new: Lock) -> list[Finding]:
    pairs = {"dtype_changed": (home.dtype, new.dtype), "quantization_changed": (home.quantization, new.quantization)}
    return [found(name, was=before, now=after) for name, (before, after) in pairs.items() if before != after]


def _license(home_folder: Path | None, new_folder: Path) -> list[Finding]:
    if home_folder is None:
        return []
    before, after = (read_json(folder / "base.json").get("license") for folder in (home_folder, new_folder))
    if before == after or not before or not after:
        return []
    return [found("license_changed", was=before, now=after)]


def _details(values: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {key: {"was": before, "is": after} for key, (before, after) in values.items()}
