"""Turn a GGUF file into a plain model folder: safetensors, config, tokenizer, chat template.

The reading, naming and dequantising is transformers' own; we only keep its two slow helpers from doing the same work
again and again (`_opened_once`), and put right what a GGUF file says loosely (`_tidy_config`, `_split_digits`).
It runs in a child of `workbench.bases.limited`, so that the process which asked never imports torch.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from workbench.errors import IntegrityError, SourceError
from workbench.hf.load import first_line, misfits
from workbench.records import check_dtype

__all__ = ["convert_gguf", "recast"]


@contextlib.contextmanager
def _opened_once() -> Iterator[None]:
    """Let transformers open the file once and build each table of tensor names once, while this is entered.

    It opens it for the configuration, for the tokenizer's class and for the tensors, which costs 4 s a time for a vocabulary of
    49,000, and builds the table for every module of the model. Both names are gguf's public ones; should transformers stop using
    them this only costs time.
    """
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    opened = functools.lru_cache(maxsize=1)(reader)
    gguf.GGUFReader = lambda path, *mode: opened(str(path), *mode)
    gguf.get_tensor_name_map = functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


def _shortest(value: Any) -> Any:
    """A float that came out of 32 bits, as the number its author wrote: 9.999999747378752e-06 becomes 1e-05."""
    if isinstance(value, float) and np.isfinite(value) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    if isinstance(value, dict):
        return {k: _shortest(v) for k, v in value.items()}
    return [_shortest(v) for v in value] if isinstance(value, list) else value


def _tidy_config(out: Path) -> None:
    """Drop from the saved JSON files what only says how they came about."""
    model = {"_model_name_or_path", "_name_or_path", "_from_model_config", "quantization_config"}
    tokenizer = {"is_local", "local_files_only", "gguf_file", "name_or_path"}
    for name, dropped in (("config.json", model), ("generation_config.json", model), ("tokenizer_config.json", tokenizer)):
        path = out / name
        if path.is_file():
            data = {key: _shortest(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key not in dropped}
            path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _split_digits(tokenizer: Any, splitting: str | None) -> None:
    """Split numbers into digits where the file asks for "smollm", a name transformers 5.23 does not know."""
    if splitting == "smollm":
        from tokenizers import pre_tokenizers

        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


def _metadata(path: Path) -> tuple[dict[str, Any], int]:
    """The file's short text entries, and how many numbers its weights are; raises `IntegrityError` when it is no whole GGUF file.

    Factors of rotary positions (`rope_freqs` and such) are no weights: transformers makes them from the configuration.
    """
    try:
        reader = gguf.GGUFReader(path)
        end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
        if not reader.tensors or end > path.stat().st_size:
            raise ValueError("its tensors do not fit into the file")
        keys = ("general.architecture", "general.license", "general.name", "tokenizer.ggml.pre", "tokenizer.ggml.model")
        found = {key: reader.get_field(key) for key in keys}
        _refuse_part(path, reader)
    except (ValueError, IndexError, KeyError, TypeError, struct.error, OSError, OverflowError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not a whole GGUF file: {error}.", hint="Fetch it again.") from None
    have = sum(int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_"))
    return {key: str(field.contents()) for key, field in found.items() if field is not None}, have


def _refuse_part(path: Path, reader: gguf.GGUFReader) -> None:
    """Raise `IntegrityError` when other files hold the rest of the model, before it is built with random numbers in their place."""
    said = {key: int(field.contents()) for key in ("split.no", "split.count") if (field := reader.get_field(key)) is not None}
    if said.get("split.count", 1) > 1:
        raise IntegrityError(
            f"{path.name} is part {said.get('split.no', 0) + 1} of {said['split.count']} of a model; the other parts are needed too.",
            hint="Join them: llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf",
        )
    counts = [int(field.contents()) for name, field in reader.fields.items() if name.endswith(".block_count")]
    blocks = {tensor.name.split(".")[1] for tensor in reader.tensors if tensor.name.startswith("blk.")}
    if counts and max(counts) > len(blocks):
        raise IntegrityError(
            f"{path.name} is incomplete: it says that it has {max(counts):,} blocks and holds tensors of {len(blocks):,}.",
            hint="Fetch it again, in full.",
        )


def convert_gguf(path: Path, out: Path, dtype: str = "bfloat16", *, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Write `out` (an existing, empty folder) from the GGUF file `path`, dequantised to `dtype`.

    Returns {"architecture", "license", "name", "quantization", "parameters"} of the file. Raises `IntegrityError` for a
    broken file and `SourceError` for an architecture or quantisation that transformers cannot read.
    """
    check_dtype(dtype)
    with _opened_once():
        facts, have = _metadata(path)
        try:
            say("Reading the tokenizer")
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
            _split_digits(tokenizer, facts.get("tokenizer.ggml.pre"))
            say("Unpacking the weights")
            model, info = AutoModelForCausalLM.from_pretrained(
                str(path.parent),
                gguf_file=path.name,
                dtype=getattr(torch, dtype),
                quantization_config=GgufConfig(dequantize=True),
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (ValueError, KeyError, IndexError, NotImplementedError, AttributeError, TypeError, RuntimeError) as error:
            raise SourceError(
                f"transformers {transformers.__version__} cannot read this GGUF file ({facts.get('general.architecture')}): "
                f"{first_line(error)}",
                hint="Use the model's safetensors instead: workbench base add NAME --source hub:ORG/MODEL",
            ) from error
    wrong = misfits(info) + [f"unexpected {key}" for key in sorted(info["unexpected_keys"])]
    if have != model.num_parameters():  # tensors that it has no place for are dropped without a word
        wrong.append(f"it holds {have:,} numbers and the model has {model.num_parameters():,}")
    if wrong:
        raise IntegrityError(
            f"{path.name} does not hold the model that it describes: {', '.join(wrong[:8])}.", hint="Fetch it again, in full."
        )
    say("Saving")
    _save(model, tokenizer, out)
    facts = {key.removeprefix("general."): value for key, value in facts.items() if key.startswith("general.")}
    return {**facts, "parameters": model.num_parameters()}


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    model.hf_quantizer = None  # transformers refuses to save a model that still has one, although nothing is quantised any more
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    ids = {key: getattr(tokenizer, f"{key}_token_id") for key in ("bos", "eos", "pad")}
    for key, value in ids.items():
        for holder in (model.config, model.generation_config):
            if getattr(holder, f"{key}_token_id", None) is None:
                setattr(holder, f"{key}_token_id", value)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _tidy_config(out)


def recast(folder: Path, dtype: str) -> None:
    """Rewrite the float weights of a model folder in another type, file by file. Raises `UsageError`."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    wanted = getattr(torch, check_dtype(dtype))
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118 - safe_open is no mapping
            metadata = opened.metadata()
        tensors = {k: t.to(wanted) if t.is_floating_point() and t.element_size() > 1 else t for k, t in tensors.items()}
        save_file(tensors, folder / "recast.tmp", metadata=metadata)
        os.replace(folder / "recast.tmp", file)  # never in place: the file may be a link into the hub's cache
    config = folder / "config.json"
    data = json.loads(config.read_text(encoding="utf-8"))
    data.pop("torch_dtype", None)
    config.unlink()
    config.write_text(json.dumps({**data, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
