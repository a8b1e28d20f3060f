"""Which files make a base, and what is refused before anything is loaded: code, pickles, odd configuration values."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from workbench.bases.tensors import weight_files
from workbench.errors import IntegrityError, SourceError
from workbench.foreign import GIB, Limits, read_regular
from workbench.peft_layout import CONFIG

__all__ = [
    "ALLOWED",
    "TEMPLATE_BYTES",
    "check_folder",
    "copy_base",
    "leave_code_behind",
    "loadable",
    "only_gguf",
    "place",
    "read_json",
    "wanted",
]

ALLOWED = frozenset({
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json", "model.safetensors.index.json", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md",
    "NOTICE.txt", "USE_POLICY.md",
})  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MAX_JSON = 20_000_000  # bytes of a configuration file; tokenizer.json may be larger
_MAX_DEPTH = 50  # levels of a configuration
TEMPLATE_BYTES = 65_536  # of a chat template; the longest in use have a third of that
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")
# Keys with which transformers reads other weights or another tokenizer than those beside it, or computes with other code.
_ELSEWHERE = ("transformers_weights", "fast_tokenizer_files", "fusion_config", "distributed_config")


def wanted(name: str) -> bool:
    """Whether a file of that name (no folders) belongs to a base."""
    return name in ALLOWED or (name.endswith(".safetensors") and not name.startswith(("consolidated", "adapter_")))


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file as a dict; {} when it is absent. Raises `IntegrityError` when it is anything else."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_regular(path.resolve(), most=_MAX_JSON, error=IntegrityError).decode("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is not a JSON object")
        if any(len(keys) >= _MAX_DEPTH for keys, _ in _settings(data)):
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path.name} cannot be read: {error}.", hint="Fetch the model again.") from None
    return data


def _settings(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value at every level, with the keys that lead to it ("" for a place in a list)."""
    for key, inner in value.items() if isinstance(value, dict) else (("", inner) for inner in value) if isinstance(value, list) else ():
        yield (*above, key), inner
        yield from _settings(inner, (*above, key))


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no base. Raises `IntegrityError` (broken) or `SourceError` (not usable as it is)."""
    if not (folder / "config.json").is_file():
        if (folder / CONFIG).is_file():
            raise SourceError(f"{folder.name} holds an adapter, not a base.", hint="Import it with: workbench adapter import PATH")
        if files := sorted(folder.glob("*.gguf")):
            raise only_gguf(folder.name, [file.name for file in files])
        raise IntegrityError(f"{folder.name} has no config.json.", hint="A base is a folder with config.json, safetensors and a tokenizer.")
    config = read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    names = [config.get("model_type"), *(architectures if isinstance(architectures, list) else [architectures])]
    if not all(isinstance(name, str) and _WORD.fullmatch(name) for name in names):
        raise IntegrityError(f"config.json names no known kind of model: model_type and architectures are {str(names)[:200]}.")
    for name in _JSON:
        for keys, value in _settings(read_json(folder / name)):
            if keys[-1] in _CODE_KEYS and value:  # at every level: a nested configuration can ask for code as well (CVE-2026-5241)
                raise SourceError(
                    f"{name} asks to run code from the model's own repository ({keys[-1]}). That is off.",
                    hint="Use a version of the model that transformers knows without code of its own.",
                )
    if config.get("is_encoder_decoder"):
        raise SourceError(
            f"{config['model_type']} is an encoder-decoder: it answers a text that it has read whole. Here only models that continue "
            "a text are trained, scored and checked.",
            hint="Use a decoder of that size, such as a Qwen3, Gemma 3 or SmolLM model: workbench base catalogue",
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        looked = ", ".join(_TOKENIZERS[:3])
        raise IntegrityError(f"{folder.name} has no tokenizer (looked for {looked}).", hint="Put it beside the weights.")
    loadable(folder)


def loadable(folder: Path) -> list[Path]:
    """The files that the weights of a model folder are read from: these alone, as the lock hashes them.

    Raises `IntegrityError` or `SourceError` where transformers would compute with anything else: an adapter beside the weights, a
    checkpoint of many machines, or a configuration that points elsewhere.
    """
    for name in _JSON:
        for keys, value in _settings(read_json(folder / name)):
            if keys[-1] in _ELSEWHERE and value:
                raise SourceError(
                    f"{name} sets {keys[-1]}, so that the model would be computed from something else than the files of its lock.",
                    hint="Use a copy of the model without that key.",
                )
            if "quantization_config" in keys and isinstance(value, str) and ("/" in value or "\\" in value):
                raise SourceError(f"quantization_config in {name} points to {value[:80]!r}.", hint="Use a copy of the model without it.")
    stray = [file.name for file in folder.iterdir() if file.name == CONFIG or file.name.startswith("shard-")]
    if stray:
        raise IntegrityError(
            f"{folder.name} holds {stray[0]}, which transformers would use beside or instead of the weights of the base.",
            hint="Move it away; an adapter is imported with: workbench adapter import PATH",
        )
    return weight_files(folder)


def only_gguf(where: str, files: list[str]) -> SourceError:
    """What is said of a place that holds a model in llama.cpp's format and no other."""
    return SourceError(
        f"{where} holds the model as GGUF only ({', '.join(files[:3])}{', …' if len(files) > 3 else ''}).",
        hint="Better use the repository with safetensors that they were made from; or download one of them and add it: "
        "workbench base add NAME --source gguf:PATH",
    )


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
    """Copy the files of a base, and nothing else, out of a folder. Raises `SourceError` for a link that leads out of it.

    With `link` a file becomes a hard link where the disk allows it: for folders that nobody writes to any more.
    """
    folder = folder.resolve()
    weights = {file.name for file in weight_files(folder)}
    for file in sorted(folder.iterdir()):
        if not file.is_dir() and (file.name in weights or (wanted(file.name) and not file.name.endswith(".safetensors"))):
            place(_plain(file, folder), into / file.name, link=link)


def _plain(file: Path, folder: Path) -> Path:
    """Where the bytes of `file` lie: in the folder itself or, of a hub's cache, among the blobs that its snapshots are made of."""
    real = file.resolve()
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    if not (real.is_file() and (real.is_relative_to(folder) or real.is_relative_to(blobs))):
        raise SourceError(f"{file.name} in {folder.name} is no plain file, or a link that leads out of it.", hint="Put the file there.")
    return real


def place(file: Path, target: Path, *, link: bool) -> None:
    """Put a copy of `file`, or a hard link to it, at `target`."""
    if link:
        try:
            os.link(file.resolve(), target)
            return
        except OSError:
            pass  # another disk, or one without links
    shutil.copyfile(file, target)
