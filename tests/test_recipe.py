"""A recipe means what it says: nothing in it is guessed, dropped or taken for something else."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.errors import RecipeError
from workbench.recipe import Recipe, read_yaml

WHAT = {"base": "b@1", "dataset": "d"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_r": True}, "lora_r: Input should not be yes or no"),
        ({"learning_rate": True}, "learning_rate: Input should not be yes or no"),
        ({"eval_steps": False}, "eval_steps: Input should not be yes or no"),
        ({"max_steps": 0}, "max_steps: 0 steps train nothing"),
        ({"lora_target_modules": "q_proj"}, "lora_target_modules: Input should be a valid tuple"),
        ({"report_to": "all"}, "report_to.0: Input should be"),
        ({"lr_scheduler_kwargs": {"num_cycle": 2}}, "cosine takes num_cycles, not num_cycle"),
        ({"lr_scheduler_kwargs": {"num_cycles": True}}, "A value should not be yes or no"),
        ({"lr_scheduler_kwargs": "num_cycles=2"}, "Input should be JSON"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr needs min_lr or min_lr_rate"),
        ({"dtype": "float32"}, "dtype: only method sft"),
        ({"method": "sft", "use_dora": True}, "use_dora: method sft has no adapter"),
        ({"method": "sft", "lora_target_modules": ["q_proj"]}, "lora_target_modules: method sft has no adapter"),
        ({"use_bnb_nested_quant": True}, "use_bnb_nested_quant: nothing is held in 4 bits"),
        ({"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type: nothing is held in 4 bits"),
    ],
)
def test_what_is_no_value_or_would_be_ignored_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace("(", r"\(")):
        Recipe.load({**WHAT, **given})


def test_single_words_are_taken_as_upstream_takes_them() -> None:
    for written, wanted in [("none", ()), ("tensorboard", ("tensorboard",)), (["none"], ()), (None, ()), (["wandb"], ("wandb",))]:
        assert Recipe.load({**WHAT, "report_to": written}).report_to == wanted
    assert Recipe.load({**WHAT, "lora_target_modules": "all-linear"}).lora_target_modules == ("all-linear",)
    one = Recipe.load({**WHAT, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}'})
    assert one.lr_scheduler_kwargs == {"min_lr_rate": 0.1} and Recipe.from_yaml(one.to_yaml()) == one


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="gives lora_r twice, on lines 2 and 4"):
        read_yaml("base: b@1\nlora_r: 8\ndataset: d\nlora_r: 16\n")
    assert read_yaml("base: b@1\nmax_steps: 3\n") == {"base": "b@1", "max_steps": 3}
    with pytest.raises(RecipeError, match="not YAML"):
        read_yaml("a: " + "[" * 5000)
