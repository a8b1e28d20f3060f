"""A recipe means what it says: nothing in it is guessed, dropped or taken for something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import RecipeError
from workbench.recipe import RECIPE, Recipe, read_yaml

WHAT = {"base": "b@1", "dataset": "d"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_r": True}, "lora_r: Input should not be yes or no"),
        ({"learning_rate": True}, "learning_rate: Input should not be yes or no"),
        ({"eval_steps": False}, "eval_steps: Input should not be yes or no"),
        ({"max_steps": 0}, "max_steps: 0 steps train nothing"),
        ({"lora_target_modules": "q_proj"}, "lora_target_modules: Input should be a list, such as ['q_proj']"),
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
    with pytest.raises(RecipeError, match=re.escape(said)):
        Recipe.load({**WHAT, **given})


def test_single_words_are_taken_as_upstream_takes_them() -> None:
    for written, wanted in [("none", ()), ("tensorboard", ("tensorboard",)), (["none"], ()), (None, ()), (["wandb"], ("wandb",))]:
        assert Recipe.load({**WHAT, "report_to": written}).report_to == wanted
    assert Recipe.load({**WHAT, "lora_target_modules": "all-linear"}).lora_target_modules == ("all-linear",)
    one = Recipe.load({**WHAT, "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}'})
    assert one.lr_scheduler_kwargs == {"min_lr_rate": 0.1} and Recipe.from_yaml(one.to_yaml()) == one


def test_what_a_recipe_decides_about_a_run() -> None:
    recipe = Recipe.load({**WHAT, "eval_rows": 32})
    assert [recipe.held_back(rows) for rows in (4, 20, 160, 1000)] == [0, 4, 32, 32]
    assert [recipe.steps(examples) for examples in (1, 8, 9)] == [1, 1, 2]
    assert [recipe.evaluate_every(steps) for steps in (1, 5, 6, 60)] == [1, 1, 2, 12]
    assert Recipe.load({**WHAT, "eval_steps": 7}).evaluate_every(60) == 7
    fp4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}
    assert [Recipe.load({**WHAT, **given}).quantization for given in ({}, {"method": "qlora"}, fp4)] == [None, "nf4", "fp4"]


def test_the_recipe_beside_an_adapter_is_the_one_it_was_written_from(tmp_path: Path) -> None:
    assert Recipe.beside(tmp_path) is None
    recipe = Recipe.load({**WHAT, "method": "sft", "lr_scheduler_kwargs": {"num_cycles": 0.5}, "report_to": ["wandb"], "name": "grosser"})
    (tmp_path / RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.beside(tmp_path) == recipe and recipe.learning_rate == 5e-5


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="gives lora_r twice, on lines 2 and 4"):
        read_yaml("base: b@1\nlora_r: 8\ndataset: d\nlora_r: 16\n")
    assert read_yaml("base: b@1\nmax_steps: 3\n") == {"base": "b@1", "max_steps": 3}
    with pytest.raises(RecipeError, match="gives seed twice, on lines 1 and 1"):
        read_yaml("{seed: 1, base: b@1, seed: 2}")


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 5000, "seed: 2024-13-45", "seed: " + "9" * 5000, "seed: !!int x", "lora_alpha: !!float x", "name: !!timestamp x"]
)
def test_odd_yaml_is_refused_in_words(text: str) -> None:
    with pytest.raises(RecipeError, match="not YAML"):
        read_yaml(text)


def test_a_value_of_many_aliases_is_not_written_out() -> None:
    bomb = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)), "base: *a8", "dataset: d"])
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(bomb)
    assert len(str(caught.value)) < 20_000
