"""What a recipe will meet in its rows, its base and this installation: found before anything is loaded, without torch.

A problem blocks the start, a warning does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RecipeError
from workbench.foreign import open_regular, read_regular
from workbench.peft_layout import CONFIG, WEIGHTS, takes_factors, unmatched_targets
from workbench.recipe import Recipe
from workbench.records import Base, Dataset, as_json

if TYPE_CHECKING:
    from workbench.bases.layout import Layout
    from workbench.bases.lock import Lock
    from workbench.data.checks import RowLength
    from workbench.estimate import Estimate

__all__ = ["Plan", "judge", "judge_lengths", "missing_loggers", "start_file", "sum_lengths"]

_MOST = 1024**4  # bytes of weights


@dataclass(frozen=True)
class Plan:
    """What `train` would do with a recipe, found out without training."""

    recipe: Recipe
    origin: dict[str, str]  # key -> "default", "preset quick", "file" or "given"
    base: Base
    dataset: Dataset
    publishes: str  # "refunds (next version)" or "smollm2-135m-instruct@2"
    lengths: dict[str, int]  # rows, tokens, supervised, longest, cut, answer_lost, unlearnable; of the train part
    estimate: Estimate
    problems: list[str] = field(default_factory=list)  # each one blocks the start
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the keys of `workbench train --dry-run --json`."""
        plain = {part.name: as_json(getattr(self, part.name)) for part in fields(self)}
        return plain | {"recipe": self.recipe.model_dump(mode="json"), "base": str(self.base.ref), "dataset": self.dataset.name}

    def sound(self) -> Plan:
        """Itself; raises `RecipeError` when it has problems."""
        if self.problems:
            raise RecipeError("This run would be wasted:", self.problems, hint="Look at the rows: workbench data preview")
        return self


def judge(recipe: Recipe, dataset: Dataset, lengths: Sequence[RowLength], layout: Layout) -> tuple[list[str], list[str]]:
    """(problems, warnings) of a recipe on the training rows of a dataset and on a base. `lengths` are those rows' token counts."""
    problems, warnings = judge_lengths(lengths, recipe)
    problems += _without_effect(recipe, dataset.form) + missing_loggers(recipe)
    problems += _too_long(lengths, recipe, layout.lock) + _unknown_targets(recipe, layout)
    if recipe.early_stopping_patience and not recipe.held_back(len(lengths)):
        warnings.append("There are too few rows to hold any back, so early_stopping_patience has nothing to watch.")
    if recipe.resume_from_checkpoint:
        problems += _unfit_start(recipe)
        warnings.append("Only weights are taken from resume_from_checkpoint: steps, schedule and optimiser begin anew.")
    return problems, warnings


def sum_lengths(lengths: Sequence[RowLength]) -> dict[str, int]:
    """rows, tokens, supervised, longest, cut, answer_lost and unlearnable: the figures of a plan."""
    return {
        "rows": len(lengths),
        "tokens": sum(r.total for r in lengths),
        "supervised": sum(r.supervised for r in lengths),
        "longest": max((r.total for r in lengths), default=0),
        "cut": sum(r.cut for r in lengths),
        "answer_lost": sum(r.answer_lost for r in lengths),
        "unlearnable": sum(r.supervised == 0 for r in lengths),
    }


def judge_lengths(lengths: Sequence[RowLength], recipe: Recipe) -> tuple[list[str], list[str]]:
    """(problems, warnings) in the token counts of the training rows."""
    total = sum_lengths(lengths)
    rows, lost, cut, limit = total["rows"], total["answer_lost"], total["cut"], recipe.max_length
    if not rows:
        return ["The dataset has no training rows."], []
    if not total["supervised"]:
        return [f"None of the {rows} rows has a token to learn from; {lost} lose their whole answer at max_length {limit}."], []
    if not any(r.ends for r in lengths):
        # tokens of a prompt can be learned too, and may hold the very token that ends an answer: only answers count
        why = "raise max_length" if cut else "the base's chat template writes no end of turn: use another base"
        found = f"{cut} of the {rows} rows are cut at max_length {limit}, {lost} lose their whole answer"
        return [f"No training row teaches the model to end its answer, so it would never stop; {found}: {why}."], []
    warnings = []
    if lost:
        warnings.append(f"{lost} rows ({100 * lost / rows:.0f} %) lose their whole answer at max_length {limit}.")
    if cut > lost:
        warnings.append(f"{cut} rows are cut at max_length {limit} tokens.")
    if total["unlearnable"]:
        warnings.append(f"{total['unlearnable']} rows have nothing to learn from and are left out.")
    if altered := sum(r.altered for r in lengths):
        warnings.append(f"{altered} rows have white space around an answer, such as an indent, which this base's chat template drops.")
    if tools_lost := sum(r.tools_lost for r in lengths):
        warnings.append(f"{tools_lost} rows offer tools, which this base's chat template does not show: they are learned without them.")
    return [], warnings


def _without_effect(recipe: Recipe, form: str) -> list[str]:
    """Choices of what is learned that rows of this form (see `workbench.data.rows`) would silently ignore."""
    ignored = []
    if not recipe.completion_only_loss and form != "prompt_completion":
        to_do = "assistant_only_loss: false learns the questions too" if form == "messages" else "leave it out"
        ignored.append(
            f"completion_only_loss: false changes nothing here: it is for raw prompts and completions (data add --raw); {to_do}."
        )
    if not recipe.assistant_only_loss and form != "messages":
        to_do = "completion_only_loss: false learns the prompts too" if form == "prompt_completion" else "leave it out"
        ignored.append(f"assistant_only_loss: false changes nothing here: it is for conversations; {to_do}.")
    return ignored


def missing_loggers(recipe: Recipe) -> list[str]:
    """Loggers to report to that are not installed."""
    return [f"report_to: {name} is not installed: pip install {name}" for name in recipe.report_to if find_spec(name) is None]


def _too_long(lengths: Sequence[RowLength], recipe: Recipe, lock: Lock) -> list[str]:
    """Rows that this base's context does not hold."""
    context = (lock.config.get("text_config") or lock.config).get("max_position_embeddings")
    longest = min(max((r.total for r in lengths), default=0), recipe.max_length)
    if not isinstance(context, int) or longest <= context:
        return []
    return [f"max_length: there are rows of {longest} tokens, and this base reads {context} at most. Set max_length: {context}"]


def _unknown_targets(recipe: Recipe, layout: Layout) -> list[str]:
    """Target modules that this base has no linear layer for, and target parameters that it does not have."""
    config = layout.lock.config.get("text_config") or layout.lock.config

    def have(modules: set[str]) -> list[str]:
        """One row a token: an embedding or the output layer, which no adapter here is put on."""
        return [name for name in modules if (p := layout.weight(name)) is None or p.shape[0] != config.get("vocab_size")]

    for modules in (layout.stored_modules, layout.modules):  # transformers is asked only where the stored names do not do
        problem = unmatched_targets("lora_target_modules", recipe.lora_target_modules, have(modules()))
        if not problem:
            break
    parameters = [p.name for p in layout.parameters.values() if takes_factors(p.name, len(p.shape))] if recipe.target_parameters else []
    return [text for text in (problem, unmatched_targets("target_parameters", recipe.target_parameters, parameters)) if text]


def start_file(recipe: Recipe) -> Path:
    """The weights in the folder `resume_from_checkpoint`."""
    folder = Path(recipe.resume_from_checkpoint or "").expanduser().resolve()
    return folder / ("model.safetensors" if recipe.method == "sft" else WEIGHTS)


def _unfit_start(recipe: Recipe) -> list[str]:
    """Why the checkpoint cannot be begun with. Nothing but its safetensors and adapter_config.json is ever opened."""
    file = start_file(recipe)
    try:
        open_regular(file, most=_MOST, error=RecipeError).close()
        if recipe.method == "sft":
            return []
        config = json.loads(read_regular(file.with_name(CONFIG), most=1_000_000, error=RecipeError))
        wanted = {"r": recipe.lora_r, "lora_alpha": recipe.lora_alpha, "use_rslora": recipe.use_rslora, "use_dora": recipe.use_dora}
        other = [f"{key} is {config.get(key)} there and {value} here" for key, value in wanted.items() if config.get(key, value) != value]
    except (RecipeError, OSError, ValueError, AttributeError, RecursionError) as error:
        return [f"resume_from_checkpoint: {error}"]
    return [f"resume_from_checkpoint: {text}; the adapter has to keep its shape and scale." for text in other]
