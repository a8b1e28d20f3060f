"""Adapters of the tiny base as they lie on disk, a few kilobytes each, made without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.tiny_base import shapes


def adapter_tensors(targets: Sequence[str] = ("q_proj", "v_proj"), *, r: int = 2, seed: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """LoRA weights for those modules of every layer, named as PEFT names them."""
    rng = np.random.default_rng(seed)
    factors = {}
    for name, shape in shapes().items():
        if name.removesuffix(".weight").rpartition(".")[2] in targets:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{stem}.lora_A.weight"] = rng.standard_normal((r, shape[1]), dtype=np.float32)
            factors[f"{stem}.lora_B.weight"] = rng.standard_normal((shape[0], r), dtype=np.float32)
    return factors


def adapter_config(**changed: Any) -> dict[str, Any]:
    """An adapter_config.json as PEFT 0.10 wrote it; `changed` adds to it or replaces."""
    return {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "someone/somewhere", "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
        "loftq_config": {}, "lora_alpha": 4, "lora_dropout": 0.0, "megatron_config": None, "megatron_core": "megatron.core",
        "modules_to_save": None, "peft_type": "LORA", "r": 2, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False, **changed,
    }  # fmt: skip


def write_adapter(
    folder: Path, config: Mapping[str, Any] | None = None, tensors: Mapping[str, npt.NDArray[Any]] | None = None, *, seed: int = 1
) -> Path:
    """A PEFT folder: configuration and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config if config is not None else adapter_config()), encoding="utf-8")
    weights = tensors if tensors is not None else adapter_tensors(seed=seed)
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "adapter_model.safetensors")
    return folder
