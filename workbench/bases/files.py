"""Which files make a base, and what is refused before anything is loaded: code, pickles, odd configuration values."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from workbench.bases.tensors import weight_files
from workbench.errors import IntegrityError, SourceError

__all__ = ["ALLOWED", "check_folder", "copy_base", "place", "read_json", "remote_code_allowed", "wanted"]

ALLOWED = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json", "model.safetensors.index.json", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md",
    "NOTICE.txt", "USE_POLICY.md",
})  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MAX_JSON = 20_000_000  # bytes of a configuration file; tokenizer.json may be larger
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")


def wanted(name: str) -> bool:
    """Whether a file of that name (no folders) belongs to a base."""
    return name in ALLOWED or (name.endswith(".safetensors") and not name.startswith(("consolidated", "adapter_")))


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file as a dict; {} when it is absent. Raises `IntegrityError` when it is anything else."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is too large for a configuration")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path.name} cannot be read: {error}.", hint="Fetch the model again.") from None
    return data


def check_folder(folder: Path, *, allow_code: bool = False) -> None:
    """Refuse a folder that is no base. Raises `IntegrityError` (broken) or `SourceError` (not usable as it is)."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise SourceError(f"{folder.name} holds an adapter, not a base.", hint="Import it with: workbench adapter import PATH")
        raise IntegrityError(f"{folder.name} has no config.json.", hint="A base is a folder with config.json, safetensors and a tokenizer.")
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    names = [model_type, *(config.get("architectures") or [])]
    if not all(isinstance(name, str) and _WORD.fullmatch(name) for name in names):
        raise IntegrityError(f"config.json names no known kind of model: model_type and architectures are {names!r}.")
    if not allow_code:
        for name in _JSON:
            _refuse_code(read_json(folder / name), name)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        looked = ", ".join(_TOKENIZERS[:3])
        raise IntegrityError(f"{folder.name} has no tokenizer (looked for {looked}).", hint="Put it beside the weights.")
    weight_files(folder)


def _refuse_code(value: Any, where: str) -> None:
    """Look at every level: a nested configuration can ask for code as well (CVE-2026-5241)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _CODE_KEYS and inner:
                raise SourceError(
                    f"{where} asks to run code from the model's own repository ({key}). That is off.",
                    hint="Use a version of the model that transformers knows without code of its own. The person who runs this "
                    "workbench can allow one repository at one commit in the home's config.yaml (allow_remote_code).",
                )
            _refuse_code(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, where)


def remote_code_allowed(source: dict[str, Any]) -> bool:
    """True only if the home's config.yaml lists this very repository and commit under `allow_remote_code`."""
    from workbench import paths

    if source.get("kind") != "hub" or not source.get("commit") or not paths.config_file().is_file():
        return False
    import yaml

    try:
        config = yaml.safe_load(paths.config_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    allowed = config.get("allow_remote_code") if isinstance(config, dict) else None
    if not isinstance(allowed, list):
        return False
    return any(isinstance(a, dict) and a.get("repo") == source.get("repo") and a.get("commit") == source["commit"] for a in allowed)


def copy_base(folder: Path, into: Path, *, link: bool = False) -> None:
    """Copy the files of a base, and nothing else, out of a folder; symbolic links are followed (hub caches are made of them).

    With `link` a file becomes a hard link where the disk allows it: for folders that nobody writes to any more.
    """
    weights = {file.name for file in weight_files(folder)}
    for file in sorted(folder.iterdir()):
        if file.is_file() and (file.name in weights or (wanted(file.name) and not file.name.endswith(".safetensors"))):
            place(file, into / file.name, link=link)


def place(file: Path, target: Path, *, link: bool) -> None:
    """Put a copy of `file`, or a hard link to it, at `target`."""
    if link:
        try:
            os.link(file.resolve(), target)
            return
        except OSError:
            pass  # another disk, or one without links
    shutil.copyfile(file, target)
