"""Greedy answers: the same as transformers' own, whatever the batch, the padding or the shared start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from benchmarks.zoo import build
from tests.hf.tiny_adapter import order_rows
from workbench.hf.generate import answer, decoded, greedy, stop_ids
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
    assert greedy(model, prompts, max_new_tokens=NEW, stop=stop) == wanted
    shared = common_prefix(prompts, 512)
    assert shared > 5
    prefix = Prefix.compute(model, prompts[0][:shared])
    rest = [p[shared:] for p in prompts]
    assert greedy(model, rest, max_new_tokens=NEW, stop=stop, prefix=prefix) == wanted


def test_rows_that_are_no_conversation_are_asked_as_they_stand(model: Any, tokenizer: Any) -> None:
    [plain] = answer(model, tokenizer, [{"prompt": "ship 3 red lamps", "completion": " to Cairo"}], max_new_tokens=8)
    ids = tokenizer("ship 3 red lamps")["input_ids"]
    assert plain == tokenizer.decode(by_transformers(model, ids, stop_ids(model, tokenizer))[:8], skip_special_tokens=True).strip()


def test_the_answer_leaves_out_the_token_that_ended_it(model: Any, tokenizer: Any) -> None:
    prompt = tokenizer("ship 3 red lamps")["input_ids"]
    said = by_transformers(model, prompt, frozenset())
    assert said[3] not in said[:3]
    stop = frozenset({said[3]})
    [tokens] = greedy(model, [prompt], stop=stop, max_new_tokens=8)
    assert tokens == said[:4]
    assert decoded(tokenizer, tokens, stop) == tokenizer.decode(said[:3], skip_special_tokens=True).strip()


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


def test_common_prefix() -> None:
    rows = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7, 8], [1, 2, 3, 4, 5, 6, 9]]
    assert common_prefix(rows, 100) == 5
    assert common_prefix(rows, 4) == 4
    assert common_prefix(rows, 3) == 0, "too short to be worth it"
    assert common_prefix(rows[:1], 100) == 0


@pytest.mark.parametrize("window", [None, 16])
def test_an_answer_that_grows_past_the_switch_of_longrope_is_the_one_given_alone(tmp_path: Path, window: int | None) -> None:
    """Phi-3 turns all tokens by other angles beyond 48; transformers reads the whole text anew there. With a window, rows cannot leave."""
    folder = build("phi-3-longrope", tmp_path / "base")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": window}), encoding="utf-8")
    model, tokenizer = load_base(folder, dtype=torch.float32), load_tokenizer(folder)
    text = tokenizer("the quick brown fox jumps over the lazy dog and ships three red lamps to Cairo by Friday")["input_ids"]
    prompts = [text[:n] for n in (9, 20, 31, 38, 44, 47)] + [(text * 2)[:50]]
    wanted = [by_transformers(model, prompt, frozenset()) for prompt in prompts]
    assert greedy(model, prompts, max_new_tokens=NEW, stop=frozenset()) == wanted
    prefix = Prefix.compute(model, text[:8])
    assert greedy(model, [p[8:] for p in prompts], max_new_tokens=NEW, stop=frozenset(), prefix=prefix) == wanted
    stop = frozenset(token for said in wanted[:2] for token in said[2:6])
    assert greedy(model, prompts, max_new_tokens=NEW, stop=stop) == [by_transformers(model, prompt, stop) for prompt in prompts]
