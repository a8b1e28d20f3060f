"""What a model configuration says, whoever wrote it: the same setting under one key, and what kind of setting each key is.

Versions of transformers spell settings differently (`rope_theta` beside `rope_scaling`, or both inside `rope_parameters`),
leave defaults out, and wrap a text model's configuration in that of a multimodal one. None of that is a change of the model.
"""

from __future__ import annotations

from typing import Any

from workbench.bases.lock import Lock

__all__ = ["changed", "effective", "kind_of", "mechanisms"]

_KEYS = {
    "hidden_size": "hidden_size d_model n_embd",
    "layers": "num_hidden_layers n_layer num_layers",
    "heads": "num_attention_heads num_key_value_heads head_dim n_head multi_query",
    "intermediate_size": "intermediate_size n_inner ffn_dim moe_intermediate_size shared_expert_intermediate_size",
    "experts": "num_experts num_local_experts n_routed_experts n_shared_experts",
    "activation": "hidden_act hidden_activation activation_function",
    "bias": "attention_bias mlp_bias qkv_bias use_bias use_qkv_bias attention_out_bias",
    "qk_norm": "use_qk_norm qk_norm qk_layernorm",
    "rope": "rope_theta rope_type rope_local_base_freq partial_rotary_factor rotary_pct rotary_dim no_rope_layers",
    "window": "sliding_window use_sliding_window max_window_layers layer_types sliding_window_pattern attention_chunk_size",
    "context": "max_position_embeddings n_positions",
    "norm_eps": "rms_norm_eps layer_norm_eps layer_norm_epsilon norm_eps",
    "softcap": "attn_logit_softcapping final_logit_softcapping",
    "multiplier": (
        "query_pre_attn_scalar embedding_multiplier residual_multiplier attention_multiplier logits_scaling logit_scale scale_emb "
        "scale_depth dim_model_base mup_enabled"
    ),
    "routing": "num_experts_per_tok norm_topk_prob n_group topk_group routed_scaling_factor scoring_func first_k_dense_replace",
    "tied": "tie_word_embeddings",
    "vocab_size": "vocab_size",
    "token_ids": "bos_token_id eos_token_id pad_token_id unk_token_id",
    "identity": "model_type architectures",
    "quantization": "quantization_config",
}
_KINDS = {key: kind for kind, keys in _KEYS.items() for key in keys.split()}


def effective(lock: Lock) -> dict[str, Any]:
    """The configuration of a base with its text model's keys on top level, rope flat, and implied sizes written out."""
    config = dict(lock.config)
    for key in ("text_config", "llm_config"):
        inner = config.pop(key, None)
        config |= inner if isinstance(inner, dict) else {}
    config |= {"model_type": lock.model_type, "architectures": list(lock.architectures)}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(rope := config.pop(key, None), dict):
            config |= _flat(rope)
    if config.get("rope_type") == "default":
        del config["rope_type"]
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if isinstance(heads, int) and heads > 0:
        config.setdefault("num_key_value_heads", heads)
        if config.get("head_dim") is None and isinstance(hidden, int):
            config["head_dim"] = hidden // heads
    if config.get("tie_word_embeddings") is None:  # families differ in the default; the weights tell
        config["tie_word_embeddings"] = not any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in lock.tensors)
    return config


def _flat(rope: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key of a rope setting starts with "rope"; those of one layer type as rope.full_attention.factor."""
    settings: dict[str, Any] = {}
    for key, value in rope.items():
        key = "rope_type" if key == "type" else key
        if isinstance(value, dict):
            settings |= _flat(value, f"rope.{key}.")
        else:
            settings[f"{prefix}{key}" if prefix or key in _KINDS else f"rope.{key}"] = value
    return settings


def kind_of(key: str) -> str:
    """The kind of setting; "other" for a key that changes nothing we know of."""
    return "rope" if key.startswith("rope.") else _KINDS.get(key, "other")


def changed(a: Lock, b: Lock) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by key: (before, after). One that is off or zero is the same as one that is absent."""
    before, after = effective(a), effective(b)
    differ = {}
    for key in sorted(before.keys() | after.keys()):
        x, y = before.get(key), after.get(key)
        if x != y and not (kind_of(key) != "other" and not x and not y):
            differ[key] = (x, y)
    return differ


def mechanisms(lock: Lock) -> list[str]:
    """What a base does beside plain attention and plain layers, a few words each, such as "window of 4,096 tokens in 13 of 26 layers"."""
    config = effective(lock)
    kinds = config.get("layer_types") or []
    told = ["the text part of a multimodal model"] if isinstance(lock.config.get("text_config"), dict) else []
    window, chunk = config.get("sliding_window"), config.get("attention_chunk_size")
    if isinstance(window, int) and config.get("use_sliding_window") is not False:
        told.append(f"window of {window:,} tokens" + _share(kinds, "sliding_attention"))
    if isinstance(chunk, int) and "chunked_attention" in kinds:
        told.append(f"attention in chunks of {chunk:,} tokens" + _share(kinds, "chunked_attention"))
    told += [f"{words}{_share(kinds, kind)}" for kind, words in _STATEFUL.items() if kind in kinds]
    if any(name.endswith(".A_log") for name in lock.tensors) and not set(kinds) & _STATEFUL.keys():
        told.append("state-space layers")
    if experts := next((config[key] for key in _EXPERTS if isinstance(config.get(key), int) and config[key] > 1), None):
        chosen = next((config[key] for key in _CHOSEN if config.get(key)), None)
        told.append(f"{experts:,} experts" + (f", {chosen} of them for each token" if isinstance(chosen, int) else ""))
    told += [f"{words} ({config[key]:g})" for key, words in _CAPS.items() if config.get(key)]
    if any(name.endswith(".sinks") for name in lock.tensors):
        told.append("attention sinks")
    if config.get("alibi") or lock.model_type in {"bloom", "mpt"}:
        told.append("ALiBi in place of positions")
    if config.get("rope_type"):
        told.append(f"rotary positions stretched by {config['rope_type']}")
    rates = [
        f"{key} {value:g}"
        for key, value in sorted(config.items())
        if key.endswith(("dropout", "pdrop")) and key not in _NO_LAYER and _is_rate(value)
    ]
    return told + ([f"dropout in training ({', '.join(rates)})"] if rates else [])


_STATEFUL = {"linear_attention": "linear attention", "conv": "short convolutions", "mamba": "state-space layers"}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk")
_NO_LAYER = {"summary_first_dropout", "classifier_dropout"}  # of heads that a language model does not have
_CAPS = {"attn_logit_softcapping": "attention scores capped", "final_logit_softcapping": "logits capped"}


def _share(kinds: list[Any], kind: str) -> str:
    return f" in {kinds.count(kind)} of {len(kinds)} layers" if kind in kinds else ""


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and value > 0
