"""What the engine says reaches a page in the reader's words: the tables have every sentence, and find it again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from benchmarks.sentences import lacking, table, unknown
from tests.test_data import read_rows
from workbench import Workbench
from workbench.errors import DataError, RecipeError, WorkbenchError
from workbench.recipe import resolve
from workbench.sentences import Sentences, sentences
from workbench.words import LANGUAGES, words

ZH = sentences("zh")
ENGLISH = re.compile(r"(?<!workbench )\b(?!workbench )[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}\b")  # three words in a row, but for commands


@pytest.mark.slow
@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_sentence_has_an_entry(lang: str) -> None:
    told = "".join(f"\n  {place}: {json.dumps(text, ensure_ascii=False)}" for text, place in lacking()[lang].items())
    assert not told, f"workbench/strings/said.{lang}.json lacks (python -m benchmarks.sentences):{told}"


@pytest.mark.slow
@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_entry_has_its_sentence(lang: str) -> None:
    assert unknown()[lang] == set(), "gone from the code"


def fields(text: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(text) if field is not None]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_entry_finds_its_sentence_and_keeps_its_values(lang: str) -> None:
    """With values that are nothing but themselves: no other entry may take the sentence, and no value may be lost."""
    say, wrong = sentences(lang), {}
    for text, said in table(lang).items():
        order = fields(said)
        kept = set(range(len(fields(text)))) if "" in order else set(map(int, order))
        values = [f"⟨{i}⟩" if i in kept else "s" for i in range(len(fields(text)))]
        expected = re.sub("(?<=[\u3002\uff0c\uff1a\uff1b\uff1f\uff01]) +", "", said.format(*values))
        if (got := say(text.format(*values))) != expected:
            wrong[text] = got
    assert wrong == {}


def test_chinese_is_chinese_with_its_own_punctuation() -> None:
    plain = {said: re.sub(r"\{\d*\}|[\w.]+: |`[^`]*`", "", said) for said in table("zh").values()}
    other = {said for said, left in plain.items() if re.search(r"[A-Za-z]{3} ", left) and not re.search(r"[\u4e00-\u9fff]", left)}
    assert {said for said in other if " < " not in said} == set()  # but for a formula
    assert {said for said in plain if re.search(r"[\u4e00-\u9fff][,:;?!]|[,;?!][\u4e00-\u9fff]", said)} == set()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_hints_name_buttons_that_exist(lang: str) -> None:
    labels = set(words(lang).table.values())
    named = {label for said in table(lang).values() for label in re.findall("“([^”{}]+)”", said)}
    assert named - labels == set()


def test_the_reading_that_accounts_for_most_is_taken() -> None:
    say = Sentences(
        {
            "{} cannot be read: {}.": "读不了 {}:{}。",
            "Fetch the model again.": "再取一次。",
            "It crashed {} times; the last time: {}": "崩溃 {} 次;最后:{}",
            "{} problem{}:": "{0} 个问题:",
            "row {}: {}": "第 {} 行:{}",
            "the text is empty.": "空。",
        }
    )
    names = "No job named 'x'. You have: a, b."
    assert ZH(names) == "没有任务“x”。现有\uff1aa, b。"
    stored = "It crashed 3 times; the last time: config.json cannot be read: bad. Fetch the model again."
    assert say(stored) == "崩溃 3 次;最后:读不了 config.json:bad。再取一次。"
    assert say("2 problems:\n  - row 3: the text is empty.\n  - row 4: odd\n") == "2 个问题:\n  - 第 3 行:空。\n  - 第 4 行:odd\n"
    assert say("Nobody wrote this down. At all.") == "Nobody wrote this down. At all." and say("") == ""


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(WorkbenchError) as caught:
        call()
    return str(caught.value)


def test_what_people_meet_is_said_in_chinese_and_names_no_command_that_has_a_button(tmp_path: Path) -> None:
    bench = Workbench()
    calls = [
        lambda: bench.jobs.get("zz"),
        lambda: bench.adapters.get("none@1"),
        lambda: bench.adapters.get("Not!"),
        lambda: bench.bases.get("smollm2-135m-instruct@1"),
        lambda: bench.bases.get("x@1"),
        lambda: bench.datasets.get("nope"),
        lambda: bench.fetch("unheard-of@1"),
        lambda: bench.train({"base": "x@1", "dataset": "nope"}),
        lambda: bench.rebase.get("a@1", "x@1"),
        lambda: bench.datasets.add(str(tmp_path / "gone.csv")),
    ]
    for call in calls:
        said = ZH(refused(call))
        assert not ENGLISH.search(said) and re.search("[\u4e00-\u9fff]", said), said
        assert not re.search(r"workbench (adapter list|jobs list|data list|base add smollm2)", said + sentences("en")(refused(call)))


def test_all_problems_of_a_recipe_and_of_a_file_are_said_in_chinese(tmp_path: Path) -> None:
    given = {"base": "x@1", "dataset": "d", "lora_r": "many", "learning_rate": -1, "max_steps": 0, "lora_alfa": 3, "method": "magic"}
    with pytest.raises(RecipeError) as caught:
        resolve(given)
    said = ZH(str(caught.value))
    assert said.count("\n  - ") == len(caught.value.problems) > 3 and not ENGLISH.search(said), said

    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "", "completion": "a"}\n{"prompt": "q"}\nnot json\n[1]\n{"prompt": "q\\u0000", "completion": "a"}\n')
    found = read_rows(file)
    for finding in found.report.problems:
        assert not ENGLISH.search(ZH(str(finding))) and ZH(str(finding)).startswith("第 "), finding
    for note in found.report.notes:
        assert not ENGLISH.search(ZH(note)), note
    (tmp_path / "pair.csv").write_text("colour,shape\nred,round\nblue,square\ngreen,flat\n")
    question = Workbench().datasets.recognise(tmp_path / "pair.csv").question
    assert question and not ENGLISH.search(ZH(question)), ZH(question)
    with pytest.raises(DataError) as refusal:
        Workbench().datasets.add(str(file), name="rows")
    assert not ENGLISH.search(ZH(str(refusal.value))), ZH(str(refusal.value))
