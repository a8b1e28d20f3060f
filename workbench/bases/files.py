"""Which files make a base, and what is refused before anything is loaded: code, pickles, odd configuration values."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.bases.tensors import weight_files
from workbench.errors import IntegrityError, SourceError
from workbench.foreign import GIB, Limits

__all__ = ["ALLOWED", "check_folder", "copy_base", "leave_code_behind", "only_gguf", "place", "read_json", "wanted"]

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


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no base. Raises `IntegrityError` (broken) or `SourceError` (not usable as it is)."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise SourceError(f"{folder.name} holds an adapter, not a base.", hint="Import it with: workbench adapter import PATH")
        if files := sorted(folder.glob("*.gguf")):
            raise only_gguf(folder.name, [file.name for file in files])
        raise IntegrityError(f"{folder.name} has no config.json.", hint="A base is a folder with config.json, safetensors and a tokenizer.")
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    names = [model_type, *(config.get("architectures") or [])]
    if not all(isinstance(name, str) and _WORD.fullmatch(name) for name in names):
        raise IntegrityError(f"config.json names no known kind of model: model_type and architectures are {names!r}.")
    for name in _JSON:
        _refuse_code(read_json(folder / name), name)
    if config.get("is_encoder_decoder"):
        raise SourceError(
            f"{model_type} is an encoder-decoder: it answers a text that it has read whole. Here only models that continue a text are "
            "trained, scored and checked.",
            hint="Use a decoder of that size, such as a Qwen3, Gemma 3 or SmolLM model: workbench base catalogue",
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        looked = ", ".join(_TOKENIZERS[:3])
        raise IntegrityError(f"{folder.name} has no tokenizer (looked for {looked}).", hint="Put it beside the weights.")
    weight_files(folder)


def only_gguf(where: str, files: list[str]) -> SourceError:
    """What is said of a place that holds a model in llama.cpp's format and no other."""
    return SourceError(
        f"{where} holds the model as GGUF only ({', '.join(files[:3])}{', …' if len(files) > 3 else ''}).",
        hint="Better use the repository with safetensors that they were made from; or download one of them and add it: "
        "workbench base add NAME --source gguf:PATH",
    )


def _refuse_code(value: Any, where: str) -> None:
    """Look at every level: a nested configuration can ask for code as well (CVE-2026-5241)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in _CODE_KEYS and inner:
                raise SourceError(
                    f"{where} asks to run code from the model's own repository ({key}). That is off.",
                    hint="Use a version of the model that transformers knows without code of its own.",
                )
            _refuse_code(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(inner, where)


def leave_code_behind(folder: Path, say: Callable[[str], None]) -> None:
    """Take out of the configuration what asks for code of the model's own repository, where transformers knows the model without.

    Many repositories name their first, own code although the family has long been part of transformers. Nothing of it is run, here
    or by anyone who loads what is written from this base. Raises `SourceError` where transformers has no code for it.
    """
    asking = [name for name in _JSON if read_json(folder / name).get("auto_map")]
    if not asking:
        return
    kind = read_json(folder / "config.json").get("model_type")
    if not (folder / "tokenizer.json").is_file() or not _KNOWS.run(_known, str(kind)):
        raise SourceError(
            f"{asking[0]} asks to run code from the model's own repository (auto_map), and transformers does not know "
            f"{kind} and its tokenizer without. Such code is never run here.",
            hint="Look for a copy converted to a family that transformers knows, or choose another base: workbench base catalogue",
        )
    say(f"The repository's own code stays behind: transformers knows {kind} without.")
    for name in asking:
        data = read_json(folder / name)
        del data["auto_map"]
        (folder / name).unlink()  # it may be a link into the hub's cache
        (folder / name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _known(model_type: str) -> bool:
    from workbench.hf.layout import known

    return known(model_type)


_KNOWS = Limits("config.json", memory=4 * GIB, seconds=120, preload=("workbench.hf.layout",), error=IntegrityError)


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
