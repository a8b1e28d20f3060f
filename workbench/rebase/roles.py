"""What stands along each axis of each tensor, for every family of models whose symmetries are known. Known here and nowhere else.

A role is one letter per axis, as (out, in) for the weight of a module; its bias has the first:

    r    the residual stream: one permutation for all layers, with signs where the norm takes no mean (RMSNorm)
    w    a norm's weight: the residual stream without its signs
    n    neurons of the MLP, s of the shared expert, e of one expert; N, S, E the same as the output matrix reads them
    q k  query and key heads; v values; o values as the query heads read them; a b one number per query and key head
    g    query, key and value heads of one group after the other, in one matrix
    x    experts
    .    stays

`+` joins what stands one after the other, `~` what alternates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from workbench.bases.files import read_json

__all__ = ["EMBEDDINGS", "FAMILIES", "GROUPS", "OUTPUTS", "Family", "Place", "embeddings", "family_of", "group_of", "layer_of"]

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
OUTPUTS = ("lm_head", "embed_out")
_ENDS = dict.fromkeys([*EMBEDDINGS, *OUTPUTS, "wpe", "embed_positions"], ". r")
_ENDS |= dict.fromkeys(["norm", "ln_f", "final_layernorm", "final_layer_norm", "word_embeddings_layernorm"], "w")
_PATH = re.compile(r"(?:(?:model|language_model|transformer|decoder|gpt_neox)\.)*(?:(?:layers|h)\.(\d+)\.)?(.+)")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_GROUPS = (
    ("embeddings", re.compile(r"embed|wte|wpe|lm_head|word_embeddings")),
    ("norms", re.compile(r"norm|ln_|\.ln\d")),
    ("attention", re.compile(r"attn|attention|query_key_value|q_proj|k_proj|v_proj|o_proj")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|experts|gate_proj|up_proj|down_proj|fc\d|dense")),
)
GROUPS = (*(group for group, _ in _GROUPS), "other")


def group_of(name: str) -> str:
    """The kind of module a tensor belongs to, by its name, in any family: one of `GROUPS`."""
    return next((group for group, pattern in _GROUPS if pattern.search(name)), GROUPS[-1])


def layer_of(name: str) -> int | None:
    """The number of the layer that a module or tensor belongs to."""
    match = re.search(r"\.(\d+)\.", f".{name}.")
    return int(match[1]) if match else None


class Place(NamedTuple):
    """What one tensor is."""

    layer: int | None
    key: str  # its name inside the layer, experts without their number
    roles: tuple[str, ...]  # of each axis as it is stored; (".",) for what stays as it is, however many axes it has
    expert: int | None


@dataclass(frozen=True)
class Family:
    """The tensors inside a layer by their names, and what holds for all of them."""

    layer: dict[str, str]
    signed: bool = True  # its norms take no mean, so the residual stream may change signs
    turned: bool = False  # linear modules inside the layers are stored as (in, out): Conv1D
    ends: dict[str, str] = field(default_factory=lambda: _ENDS)
    fixed: bool = False  # ALiBi gives each head its own slope, so heads keep their places

    def place(self, name: str) -> Place | None:
        """The tensor of that name, on disk or in memory; None for one that is not known."""
        path = _PATH.fullmatch(name)
        assert path is not None
        layer, key, expert = path[1], _EXPERT.sub(".experts.*.", path[2]), _EXPERT.search(path[2])
        roles = self._roles(key, self.ends if layer is None else self.layer, turned=self.turned and layer is not None)
        return None if roles is None else Place(None if layer is None else int(layer), key, roles, int(expert[1]) if expert else None)

    def _roles(self, key: str, table: dict[str, str], *, turned: bool) -> tuple[str, ...] | None:
        module, _, part = key.rpartition(".")
        if key in table or key.endswith("rotary_emb.inv_freq"):  # a parameter by its own name
            return tuple(table.get(key, ".").split())
        if key.split(".")[0] in table and table[key.split(".")[0]] == "…":  # whatever is in there
            return (".",)
        if module not in table or part not in {"weight", "bias"}:
            return None
        roles = table[module].split()
        if part == "bias":
            return ("r" if roles[0] == "w" else roles[0],)
        return tuple(reversed(roles) if turned else roles)

    def ends_of(self, module: str) -> tuple[str, str] | None:
        """Roles of the output and the input of a linear module, whichever way round it is stored."""
        place = self.place(f"{module}.weight")
        if place is None or place.layer is None or place.expert is not None or len(place.roles) != 2:
            return None
        return (place.roles[1], place.roles[0]) if self.turned else (place.roles[0], place.roles[1])


def _norms(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "w")


def _mlp(module: str, into: str, out: str, letter: str = "n") -> dict[str, str]:
    return {**{f"{module}.{name}": f"{letter} r" for name in into.split()}, f"{module}.{out}": f"r {letter.upper()}"}


def _attention(module: str, names: str) -> dict[str, str]:
    return {f"{module}.{name}": roles for name, roles in zip(names.split(), ("q r", "k r", "v r", "r o"), strict=True)}


_QKVO = _attention("self_attn", "q_proj k_proj v_proj o_proj")
_GATES = "gate_proj up_proj"
_GATED = _mlp("mlp", _GATES, "down_proj")
_PLAIN = _mlp("mlp", "up_proj", "down_proj")
_JOINED = {"mlp.gate_up_proj": "n+n r", "mlp.down_proj": "r N"}
_PRE = _norms("input_layernorm", "post_attention_layernorm")
_AROUND = _norms("pre_feedforward_layernorm", "post_feedforward_layernorm")
_AFTER = _QKVO | _GATED | _norms("post_attention_layernorm", "post_feedforward_layernorm")
_PER_HEAD = {"self_attn.q_norm": ".", "self_attn.k_norm": "."}
_WIDE = {"self_attn.q_norm": "q", "self_attn.k_norm": "k"}
_LLAMA = _QKVO | _GATED | _PRE
_GEMMA3 = _LLAMA | _AROUND | _PER_HEAD
_PICTURES = {
    "vision_tower": "…", "multi_modal_projector.mm_input_projection_weight": ". r", "multi_modal_projector.mm_soft_emb_norm": ".",
}  # fmt: skip
_RMS = {
    **dict.fromkeys(["llama", "mistral", "ministral3", "qwen2", "smollm3", "internlm3", "ernie4_5", "granite"], _LLAMA),
    **dict.fromkeys(["helium", "seed_oss", "gemma"], _LLAMA),
    "qwen3": _LLAMA | _PER_HEAD,
    "hunyuan_v1_dense": _LLAMA | {"self_attn.query_layernorm": ".", "self_attn.key_layernorm": "."},
    "gemma2": _LLAMA | _AROUND,
    "gemma3_text": _GEMMA3,
    **dict.fromkeys(["olmo2", "olmo3"], _AFTER | _WIDE),
    "exaone4": _AFTER | _PER_HEAD,
    "arcee": _QKVO | _PLAIN | _PRE,
    "apertus": _QKVO | _PLAIN | _PER_HEAD | _norms("attention_layernorm", "feedforward_layernorm")
    | dict.fromkeys([f"mlp.act_fn.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")], "."),
    "phi3": _JOINED | _PRE | {"self_attn.qkv_proj": "q+k+v r", "self_attn.o_proj": "r o"},
    "glm": _QKVO | _JOINED | _PRE,
    "glm4": _QKVO | _JOINED | _PRE | _norms("post_self_attn_layernorm", "post_mlp_layernorm"),
}  # fmt: skip
_GPT = _norms("ln_1", "ln_2") | dict.fromkeys(["attn.bias", "attn.masked_bias", "attn.attention.bias", "attn.attention.masked_bias"], ".")
_DENSE = _PRE | _mlp("mlp", "dense_h_to_4h", "dense_4h_to_h")
_GROUPED = {"query_key_value": "g r", "dense": "r o", "bias": ".", "masked_bias": "."}
_BLOOM = _DENSE | _norms("ln_attn", "ln_mlp") | {f"self_attention.{name}": role for name, role in _GROUPED.items()}
_MEAN = {
    "olmo": _QKVO | _GATED,  # its norms have no weights
    "cohere": _QKVO | _GATED | _PRE | {"self_attn.q_norm": "a .", "self_attn.k_norm": "b ."},
    "cohere2": _QKVO | _GATED | _PRE,
    "stablelm": _LLAMA,
    "nemotron": _QKVO | _PLAIN | _PRE,
    "starcoder2": _QKVO | _PRE | _mlp("mlp", "c_fc", "c_proj"),
    "phi": _attention("self_attn", "q_proj k_proj v_proj dense") | _PRE | _mlp("mlp", "fc1", "fc2"),
    "opt": _attention("self_attn", "q_proj k_proj v_proj out_proj") | _norms("self_attn_layer_norm", "final_layer_norm")
    | {"fc1": "n r", "fc2": "r N"},
    "gptj": _attention("attn", "q_proj k_proj v_proj out_proj") | _GPT | _mlp("mlp", "fc_in", "fc_out"),
    "gpt_neo": _attention("attn.attention", "q_proj k_proj v_proj out_proj") | _GPT | _mlp("mlp", "c_fc", "c_proj"),
    "gpt_neox": _DENSE | {f"attention.{name}": role for name, role in _GROUPED.items()},
    "falcon": _BLOOM,
}  # fmt: skip


def _experts(module: str, router: str = "gate", shared: str = "", into: str = _GATES, out: str = "down_proj") -> dict[str, str]:
    beside = _mlp(f"{module}.{shared}", into, out, "s") if shared else {}
    return {f"{module}.{router}": "x r", **_mlp(f"{module}.experts.*", into, out, "e"), **beside}


def _stacked(module: str, *, parts: str = "e+e") -> dict[str, str]:
    return {f"{module}.router": "x r", f"{module}.experts.gate_up_proj": f"x r {parts}", f"{module}.experts.down_proj": "x E r"}


_CORRECTED = {"mlp.gate.e_score_correction_bias": "x", "mlp.moe_statics.e_score_correction_bias": ". x"}
_MIXTRAL = _QKVO | _PRE | _experts("block_sparse_moe", into="w1 w3", out="w2")
_DEEPSEEK = {  # heads stay: they share a latent of their own
    **dict.fromkeys([f"self_attn.{name}" for name in ("q_proj", "q_a_proj", "kv_a_proj_with_mqa")], ". r"), "self_attn.o_proj": "r .",
    **dict.fromkeys([f"self_attn.{name}" for name in ("q_b_proj", "kv_b_proj")], ". ."),
    "self_attn.q_a_layernorm": ".", "self_attn.kv_a_layernorm": ".",
    **_GATED, **_PRE, **_experts("mlp", shared="shared_experts"), **_CORRECTED,
}  # fmt: skip
_RMS |= {
    "mixtral": _MIXTRAL,
    "qwen2_moe": _LLAMA | _experts("mlp", shared="shared_expert") | {"mlp.shared_expert_gate": ". r"},
    "qwen3_moe": _LLAMA | _PER_HEAD | _experts("mlp"),
    "olmoe": _LLAMA | _WIDE | _experts("mlp"),
    "ernie4_5_moe": _LLAMA | _experts("mlp", shared="shared_experts") | _CORRECTED,
    "glm4_moe": _LLAMA | _PER_HEAD | _experts("mlp", shared="shared_experts") | _CORRECTED,
    "hunyuan_v1_moe": _RMS["hunyuan_v1_dense"] | _experts("mlp", "gate.wg", "shared_mlp"),
    **dict.fromkeys(["deepseek_v2", "deepseek_v3"], _DEEPSEEK),
    "granitemoe": _QKVO | _PRE | {f"block_sparse_moe.{name}": roles for name, roles in
        {"router.layer": "x r", "input_linear": "x e+e r", "output_linear": "x r E"}.items()},
    "gpt_oss": _QKVO | _PRE | _stacked("mlp", parts="e~e")
    | {"self_attn.sinks": "a", "mlp.experts.gate_up_proj_bias": "x e~e", "mlp.experts.down_proj_bias": "x r"},
    "llama4_text": _QKVO | _PRE | _mlp("feed_forward", _GATES, "down_proj") | _stacked("feed_forward")
    | _mlp("feed_forward.shared_expert", _GATES, "down_proj", "s"),
}  # fmt: skip
_MEAN["phimoe"] = _MIXTRAL
FAMILIES = {
    **{name: Family(layer) for name, layer in _RMS.items()},
    "gemma3": Family(_GEMMA3, ends=_ENDS | _PICTURES),
    **{name: Family(layer, signed=False) for name, layer in _MEAN.items()},
    "gpt2": Family(_GPT | {"attn.c_attn": "q+k+v r", "attn.c_proj": "r o"} | _mlp("mlp", "c_fc", "c_proj"), signed=False, turned=True),
    "bloom": Family(_BLOOM, signed=False, fixed=True),
}


def family_of(folder: Path) -> Family | None:
    """The family of the model in `folder`, where its symmetries are known."""
    return FAMILIES.get(str(read_json(folder / "config.json").get("model_type")))


def embeddings(names: Iterable[str]) -> str | None:
    """The tensor among those that holds a row for each token."""
    return next((name for name in names if name.split(".")[-2:] in [[module, "weight"] for module in EMBEDDINGS]), None)
