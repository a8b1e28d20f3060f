"""How transformers lays a model out in memory, and which tensors of the checkpoint each parameter is made of.

Checkpoints keep names of their own: without the first part of the path (GPT-2, BLOOM), under another one (Gemma 3, Llama 4), or one
tensor for each expert where the model holds all experts of a layer in one. The model is built without memory, and the names on disk
go through the very mapping that `from_pretrained` uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

__all__ = ["known", "lay_out"]


def known(model_type: str) -> bool:
    """Whether transformers has a causal language model of that type in its own code."""
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def lay_out(config: dict[str, Any], tensors: Sequence[str]) -> dict[str, Any]:
    """What there is to know of the model that `config` (a config.json) describes: {"parameters", "attends", "carries"}.

    "parameters", in the order in which the model holds them, each as {"name", "shape", "turned", "tensors"}: `turned` where a product
    of LoRA factors is added transposed (Conv1D, embeddings, experts stored as input x output); `tensors` are the names, among those
    given, of what it is made of. A tied parameter stands under each of its names. `attends`: its attention goes through
    transformers' attention interface; `carries`: some layers hand a state, or the last few tokens, on from token to token.
    {} for a configuration that transformers builds no causal language model of without code of its own.
    """
    try:
        known = AutoConfig.for_model(**{key: value for key, value in config.items() if key not in {"auto_map", "quantization_config"}})
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known, trust_remote_code=False)
    except Exception:  # whatever a stranger's configuration makes transformers do: then the names on disk are all there is
        return {}
    sources = _sources(model, tensors)
    made_of: dict[int, list[str]] = {}
    found = []
    for path, module in model.named_modules():
        turned = isinstance(module, (Conv1D, torch.nn.Embedding)) or bool(getattr(module, "is_transposed", False))
        for last, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{path}.{last}" if path else last
            made_of.setdefault(id(parameter), []).extend(sources.get(name, []))
            found.append({"name": name, "shape": tuple(parameter.shape), "turned": turned, "tensors": made_of[id(parameter)]})
    decoder = model.base_model if not hasattr(model.base_model, "language_model") else model.base_model.language_model
    kinds = getattr(known.get_text_config(), "layer_types", None) or []
    carries = any(isinstance(module, torch.nn.Conv1d) for module in decoder.modules()) or "linear_attention" in kinds
    return {"parameters": found, "attends": bool(model._supports_attention_backend), "carries": carries}


def _sources(model: Any, tensors: Sequence[str]) -> dict[str, list[str]]:
    """Name in memory -> names on disk, as transformers maps them when it loads."""
    conversions = get_model_conversion_mapping(model)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    here, found = model.state_dict(), dict[str, list[str]]()
    for name in tensors:
        new, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, here)
        found.setdefault(new, []).append(name)
    return found
