"""Formats, checks, the frozen test part, scorers and the store, on small files written here."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.data import checks, json_file
from workbench.data.checks import RowLength, add_lengths, check, sound_rows
from workbench.data.formats import recognise
from workbench.data.prepare import Prepared, Reading, add_file
from workbench.data.rows import answer_of, assign_ids, question_of
from workbench.data.scorers import SCORERS, score
from workbench.data.similar import Likeness, normalise
from workbench.data.split import split_rows
from workbench.data.store import Datasets
from workbench.data.text_file import Text
from workbench.errors import Conflict, DataError, IntegrityError, NotFound, UsageError, WorkbenchError

REPO = Path(__file__).resolve().parent.parent
REAL = REPO.parent / "shared" / "data"  # real files of other projects, where this machine has them


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(file: Path, **reading: Any) -> Prepared:
    """One file as canonical rows, which are in memory here."""
    prepared = Prepared([])
    add_file(file, Reading(**reading), prepared)
    return prepared


def talk(question: str, answer: str, **extra: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"form": "messages", "messages": turns, **extra}


def pairs(n: int) -> list[dict[str, str]]:
    """n questions that have little in common."""
    words = "amber birch cedar dune ember fjord grove heath inlet jetty knoll ledge marsh north oasis plain quarry ridge".split()
    out = []
    for i in range(n):
        picked = " ".join(words[(i * k + k) % len(words)] for k in (3, 5, 7, 11))
        out.append({"prompt": f"{picked} number {i}?", "completion": f"answer {i} of {words[i % 18]}"})
    return out


# ---------------------------------------------------------------- formats

TOOL = {"name": "weather", "description": "Look up the weather", "parameters": {"type": "object", "properties": {}}}
CALLED = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Lima"}}}
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "Weather in Lima?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Lima"}}'},
        {"from": "observation", "value": '{"sky": "grey"}'},
        {"from": "gpt", "value": "Grey."},
    ],
    "tools": json.dumps([TOOL]),
    "system": "Be brief.",
}
# format found, raw row, question and answer of the canonical row
RAW: list[tuple[str, dict[str, Any], str, str]] = [
    ("messages", {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "id": 7}, "Q", "A"),
    ("messages", {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'}, "Q", "A"),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, {"role": "assistant", "content": "A"}]},
        "Q",
        "A",
    ),
    ("prompt_completion", {"prompt": "Q", "completion": " A"}, "Q", "A"),
    ("prompt_completion", {"prompt": [{"role": "user", "content": "Q"}], "completion": [{"role": "assistant", "content": "A"}]}, "Q", "A"),
    ("alpaca", {"instruction": "Do", "input": "this", "output": "A", "text": "### Do this: A"}, "Do\nthis", "A"),
    ("alpaca", {"instruction": "Q", "input": "", "output": "A", "history": [["q0", "a0"]]}, "q0\na0\nQ", "A"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "Q", "A"),
    ("columns", {"question": "Q", "answer": "A", "url": "x"}, "Q", "A"),
    ("columns", {"context": "C", "question": "Q", "answer": "A"}, "C\n\nQ", "A"),
    ("columns", {"text": "Q", "label": 3}, "Q", "3"),
    ("columns", {"Question": "Q", "Answer": {"b": 1, "a": True}}, "Q", '{"b": 1, "a": true}'),
    ("text", {"text": "A", "url": "x"}, "", "A"),
]


@pytest.mark.parametrize(("format", "row", "question", "answer"), RAW, ids=[f"{i}-{row[0]}" for i, row in enumerate(RAW)])
def test_each_format_is_recognised_and_means_the_same(format: str, row: dict[str, Any], question: str, answer: str, tmp_path: Path) -> None:
    as_list = tmp_path / "rows.json"
    as_list.write_text(json.dumps({"data": [row]}, indent=1))
    for file in (write(tmp_path / "rows.jsonl", [row]), as_list):
        parsed = read_rows(file)
        assert (recognise(file).format, parsed.report.problems) == (format, [])
        assert (question_of(parsed.rows[0]), answer_of(parsed.rows[0])) == (question, answer)


def test_tool_calls_are_kept_the_way_chat_templates_want_them(tmp_path: Path) -> None:
    openai = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather in Lima?"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Lima"}'}}]},
            {"role": "tool", "content": '{"sky": "grey"}'},
            {"role": "assistant", "content": "Grey."},
        ],
        "tools": [{"type": "function", "function": TOOL}],
    }  # fmt: skip
    first, second = (read_rows(write(tmp_path / f"{i}.jsonl", [row])).rows[0] for i, row in enumerate((SHAREGPT, openai)))
    assert first == second
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert first["messages"][2] == {"role": "assistant", "content": "", "tool_calls": [CALLED]}
    assert first["tools"] == [{"type": "function", "function": TOOL}]
    report = check([first])
    assert report.ok and report.tool_rows == 1
    mixed = write(tmp_path / "mixed.jsonl", [SHAREGPT, {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}])
    without = Datasets().check_file(mixed, drop=["tool_use"])
    assert (without.rows, without.tool_rows, without.dropped) == (1, 0, {"tool_use": 1})


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_csv_of_any_separator_line_end_and_encoding(delimiter: str, encoding: str, tmp_path: Path) -> None:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([["text", "category"], ["Où est; ma, carte | là?", "card"], ['A "new"\nline', "other"], ["", ""], ["last", "card"]])
    file = tmp_path / "rows.csv"
    file.write_bytes(out.getvalue().encode(encoding))
    parsed = read_rows(file)
    assert [question_of(row) for row in parsed.rows] == ["Où est; ma, carte | là?", 'A "new"\nline', "last"]
    assert [row["line"] for row in parsed.rows] == [2, 3, 6]  # the third record spans lines 3 and 4; line 5 is blank
    assert any("Windows-1252" in note for note in parsed.report.notes) == (encoding == "cp1252")


def test_a_question_in_words_is_answered_by_flags(tmp_path: Path) -> None:
    file = tmp_path / "mail.csv"
    rows = [[f"2024-01-{i:02}", f"My parcel number {i} has not come, where is it?", ("late", "lost")[i % 2]] for i in range(1, 21)]
    file.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in [["when", "body", "team"], *rows]))
    found = recognise(file)
    assert found.format is None and found.question is not None
    assert found.question.startswith("Question = column B 'body' (text") and "Answer = column C 'team' (label" in found.question
    assert found.flags == "--question body --answer team"
    for mapping in ({"question": "body", "answer": "team"}, {"question": "B", "answer": "c"}, {"prompt": "body", "completion": "team"}):
        row = read_rows(file, mapping=mapping).rows[0]
        assert (question_of(row), answer_of(row)) == ("My parcel number 1 has not come, where is it?", "lost")


def test_raw_rows_system_messages_and_side_columns(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "Q:", "completion": " A", "hint": "Say A."}])
    assert read_rows(file, raw=True).rows == [{"form": "prompt_completion", "prompt": "Q:", "completion": " A", "line": 1}]
    assert read_rows(file, system="Be brief.").rows[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    own = read_rows(file, system="Be brief.", mapping={"system": "hint"})
    assert own.rows[0]["messages"][0]["content"] == "Say A." and any("own system message was kept" in note for note in own.report.notes)


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": "A", "name": None}]} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet").rows == read_rows(write(tmp_path / "rows.jsonl", rows)).rows


def test_plain_text_is_lines_or_blocks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("one\nmore\n\n\ntwo\n")
    assert [r["text"] for r in read_rows(tmp_path / "a.txt").rows] == ["one", "two"]
    blocks = read_rows(tmp_path / "b.txt")
    assert [(r["text"], r["line"]) for r in blocks.rows] == [("one\nmore", 1), ("two", 5)]


def test_an_answer_keeps_its_indent_and_a_prompt_made_of_turns_is_context(tmp_path: Path) -> None:
    code = "    return 0\n"
    for row in ({"prompt": " body? ", "completion": code}, {"instruction": "body?", "output": code}, {"question": "body?", "answer": code}):
        parsed = read_rows(write(tmp_path / "rows.jsonl", [row]))
        assert (question_of(parsed.rows[0]), answer_of(parsed.rows[0])) == ("body?", code)
        assert "white space around an answer was kept" in parsed.report.notes
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    [row] = read_rows(write(tmp_path / "turns.jsonl", [{"prompt": turns, "completion": [{"role": "assistant", "content": "d"}]}])).rows
    assert [m.get("train") for m in row["messages"]] == [None, False, None, None]


_TEXT = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufdd0"), min_size=1, max_size=30)
    .map(str.strip)
    .filter(bool)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=8))
def test_any_text_survives_jsonl_and_csv(rows: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        one = write(Path(folder) / "a.jsonl", [{"prompt": q, "completion": a} for q, a in rows])
        two = Path(folder) / "a.csv"
        with two.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("prompt", "completion"), *rows])
        for file in (one, two):
            assert [(question_of(r), answer_of(r)) for r in read_rows(file).rows] == rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.recursive(st.none() | st.floats(-9, 99) | st.text("a],[ 1é🙂"), st.lists, max_leaves=6)),
    window=st.integers(1, 9),
    junk=st.text("],x 1", max_size=2),
)
def test_a_json_list_read_through_a_small_window_is_the_same(
    values: list[Any], window: int, junk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_file, "_WINDOW", window)
    text = json.dumps(values, indent=1, ensure_ascii=False) + junk
    found: list[Any] = []
    for read in (lambda: json_file.loads(text), lambda: list(json_file._values(Text(text.encode(), "utf-8-sig")))):
        try:
            found.append(read())
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]


# ---------------------------------------------------------------- checks


def test_the_check_names_every_row_at_fault() -> None:
    rows = [
        talk("Where is my card and when will it come?", "Soon."),
        talk("Where is my card and when will it come?", "Soon."),
        talk("where is my card, and when will it come", "soon"),
        talk("Where is my card and when will it come?", "Never."),
        talk("one two three four five six seven eight nine ten eleven", "x"),
        talk("one two three four five six seven eight nine ten twelve", "y"),
        talk("Is this fine?", " "),
        {"form": "messages", "messages": [{"role": "assistant", "content": "hello"}]},
        talk("What does <|im_end|> mean?", "The end."),
        talk("Was f\ufffdr ein Zeichen?", "Keins."),
    ]
    report = check([{**row, "line": 10 * i} for i, row in enumerate(rows)])
    assert [(f.kind, f.row) for f in report.problems] == [("empty", 60), ("roles", 70)]
    assert sorted((f.kind, f.row) for f in report.warnings) == [
        ("conflict", 30), ("duplicate", 10), ("duplicate", 20), ("garbled", 90), ("markers", 80), ("near_duplicate", 50),
    ]  # fmt: skip
    assert "row 10: is the same as row 0." in str(report)
    assert json.loads(json.dumps(report.as_dict()))["counts"]["duplicate"] == 2


def test_lengths_are_judged_by_the_measure_and_only_for_sound_rows() -> None:
    asked: list[int] = []

    def measure(rows: Any) -> list[RowLength]:
        asked.append(len(rows))
        return [RowLength(8, 4, False, False), RowLength(90, 3, True, False), RowLength(90, 0, True, True), RowLength(7, 0, False, False)]

    rows = [talk("", "empty question"), *(talk(f"question {i}", f"answer {i}") for i in range(4))]
    report = check(rows)
    add_lengths(report, sound_rows(rows, report), measure)
    assert asked == [4]
    assert [(f.kind, f.row) for f in report.problems] == [("empty", 1), ("answer_lost", 4), ("no_supervised", 5)]
    assert [(f.kind, f.row) for f in report.warnings] == [("cut", 3)]
    assert report.tokens is not None
    assert (report.tokens["sum"], report.tokens["supervised"], report.tokens["cut"], report.tokens["max"]) == (195, 7, 2, 90)
    assert sum(report.tokens["counts"]) == 4 and report.tokens["edges"][-1] > 90


def test_class_balance_of_short_answers() -> None:
    rows = [talk(f"question number {i} of many", "rare" if i == 7 else ("yes", "no")[i % 2]) for i in range(60)]
    report = check(rows)
    assert report.answers is not None and report.answers["counts"] == {"yes": 30, "no": 29, "rare": 1}
    assert [f.kind for f in report.warnings] == ["imbalance"] and "'rare' (1)" in report.warnings[0].message
    assert check([talk(f"question {i}", f"a sentence of its own, number {i}") for i in range(60)]).answers is None


def test_likeness_ignores_dress_and_shared_instructions_but_not_content() -> None:
    assert normalise("  Where’s MY card?! ") == normalise("where’s my CARD")
    assert normalise("3 + 4") != normalise("3 - 4")
    intro = "You are a careful clerk. Read the order below and answer with the code and nothing else but the code. Order: "
    different = [normalise(intro + row["prompt"]) for row in pairs(60)]
    assert len(set(Likeness(different).near)) == 60  # a long common instruction does not make rows alike
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    assert Likeness([long, long.replace("z", "zz"), long.replace("m", "mm").replace("g", "gg"), "", ""]).near == [0, 0, 2, 3, 4]


def test_few_words_make_no_more_comparisons_than_many() -> None:
    rng = random.Random(1)
    words = "amber birch cedar dune ember fjord grove heath inlet jetty knoll ledge marsh north oasis plain".split()
    texts = [" ".join(rng.choices(words, k=95)) for _ in range(4000)]
    began = time.process_time()
    assert Likeness([*texts, texts[7].replace("amber", "quarry", 1)]).near == [*range(4000), 7]
    assert time.process_time() - began < 4  # 9 when each row met all that share a rare shingle with it


# ---------------------------------------------------------------- the frozen test part


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 200), st.randoms(use_true_random=False), st.sampled_from([0.1, 0.3]))
def test_the_test_part_depends_on_content_only(n: int, rng: Any, share: float) -> None:
    rows = [talk(row["prompt"], row["completion"]) for row in pairs(n)]
    rows += [talk(rows[i]["messages"][0]["content"].upper(), "said twice") for i in range(0, n, 5)]
    shuffled = rows[:]
    rng.shuffle(shuffled)
    sides = split_rows(rows, share=share).sides
    again = split_rows(shuffled, share=share).sides
    where = {id(row): side for row, side in zip(rows, sides, strict=True)}
    assert [where[id(row)] for row in shuffled] == again
    groups = check(rows).likeness.near
    assert all(sides[i] == sides[g] for i, g in enumerate(groups))
    assert sides.count("test") >= (20 if len(rows) >= 100 else 1) and "train" in sides


def in_test(rows: list[Any], **wish: Any) -> int:
    return split_rows(rows, **wish).sides.count("test")


def test_how_many_test_rows() -> None:
    rows = [talk(row["prompt"], row["completion"]) for row in pairs(1200)]
    assert in_test(rows) == 120
    assert in_test(rows[:150]) == 20
    assert in_test(rows[:30]) == 3
    assert in_test(rows, test_rows=400) == 400
    assert in_test(rows, test_rows=0) == in_test(rows, share=0.0) == in_test(rows[:1]) == 0
    with pytest.raises(UsageError, match="nothing to train on"):
        split_rows(rows[:1], test_rows=1)
    before = {id(r) for r, side in zip(rows, split_rows(rows[:1000]).sides, strict=False) if side == "test"}
    after = {id(r) for r, side in zip(rows, split_rows(rows).sides, strict=True) if side == "test"}
    assert len(before & after) >= 0.75 * len(before)  # adding 200 rows leaves most test rows test rows


def test_rows_that_are_all_alike_are_split_with_a_note() -> None:
    rows = [talk("a b c d e f g h i j k l m n o p q r s t u v w x y " + str(i), "x") for i in range(10)]
    split = split_rows(rows, test_rows=3)
    assert split.sides.count("test") == 3 and "near-duplicates" in split.note
    same = split_rows([talk("the very same question", str(i)) for i in range(10)], test_rows=3)
    assert same.sides.count("test") == 0 and "repeat each other" in same.note


# ---------------------------------------------------------------- scorers

SCORES: list[tuple[str, str, str, bool]] = [
    ("exact", "LM R3 OS F", " LM R3 OS F\n", True),
    ("exact", "LM R3 OS F", "lm r3 os f", False),
    ("normalised", "It's late.", "it s LATE", True),
    ("normalised", "-5", "5", False),
    ("normalised", "card_arrival", "Card arrival", True),
    ("json", '{"a": 1, "b": [true]}', '```json\n{"b": [true], "a": 1.0}\n```', True),
    ("json", '{"a": 1}', '{"a": true}', False),
    ("json", '{"a": 1}', '{"a": "1"}', False),
    ("json", '{"a": 1}', "a: 1", False),
    ("json", '{"a": 1}', "[" * 100_000, False),
    ("numeric", "1,250.5", "The total is 1250.50 euros", True),
    ("numeric", "12.5%", "0.125", True),
    ("numeric", "3", "3 or maybe 4", False),
    ("numeric", "3", "none", False),
    ("numeric:0.5", "3", "3.4", True),
    ("numeric:0", "3", "3.0000001", False),
    ("label", "card_arrival", "\ncard_arrival\nbecause it has not come", True),
    ("label", "card_arrival", "card arrival", True),
    ("label", "card_arrival", "It is card_arrival", False),
]


@pytest.mark.parametrize(("scorer", "expected", "answer", "right"), SCORES)
def test_scorers(scorer: str, expected: str, answer: str, right: bool) -> None:
    assert score(scorer, expected, answer) is right


def test_every_scorer_accepts_its_own_answer_and_never_raises() -> None:
    for scorer in SCORERS:
        for text in ("LM R3", '{"a": [1, null]}', "-3.5e2", "", "é\nzwei", "{", "1" * 5000, "9" * 400 + ".0"):
            assert score(scorer, text, text), (scorer, text[:20])
            score(scorer, text, "NaN 1e999 {")


@given(st.text("aB-1 .\n{}", max_size=9), st.text("aB-1 .\n{}", max_size=9))
def test_what_a_rule_lets_an_evaluation_leave_out_changes_no_score(expected: str, answer: str) -> None:
    """Rows without the very tokens are not generated for a verbatim rule, and nothing behind the first line for others."""
    for name, rule in SCORERS.items():
        if rule.verbatim:
            assert score(name, expected, answer) == (expected.strip() == answer.strip())
        if rule.first_line and answer.strip():
            assert score(name, expected, f"{answer}\nand more") == score(name, expected, answer)
    assert {name for name, rule in SCORERS.items() if rule.verbatim or rule.first_line} == {"exact", "label"}


# ---------------------------------------------------------------- the store


def test_add_read_report_remove(home: Path, tmp_path: Path) -> None:
    store = Datasets()
    added = store.add(write(tmp_path / "My Rows (v2).jsonl", pairs(120)), system="Be brief.", scorer="exact")
    assert (added.name, added.rows, added.train_rows, added.test_rows, added.form, added.scorer) == (
        "my-rows-v2",
        120,
        100,
        20,
        "messages",
        "exact",
    )
    assert store.get("my-rows-v2") == added and added in store.list()
    train, test = store.rows("my-rows-v2", "train"), store.rows("my-rows-v2", "test")
    assert len(train) == 100 and not {r["id"] for r in train} & {r["id"] for r in test}
    assert all(row["messages"][0] == {"role": "system", "content": "Be brief."} for row in train)
    assert store.report("my-rows-v2")["ok"] and "prompt and completion" in store.report("my-rows-v2")["notes"][0]
    with pytest.raises(Conflict, match="--name"):
        store.add(tmp_path / "My Rows (v2).jsonl")
    gone = store.remove("my-rows-v2")
    assert gone.parent == home / "datasets" / ".trash" and (gone / "data.jsonl").is_file()
    with pytest.raises(NotFound, match="You have: order-codes"):
        store.get("my-rows-v2")


def test_bad_rows_are_left_out_only_as_told_and_counted(tmp_path: Path) -> None:
    rows: list[Any] = [*pairs(40), {"prompt": "x", "completion": ""}, pairs(1)[0], {"prompt": "y"}]
    file = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError, match=r"(?s)2 problems.*row 41.*row 43.*--drop broken --drop empty"):
        Datasets().add(file)
    added = Datasets().add(file, drop=["broken", "empty", "duplicate"])
    assert added.rows == 40 and Datasets().report("rows")["dropped"] == {"broken": 1, "empty": 1, "duplicate": 1}
    assert "left out: 1 rows (duplicate)" in (added.path / "README.md").read_text()


def test_a_file_of_labels_gets_the_label_scorer_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "bank.csv"
    file.write_text("text,category\n" + "".join(f"{row['prompt']},{('top_up', 'lost_card')[i % 2]}\n" for i, row in enumerate(pairs(61))))
    assert Datasets().add(file).scorer == "label"
    assert Datasets().add(file, name="b", scorer="none").scorer is None
    assert list(Datasets().report("bank")["answers"]["counts"]) == ["top_up", "lost_card"]  # commonest first, as stored too
    assert Datasets().check_file(file).answers == {"different": 2, "counts": {"lost_card": 30, "top_up": 31}}


def test_a_test_file_and_a_file_that_knows_its_split(tmp_path: Path) -> None:
    rows = pairs(80)
    train, test = write(tmp_path / "train.jsonl", rows[:50]), write(tmp_path / "test.jsonl", [rows[3], *rows[50:]])
    added = Datasets().add(train, name="both", test_file=test, test_rows=10, drop=["overlap"])
    report = Datasets().report("both")
    assert added.test_rows == 10 and added.rows == 60 - report["dropped"].get("overlap", 0)
    assert any("21 rows of the test file were left out" in note for note in report["notes"])
    again = Datasets().add(added.path / "data.jsonl", name="again")
    assert again.sha256 == added.sha256  # canonical in, canonical out, split kept


def test_a_changed_or_damaged_dataset_is_noticed(home: Path, tmp_path: Path) -> None:
    store = Datasets()
    store.add(write(tmp_path / "rows.jsonl", pairs(20)))
    data = home / "datasets" / "rows" / "data.jsonl"
    data.write_text(data.read_text().replace("answer 3", "answer 4"))
    with pytest.raises(IntegrityError, match="changed after it was added"):
        store.rows("rows")
    (home / "datasets" / "rows" / "dataset.json").write_text("{")
    (home / "datasets" / "stray").mkdir()
    assert set(store.broken()) == {"rows", "stray"} and {d.name for d in store.list()} == {"order-codes", "plain-replies"}
    with pytest.raises(IntegrityError, match="damaged"):
        store.get("rows")
    store.remove("rows")


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_crash_while_adding_leaves_nothing(call: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(20))

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WorkbenchError, match="The disk of .* is full"):
        Datasets().add(file)
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_HOME", str(home))
    assert list((home / "datasets").rglob("*")) == [home / "datasets" / ".staging"]
    assert Datasets().add(file).rows == 20


def test_ids_follow_content() -> None:
    rows = [talk("a", "b"), talk("a", "b"), talk("c", "d")]
    ids = [row["id"] for row in assign_ids(rows)]
    assert ids[1] == ids[0] + "-2" and [row["id"] for row in assign_ids(rows[::-1])] == [ids[2], ids[0], ids[1]]


# ---------------------------------------------------------------- the examples that ship


@pytest.mark.slow
def test_the_examples_are_whole_and_made_by_their_script(tmp_path: Path) -> None:
    subprocess.run([sys.executable, REPO / "benchmarks" / "make_datasets.py", tmp_path], check=True, timeout=60)
    for name, rows, tests in (("order-codes", 1200, 400), ("plain-replies", 300, 60)):
        found = Datasets().get(name)
        assert (found.bundled, found.rows, found.test_rows) == (True, rows, tests)
        for file in ("data.jsonl", "dataset.json", "README.md"):
            assert (tmp_path / name / file).read_bytes() == (found.path / file).read_bytes(), (
                f"{name}/{file}: run benchmarks/make_datasets.py"
            )
        with pytest.raises(Conflict, match="cannot be removed"):
            Datasets().remove(name)
    orders = Datasets().rows("order-codes")
    assert len({answer_of(row) for row in orders}) == 1200  # no test code was ever seen in training
    assert checks.check(orders).as_dict()["counts"] == {}


if REAL.is_dir():

    @pytest.mark.slow
    def test_real_files_of_other_projects() -> None:
        store = Datasets()
        bank = store.add(REAL / "banking77-train.csv", test_file=REAL / "banking77-test.csv", test_rows=400, drop=["overlap"])
        assert (bank.rows, bank.test_rows, bank.scorer) == (10_402, 400, "label")
        alpaca = store.add(REAL / "llamafactory-alpaca_en_demo.json")
        assert (alpaca.rows, alpaca.form) == (999, "messages")
        store.add(REAL / "llamafactory-glaive_toolcall_en_demo.json", name="tools")
        assert store.report("tools")["tool_rows"] == 191
        calls = sum(bool(m.get("tool_calls")) for row in store.rows("tools") for m in row["messages"])
        assert calls == 211  # every function_call of the file
        assert read_rows(REAL / "llamafactory-wiki_demo.txt").rows[0]["form"] == "text"
        assert store.add(REAL / "llamafactory-c4_demo.jsonl", name="web").rows == 300
