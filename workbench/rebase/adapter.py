"""What a PEFT folder changes in its base, read from adapter_config.json and the header of adapter_model.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.bases.files import read_json
from workbench.bases.layout import Layout
from workbench.bases.lock import Lock
from workbench.bases.tensors import read_header
from workbench.errors import IntegrityError
from workbench.peft_layout import CONFIG, PREFIX, PROMPTS, TOKENS, WEIGHTS, Shape, shape_of, sort, targeted
from workbench.rebase.roles import EMBEDDINGS, OUTPUTS

__all__ = ["Adapted", "base_shapes", "read_adapter"]


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
    config, file = read_json(folder / CONFIG), folder / WEIGHTS
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise IntegrityError(f"{folder} has no {missing[0]}.", hint="An adapter is a folder saved by PEFT's save_pretrained.")
    tensors = read_header(file)
    vectors = {n for n in tensors if not n.startswith(PREFIX)} if str(config.get("peft_type")).upper() in PROMPTS else set()
    contents = sort({name: info for name, info in tensors.items() if name not in vectors})
    turned = bool(config.get("fan_in_fan_out"))
    adds = {module: shape_of(contents.lora[module], turned=turned) or () for module in contents.pairs()}
    return Adapted(
        config,
        adds,
        other=frozenset(contents.other.keys() - adds.keys()),
        full={name: info.shape for name, info in contents.whole.items()},
        tokens={module: parts[TOKENS].shape for module, parts in contents.lora.items() if TOKENS in parts},
        prompts={name: tensors[name].shape for name in vectors},
    )


def base_shapes(lock: Lock, modules: Mapping[str, Shape | None], experts: Sequence[str] = ()) -> dict[str, Shape | None]:
    """Shape of the matrix of each module in a base: () where it is there in a packed form, None where it is not.

    `modules` may say which shape is expected: it decides nothing, but which way round a matrix stands is told in its terms.
    `experts` are an adapter's `target_parameters`; the shape of theirs is that of one expert.
    """
    packed, layout = {name.rpartition(".")[0] for name in lock.tensors}, Layout(lock)
    of_experts = targeted(layout, experts)
    shapes: dict[str, Shape | None] = {}
    for module, added in modules.items():
        parameter = of_experts.get(module) or layout.weight(module, like=added)
        if parameter is None:
            shapes[module] = () if module in packed else None
        elif any("float" not in lock.tensors[name].dtype for name in parameter.tensors):
            shapes[module] = ()
        else:
            shapes[module] = parameter.added if parameter.added == added else parameter.shape
    return shapes
