"""What the trainer sees of a row: tokens, what is learned of it, and what cutting takes away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_base import TEMPLATE
from workbench.errors import DataError, UsageError
from workbench.hf.load import PLAIN_TEMPLATE, load_tokenizer
from workbench.hf.render import IGNORED, Rendered, end_of_turn_id, prompt_text, render

TURNS = [
    {"role": "system", "content": "Code the order."},
    {"role": "user", "content": "3 lamps to Cairo"},
    {"role": "assistant", "content": "LM 3 CA"},
    {"role": "user", "content": "and a fox"},
    {"role": "assistant", "content": "FX 1"},
]
# as Qwen3 does: what the assistant thought is shown in its last turn only, so an earlier turn is not a beginning of the whole
FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ 'hm; ' }}{% endif %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_PROMPT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
WITH_TOOLS = TEMPLATE.replace(
    "+ message['content'] +",
    "+ message['content'] + (message['tool_calls'] | map(attribute='function') | list | tojson if message['tool_calls'] else '') +",
)


@pytest.fixture
def tokenizer(pico_base: Path) -> Any:
    return load_tokenizer(pico_base)


def learned(tokenizer: Any, one: Rendered) -> str:
    return str(tokenizer.decode([label for label in one.labels if label != IGNORED]))


def test_only_the_answers_and_their_ends_are_learned(tokenizer: Any) -> None:
    one = render(tokenizer, {"messages": TURNS}, max_length=1000)
    assert learned(tokenizer, one) == "LM 3 CA<|im_end|>FX 1<|im_end|>"
    assert one.input_ids == tokenizer.apply_chat_template(TURNS, return_dict=False)
    assert tokenizer.decode(one.input_ids[one.answer_start :]) == "FX 1<|im_end|>\n"
    assert not one.length.cut and not one.length.answer_lost and one.length.total == len(one.input_ids)
    assert [text for text, kind in one.spans if kind == "prompt"]
    assert "".join(text for text, _ in one.spans) == tokenizer.apply_chat_template(TURNS, tokenize=False)


def test_all_but_the_first_token_is_learned_when_asked(tokenizer: Any) -> None:
    one = render(tokenizer, {"messages": TURNS}, max_length=1000, assistant_only=False)
    assert one.labels == [IGNORED, *one.input_ids[1:]]


@pytest.mark.parametrize("template", [TEMPLATE, FORGETFUL, NO_PROMPT])
def test_a_turn_marked_as_not_learned_is_shown_and_not_learned(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    marked = [*TURNS[:2], {**TURNS[2], "train": False}, *TURNS[3:]]
    one, plain = (render(tokenizer, {"messages": turns}, max_length=1000) for turns in (marked, TURNS))
    assert one.input_ids == plain.input_ids and "LM 3 CA" in learned(tokenizer, plain)
    assert learned(tokenizer, one).endswith("FX 1<|im_end|>") and "LM" not in learned(tokenizer, one)
    whole = render(tokenizer, {"messages": marked}, max_length=1000, assistant_only=False)
    assert "LM" not in learned(tokenizer, whole) and "3 lamps to Cairo" in learned(tokenizer, whole)


def test_a_turn_that_is_not_to_be_trained_is_context_and_the_template_never_sees_the_mark(tokenizer: Any) -> None:
    turns = [*TURNS[:2], {**TURNS[2], "train": False}, *TURNS[3:]]
    one = render(tokenizer, {"messages": turns}, max_length=1000)
    assert (
        learned(tokenizer, one) == "FX 1<|im_end|>" and one.input_ids == render(tokenizer, {"messages": TURNS}, max_length=1000).input_ids
    )
    assert "LM 3 CA" not in learned(tokenizer, render(tokenizer, {"messages": turns}, max_length=1000, assistant_only=False))
    tokenizer.chat_template = TEMPLATE.replace("message['content'] +", "message['content'] + (message | tojson) +")
    assert "train" not in tokenizer.decode(render(tokenizer, {"messages": turns}, max_length=1000).input_ids)
    with pytest.raises(DataError, match="nothing to learn"):
        render(tokenizer, {"messages": turns[:3]}, max_length=1000)


def test_an_indent_is_learned_and_a_template_that_drops_it_is_noticed(tokenizer: Any) -> None:
    row = {"messages": [TURNS[1], {"role": "assistant", "content": "    return 0"}]}
    one = render(tokenizer, row, max_length=99)
    assert learned(tokenizer, one) == "    return 0<|im_end|>" and not one.length.altered
    tokenizer.chat_template = TEMPLATE.replace("message['content'] +", "(message['content'] | trim) +")
    assert render(tokenizer, row, max_length=99).length.altered


def test_an_answer_counts_as_ended_when_its_own_end_token_is_kept(tokenizer: Any) -> None:
    whole = render(tokenizer, {"messages": TURNS[:3]}, max_length=1000, assistant_only=False)
    end = whole.length.total - 1  # the line break after the end-of-turn token
    assert whole.length.ends and render(tokenizer, {"messages": TURNS[:3]}, max_length=end, assistant_only=False).length.ends
    short = render(tokenizer, {"messages": TURNS[:3]}, max_length=end - 1, assistant_only=False)
    assert not short.length.ends and tokenizer.eos_token_id in short.labels, "the system turn ends with the same token"


def test_tools_are_shown_or_said_to_be_lost(tokenizer: Any) -> None:
    row = {"messages": TURNS, "tools": [{"type": "function", "function": {"name": "price_of"}}]}
    assert render(tokenizer, row, max_length=999).length.tools_lost
    tokenizer.chat_template = "{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE
    assert not render(tokenizer, row, max_length=999).length.tools_lost


def test_it_agrees_with_a_template_that_marks_its_generations(tokenizer: Any) -> None:
    ours = render(tokenizer, {"messages": TURNS}, max_length=1000)
    marked = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
        "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}"
        "{{ '\n' }}{% endfor %}"
    )
    theirs = tokenizer.apply_chat_template(TURNS, chat_template=marked, return_dict=True, return_assistant_tokens_mask=True)
    assert ours.input_ids == theirs["input_ids"]
    assert [int(label != IGNORED) for label in ours.labels] == theirs["assistant_masks"]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (FORGETFUL, "LM 3 CA<|im_end|>hm; FX 1<|im_end|>"),
        (NO_PROMPT, "LM 3 CA<|im_end|>FX 1<|im_end|>"),
        (PLAIN_TEMPLATE, "LM 3 CA<|im_end|>FX 1<|im_end|>"),
    ],
)
def test_other_templates(tokenizer: Any, template: str, wanted: str) -> None:
    tokenizer.chat_template = template
    assert learned(tokenizer, render(tokenizer, {"messages": TURNS}, max_length=1000)) == wanted
    assert tokenizer.convert_ids_to_tokens(end_of_turn_id(tokenizer)) == "<|im_end|>"


def test_raw_prompt_and_completion_end_with_the_end_of_text(tokenizer: Any) -> None:
    row = {"prompt": "Q: a\nA:", "completion": " b"}
    assert learned(tokenizer, render(tokenizer, row, max_length=99)) == " b<|im_end|>"
    assert learned(tokenizer, render(tokenizer, row, max_length=99, completion_only=False)) == ": a\nA: b<|im_end|>"
    assert prompt_text(tokenizer, row) == "Q: a\nA:"
    assert learned(tokenizer, render(tokenizer, {"text": "the quick"}, max_length=99)).endswith("quick<|im_end|>")
    assert learned(tokenizer, render(tokenizer, {"text": "the quick<|im_end|>"}, max_length=99)).count("<|im_end|>") == 1


def test_the_prompt_is_what_comes_before_the_last_answer(tokenizer: Any) -> None:
    assert prompt_text(tokenizer, {"messages": TURNS}).endswith("and a fox<|im_end|>\n<|im_start|>assistant\n")


def test_cutting_is_counted(tokenizer: Any) -> None:
    whole = render(tokenizer, {"messages": TURNS}, max_length=1000)
    some = render(tokenizer, {"messages": TURNS}, max_length=whole.answer_start + 1)
    assert some.length.cut and not some.length.answer_lost and len(some.input_ids) == len(some.labels) == whole.answer_start + 1
    assert some.length.total == whole.length.total and some.spans[-1] == (whole._text[some._offsets[whole.answer_start][1] :], "cut")
    none = render(tokenizer, {"messages": TURNS}, max_length=whole.answer_start)
    row = none.length
    assert (row.total, row.cut, row.answer_lost) == (whole.length.total, True, True)
    assert row.supervised == sum(label != IGNORED for label in none.labels)


def test_tool_calls_are_shown_or_refused_never_lost(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "price_of", "arguments": {"item": "lamp"}}}
    row = {"messages": [TURNS[1], {"role": "assistant", "content": None, "tool_calls": [call]}]}
    with pytest.raises(DataError, match="no place for tool calls.*price_of"):
        render(tokenizer, row, max_length=99)
    tokenizer.chat_template = WITH_TOOLS
    assert "price_of" in learned(tokenizer, render(tokenizer, row, max_length=999))


def test_a_template_that_refuses_says_so(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match="roles must alternate"):
        render(tokenizer, {"messages": TURNS}, max_length=99)
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(DataError, match="no assistant turn"):
        render(tokenizer, {"messages": TURNS[:2]}, max_length=99)


@settings(max_examples=60, deadline=None)
@given(question=st.text(max_size=30), answer=st.text(min_size=1, max_size=30))
def test_any_text_is_learned_exactly(pico: Any, question: str, answer: str) -> None:
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    one = render(pico, row, max_length=10_000)
    assert "".join(text for text, _ in one.spans) == pico.apply_chat_template(row["messages"], tokenize=False)
    if not any(token in question + answer for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")):
        assert learned(pico, one) == answer + "<|im_end|>"


@pytest.fixture(scope="module")
def pico(pico_base: Path) -> Any:
    return load_tokenizer(pico_base)


def test_a_folder_without_a_tokenizer_is_refused(pico_base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((pico_base / "config.json").read_text())
    with pytest.raises(UsageError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
