"""Greedy answers: the same as transformers' own, whatever the batch, the padding or the shared start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.hf.tiny_adapter import order_rows
from workbench.errors import JobError
from workbench.hf.generate import answer, greedy, stop_ids
from workbench.hf.load import load_base, load_tokenizer
from workbench.hf.prefix import Prefix, common_prefix
from workbench.hf.render import end_of_turn_id, prompt_text

pytestmark = pytest.mark.torch
NEW = 24


@pytest.fixture(scope="module")
def model(pico_base: Path) -> Any:
    return load_base(pico_base, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(pico_base: Path) -> Any:
    return load_tokenizer(pico_base)


def by_transformers(model: Any, prompt: list[int], stop: frozenset[int]) -> list[int]:
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=sorted(stop), pad_token_id=0)
    return model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()


def test_batched_greedy_equals_transformers_own_one_by_one(model: Any, tokenizer: Any) -> None:
    prompts = [tokenizer(prompt_text(tokenizer, row), add_special_tokens=False)["input_ids"] for row in order_rows(20)]
    assert len({len(p) for p in prompts}) > 2, "rows of several lengths, so that padding is at work"
    # stop also on what some rows say after a while, so that rows leave the batch at different steps
    free = [by_transformers(model, prompt, frozenset()) for prompt in prompts[:5]]
    stop = stop_ids(model, tokenizer) | {said[4 * n + 3] for n, said in enumerate(free)}
    wanted = [by_transformers(model, prompt, stop) for prompt in prompts]
    assert len({len(w) for w in wanted}) > 3
    assert greedy(model, prompts, max_new_tokens=NEW, stop=stop, batch_size=8) == wanted
    shared = common_prefix(prompts, 512)
    assert shared > 5
    prefix = Prefix.compute(model, prompts[0][:shared])
    rest = [p[shared:] for p in prompts]
    assert greedy(model, rest, max_new_tokens=NEW, stop=stop, prefix=prefix, batch_size=8) == wanted


def test_answer_takes_rows_messages_and_plain_text(model: Any, tokenizer: Any) -> None:
    row = order_rows(1)[0]
    by_row, by_messages, plain = answer(model, tokenizer, [row, row["messages"][:-1], "ship 3 red lamps"], max_new_tokens=8)
    assert by_row == by_messages
    ids = tokenizer("ship 3 red lamps")["input_ids"]
    assert plain == tokenizer.decode(by_transformers(model, ids, stop_ids(model, tokenizer))[:8], skip_special_tokens=True).strip()


def test_the_answer_leaves_out_the_token_that_ended_it(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer("ship 3 red lamps")["input_ids"]
    said = by_transformers(model, prompt, frozenset())
    assert said[3] not in said[:3]
    [text] = answer(model, tokenizer, ["ship 3 red lamps"], stop=frozenset({said[3]}), max_new_tokens=8)
    assert text == tokenizer.decode(said[:3], skip_special_tokens=True).strip()


def test_all_ends_stop_an_answer(model: Any, tokenizer: Any) -> None:
    assert end_of_turn_id(tokenizer) in stop_ids(model, tokenizer)
    ends = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [7, 9]
    try:
        assert stop_ids(model, tokenizer) == {7, 9, tokenizer.eos_token_id, end_of_turn_id(tokenizer)}
    finally:
        model.generation_config.eos_token_id = ends


def test_penalties_of_the_base_do_not_change_greedy_answers(model: Any, tokenizer: Any) -> None:
    prompt = order_rows(1)[0]
    before = answer(model, tokenizer, [prompt], max_new_tokens=NEW)
    model.generation_config.repetition_penalty = 5.0
    try:
        assert answer(model, tokenizer, [prompt], max_new_tokens=NEW) == before
    finally:
        model.generation_config.repetition_penalty = None


def test_generating_stops_on_request(model: Any, tokenizer: Any) -> None:
    asked = iter([False, True])
    with pytest.raises(JobError, match="stopped as asked"):
        answer(model, tokenizer, order_rows(20), max_new_tokens=2, batch_size=8, stopping=lambda: next(asked))


def test_common_prefix() -> None:
    rows = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7, 8], [1, 2, 3, 4, 5, 6, 9]]
    assert common_prefix(rows, 100) == 5
    assert common_prefix(rows, 4) == 4
    assert common_prefix(rows, 3) == 0, "too short to be worth it"
    assert common_prefix(rows[:1], 100) == 0
