"""What a PEFT folder changes in its base, read from adapter_config.json and the header of adapter_model.safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.bases.files import read_json
from workbench.bases.layout import Layout
from workbench.bases.lock import Lock
from workbench.bases.tensors import read_header
from workbench.errors import IntegrityError
from workbench.rebase.roles import EMBEDDINGS, OUTPUTS

__all__ = ["PROMPTS", "Adapted", "base_shapes", "layer_of", "read_adapter"]

PROMPTS = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "CARTRIDGE"})
_PREFIX = "base_model.model."
_LORA = re.compile(r"(.+?)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.weight)?")
_TOKENS = re.compile(r"(.+?)\.(?:token_adapter\.)?trainable_tokens_delta")
# What other methods call their tensors, behind the path of the module: ia3_l, oft_r, hada_w1_a, vera_lambda_b, …
_OTHER = re.compile(
    r"(.+?)\.(?:lora|ia3|oft|boft|hra|hada|lokr|vera|vblora|fourierft|randlora|miss|bone|shira|c3a|road|delora|gralora|waveft)_\w+(?:\.\w+)*"
)
_LAYER = re.compile(r"\.(\d+)\.")
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Adapted:
    """The modules an adapter changes, by the base's own names."""

    config: dict[str, Any]
    adds: dict[str, Shape]  # module -> (out, in) that its LoRA product has, as the base stores that weight; of one expert
    other: frozenset[str] = frozenset()  # modules changed by another method than LoRA, whose shapes are not known here
    full: dict[str, Shape] = field(default_factory=dict)  # tensors saved whole: name -> shape
    tokens: dict[str, Shape] = field(default_factory=dict)  # module -> (rows, width) of embedding rows trained one by one
    prompts: dict[str, Shape] = field(default_factory=dict)  # vectors of prompt or prefix tuning

    @property
    def kind(self) -> str:
        """peft_type, such as "LORA"."""
        return str(self.config.get("peft_type") or "LORA").upper()

    @property
    def experts(self) -> list[str]:
        """PEFT's `target_parameters`."""
        return [str(name) for name in self.config.get("target_parameters") or []]

    @property
    def modules(self) -> list[str]:
        """Every module it changes, in any way."""
        return sorted({*self.adds, *self.other, *self.tokens, *(name.rpartition(".")[0] for name in self.full)})

    @property
    def touches_embeddings(self) -> bool:
        ends = {module.rpartition(".")[2] for module in self.modules}
        return bool(ends & {*OUTPUTS, *EMBEDDINGS})


def read_adapter(folder: Path) -> Adapted:
    """Read a PEFT folder without its numbers. Raises `IntegrityError` when it is none or damaged."""
    config = read_json(folder / "adapter_config.json")
    if not config:
        raise IntegrityError(f"{folder} has no adapter_config.json.", hint="An adapter is a folder saved by PEFT's save_pretrained.")
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise IntegrityError(f"{folder} has no adapter_model.safetensors.", hint="Save the adapter again with PEFT's save_pretrained.")
    parts: dict[str, dict[str, Shape]] = {}
    full: dict[str, Shape] = {}
    tokens: dict[str, Shape] = {}
    prompts: dict[str, Shape] = {}
    other: set[str] = set()
    for name, info in read_header(file).items():
        rest = name.removeprefix(_PREFIX)
        if match := _LORA.fullmatch(rest):
            parts.setdefault(match[1], {})[match[2].rpartition("_")[2]] = info.shape
            if "embedding" in match[2]:
                parts[match[1]]["embedding"] = ()
        elif match := _TOKENS.fullmatch(rest):
            tokens[match[1]] = info.shape
        elif match := _OTHER.fullmatch(rest):
            other.add(match[1])
        elif rest == name and str(config.get("peft_type")).upper() in PROMPTS:
            prompts[name] = info.shape
        else:
            full[rest.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = info.shape
    turned = bool(config.get("fan_in_fan_out"))
    adds = {module: _product(module, shapes, turned) for module, shapes in parts.items()}
    if not (adds or other or full or tokens or prompts):
        raise IntegrityError(f"{file.name} holds no weights of an adapter.", hint="Save the adapter again with PEFT's save_pretrained.")
    return Adapted(config, adds, frozenset(other - adds.keys()), full, tokens, prompts)


def _product(module: str, shapes: dict[str, Shape], turned: bool) -> Shape:
    """Shape of lora_B lora_A as it is added to the stored weight. Embeddings are stored as vocabulary x width."""
    a, b = shapes.get("A"), shapes.get("B")
    if a is None or b is None or len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise IntegrityError(
            f"The LoRA weights of {module} are no pair that multiplies.", hint="Save the adapter again, or fetch it again."
        )
    return (a[1], b[0]) if turned or "embedding" in shapes else (b[0], a[1])


def base_shapes(lock: Lock, modules: Mapping[str, Shape | None], experts: Sequence[str] = ()) -> dict[str, Shape | None]:
    """Shape of the matrix of each module in a base: () where it is there in a packed form, None where it is not.

    `modules` may say which shape is expected: it decides nothing, but which way round a matrix stands is told in its terms.
    `experts` are an adapter's `target_parameters`; the shape of theirs is that of one expert.
    """
    packed, layout = {name.rpartition(".")[0] for name in lock.tensors}, Layout(lock)
    targeted = layout.targeted(experts) if experts else {}
    found: dict[str, Shape | None] = {}
    for module, added in modules.items():
        parameter = targeted.get(module) or layout.weight(module, like=added)
        if parameter is None:
            found[module] = () if module in packed else None
        elif any("float" not in lock.tensors[name].dtype for name in parameter.tensors):
            found[module] = ()
        else:
            found[module] = parameter.added if parameter.added == added else parameter.shape
    return found


def layer_of(name: str) -> int | None:
    """The number of the layer a module or tensor belongs to."""
    match = _LAYER.search(f".{name}.")
    return int(match[1]) if match else None
