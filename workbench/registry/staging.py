"""Build the folder of a version to be, beside the place where it will stand: complete and checked before anyone can see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import manifest
from workbench.errors import IntegrityError, LayoutMissing
from workbench.foreign import GIB, Limits
from workbench.peft_layout import CONFIG, TEMPLATE, TOKENIZER, WEIGHTS
from workbench.recipe import RECIPE
from workbench.registry import card
from workbench.registry.facts import Facts, base_identity

if TYPE_CHECKING:
    from workbench.bases.lock import Lock
    from workbench.registry.lora_weights import Checked

__all__ = ["LOCK", "fill", "seal"]

LOCK = "base.lock.json"
_EVIDENCE = (".json", ".jsonl")
_READERS = ("numpy", "workbench.registry.lora_weights", "workbench.registry.peft_config")  # loaded once, not in every child


def fill(draft: Path, source: Path, facts: Facts) -> Checked:
    """Copy into `draft` what a version consists of, from the PEFT folder `source` and the base. Unknown files stay behind.

    Raises `IntegrityError` when the adapter does not fit its base, cannot work, changes nothing, or is no adapter.
    """
    from workbench.bases.layout import Layout
    from workbench.bases.lock import LOCK_FILE, read_lock
    from workbench.registry.lora_weights import check_adapter

    lock = read_lock(facts.base.path / LOCK_FILE)
    if lock.sha256 != facts.base.lock_sha256:
        raise IntegrityError(
            f"The lock of {facts.base.ref} was changed since the base was added.", hint="Remove the base and add it again."
        )
    for name in (CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise IntegrityError(f"{source} has no {name}, so it is no PEFT adapter.", hint="Pickled weights (.bin) are never read.")
    shutil.copyfile(source / WEIGHTS, draft / WEIGHTS)
    limits = Limits("the adapter", memory=2 * GIB, seconds=600, preload=_READERS, error=IntegrityError, hint="That is no LoRA adapter.")
    given = (source / CONFIG).read_bytes(), draft / WEIGHTS, facts.base.path / LOCK_FILE, str(facts.base.ref)
    try:
        checked = limits.run(check_adapter, *given)
    except LayoutMissing:
        Layout(lock).ask()
        checked = limits.run(check_adapter, *given)
    name, revision = base_identity(facts.base)
    _write_json(draft / CONFIG, checked.config | {"base_model_name_or_path": name, "revision": revision})
    shutil.copyfile(facts.base.path / LOCK_FILE, draft / LOCK)
    _copy_tokenizer(draft, source, facts.base.path, lock)
    _copy_evidence(draft, source)
    if facts.recipe:
        (draft / RECIPE).write_text(facts.recipe.to_yaml(), encoding="utf-8")
    if facts.scores:
        (draft / "evidence").mkdir(exist_ok=True)
        _write_json(draft / "evidence" / "summary.json", facts.scores)
    return checked


def seal(draft: Path, facts: Facts, checked: Checked) -> str:
    """Write the card and the manifest of version `facts.version`; returns the manifest's SHA-256."""
    (draft / "README.md").write_text(card.render(facts, checked), encoding="utf-8")
    return manifest.write(draft, facts.about())


def _copy_tokenizer(draft: Path, source: Path, base: Path, lock: Lock) -> None:
    """The tokenizer that came with the adapter, else the base's; the adapter's own chat template always wins."""
    own = source if (source / "tokenizer.json").is_file() else base
    for name in TOKENIZER:
        if (own / name).is_file():
            shutil.copyfile(own / name, draft / name)
    if (source / TEMPLATE).is_file():
        shutil.copyfile(source / TEMPLATE, draft / TEMPLATE)
    elif lock.chat_template and not (draft / TEMPLATE).is_file():
        (draft / TEMPLATE).write_text(lock.chat_template, encoding="utf-8")


def _copy_evidence(draft: Path, source: Path) -> None:
    folder = source / "evidence"
    if not folder.is_dir():
        return
    (draft / "evidence").mkdir()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.is_symlink() and file.suffix in _EVIDENCE:
            shutil.copyfile(file, draft / "evidence" / file.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
