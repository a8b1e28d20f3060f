"""The models of `families.yaml`, built with random weights and without a hub: `families`, two layers, 64 wide, about 400 tokens;
and `timed`, some fifty million parameters for `benchmarks.train`.

Each is transformers' own class and saved by its own `save_pretrained`, so the names on disk are those of the real checkpoints.
Weights of a family are drawn wide enough that attention, routing and biases all count: a mechanism that is left out shows in
the scores. The timed ones start as transformers initialises them.

    python -m benchmarks.zoo NAME FOLDER [--tokenizer FOLDER]
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.tiny_base import make_tokenizer

__all__ = ["build", "families", "timed"]


def families() -> list[str]:
    """The names of the tiny models that `build` makes."""
    return list(_read()["families"])


def timed() -> list[str]:
    """The names of the larger ones, whose training is timed."""
    return list(_read()["timed"])


@cache
def _read() -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name("families.yaml").read_text(encoding="utf-8")))


def build(name: str, folder: Path, *, seed: int = 0, tokenizer: Any = None) -> Path:
    """Write the model `name` with its tokenizer (the tiny one, unless given) to `folder` and return it.

    Raises `KeyError` for a name that is neither in `families` nor in `timed`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = tokenizer or make_tokenizer()
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    values = dict({**_read()["families"], **_read()["timed"]}[name])
    model_type, saved_as = values.pop("model_type"), values.pop("saved_as", None)
    values = {**values.pop("sizes", _read()["sizes"]), **values, **ids}
    text = values.setdefault("text_config", {}) if "text_config" in values else values
    text |= {**ids, "vocab_size": len(tokenizer)}
    if model_type == "gemma3n_text":
        text["vocab_size_per_layer_input"] = len(tokenizer)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **values)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    if name in families():
        _draw(model)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    (getattr(model, saved_as) if saved_as else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _draw(model: Any) -> None:
    """Weights, biases and sinks anew; norms stay near their own values, constants of state spaces as they are."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            last = name.rpartition(".")[2]
            if last in {"A_log", "D", "dt_bias"}:
                continue
            if weight.ndim > 1:
                weight.normal_(std=0.15)
            elif last == "sinks" or last.endswith("bias"):
                weight.normal_(std=0.3 if last == "sinks" else 0.05)
            else:
                weight.add_(0.05 * torch.randn_like(weight))


if __name__ == "__main__":
    from workbench.hf.load import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*families(), *timed()])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a folder with one; else the tiny one")
    arguments = parser.parse_args()
    build(arguments.name, arguments.folder, tokenizer=arguments.tokenizer and load_tokenizer(arguments.tokenizer))
