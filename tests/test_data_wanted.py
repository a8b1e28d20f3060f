"""What a file itself says about its rows - parts, weights, marks of good and bad - is followed, asked about, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_data import pairs, read_rows, write
from workbench.data.rows import answer_of
from workbench.data.store import Datasets
from workbench.errors import DataError, UsageError


def parted(column: str, **parts: int) -> list[dict[str, Any]]:
    """Rows of the given parts, mixed; a part's rows say so in `column` ("" for nothing)."""
    names = [name for name, n in parts.items() for _ in range(n)]
    rows = [{**row, column: name.replace("_", "-")} for row, name in zip(pairs(len(names)), names, strict=True)]
    return rows[::2] + rows[1::2]


def sides(name: str) -> dict[str, set[str]]:
    """train and test -> the answers there."""
    return {side: {answer_of(row) for row in Datasets().rows(name, side)} for side in ("train", "test")}


def answers(rows: list[dict[str, Any]], column: str, *values: str) -> set[str]:
    return {row["completion"] for row in rows if row[column] in values}


@pytest.mark.parametrize(
    ("column", "parts", "train", "test", "words"),
    [
        ("split", {"train": 60, "validation": 20, "test": 20}, ["train"], ["test"], "20 rows left out: it is a validation row"),
        ("Split", {"Train": 60, "Test": 20}, ["Train"], ["Test"], ""),
        ("set", {"training": 60, "dev": 20}, ["training"], ["dev"], "validation rows are the test part"),
        ("partition", {"TRAIN": 60, "held_out": 20}, ["TRAIN"], ["held-out"], ""),
        ("subset", {"train": 60, "Valid": 7, "eval": 5, "holdout": 20}, ["train"], ["holdout"], "12 rows left out"),
    ],
)
def test_rows_of_another_part_are_never_trained_on(
    column: str, parts: dict[str, int], train: list[str], test: list[str], words: str, tmp_path: Path
) -> None:
    rows = parted(column, **parts)
    added = Datasets().add(write(tmp_path / "rows.jsonl", rows))
    assert sides("rows") == {"train": answers(rows, column, *train), "test": answers(rows, column, *test)}
    assert words in json.dumps(Datasets().report("rows")) and words in (added.path / "README.md").read_text() + json.dumps(
        Datasets().report("rows")["warnings"]
    )


def test_a_column_of_parts_is_not_offered_as_the_answer(tmp_path: Path) -> None:
    rows = [
        {"frage": f"{row['prompt']} bitte", "antwort": row["completion"], "Split": row["Split"]}
        for row in parted("Split", Train=60, TEST=20)
    ]
    found = Datasets().recognise(file := write(tmp_path / "rows.jsonl", rows))
    assert found.question and found.mapping == {"question": "frage", "answer": "antwort"}
    Datasets().add(file, mapping=found.mapping)
    assert sides("rows")["test"] == {row["antwort"] for row in rows if row["Split"] == "TEST"}


def test_unknown_parts_and_a_file_of_test_rows_are_asked_about(tmp_path: Path) -> None:
    mixed = write(tmp_path / "mixed.jsonl", [*parted("split", train=50, test=20, extra=10), {**pairs(90)[-1], "split": None}])
    with pytest.raises(DataError, match=r"(?s)11 problems.*says 'extra', which is neither.*--drop split.*--column split=none") as caught:
        Datasets().add(mixed)
    assert "row 81: 'split' says nothing" in str(caught.value)
    added = Datasets().add(mixed, drop=["split"])
    assert (added.train_rows, added.test_rows, Datasets().report("mixed")["dropped"]) == (50, 20, {"split": 11})
    assert Datasets().add(mixed, name="own", mapping={"split": "none"}).rows == 81

    only = write(tmp_path / "only.jsonl", parted("split", test=60, validation=5))
    with pytest.raises(DataError, match=r"65 rows as test rows and none as training rows.*--column split=none"):
        Datasets().add(only)
    found = Datasets().recognise(only)
    assert found.format is None and found.mapping == {"split": "none"}
    assert Datasets().add(only, mapping=found.mapping).rows == 65


def test_parts_of_two_files_and_of_one_part_only(tmp_path: Path) -> None:
    rows = parted("split", train=60, test=20)
    both, train = write(tmp_path / "both.jsonl", rows), write(tmp_path / "train.jsonl", parted("split", train=30))
    added = Datasets().add(both, name="two", test_file=both)
    assert (added.train_rows, added.test_rows) == (60, 20)
    assert sides("two")["train"] == answers(rows, "split", "train")
    alone = Datasets().add(train)
    assert (alone.rows, alone.test_rows) == (30, 3)
    assert any("marks every row as a training row" in note for note in Datasets().report("train")["notes"])
    for asked in ({"test_rows": 5}, {"test_share": 0.2}):
        with pytest.raises(UsageError, match="--column split=none"):
            Datasets().add(both, **asked)
    with pytest.raises(UsageError, match="Leave out --test-share"):
        Datasets().add(both, test_file=both, test_share=0.2)


def test_a_column_that_is_no_split_is_not_taken_for_one(tmp_path: Path) -> None:
    rows = [{**row, "subset": ("maths", "code")[i % 2], "set": i} for i, row in enumerate(pairs(40))]
    assert Datasets().add(write(tmp_path / "rows.jsonl", rows)).rows == 40


# ---------------------------------------------------------------- weights and marks


def test_rows_and_turns_of_weight_zero_are_not_learned(tmp_path: Path) -> None:
    def turns(**flags: Any) -> list[dict[str, Any]]:
        said = [("user", "Q1"), ("assistant", "bad"), ("user", "Q2"), ("assistant", "good"), ("user", "Q3"), ("assistant", "worse")]
        out: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in said]
        out[1].update(flags)
        out[5].update(flags)
        return out

    for flag in ({"weight": 0}, {"train": False}, {"training": False}, {"weight": "0"}, {"loss": 0.0}, {"loss_weight": 0}):
        row = read_rows(write(tmp_path / "rows.jsonl", [{"messages": turns(**flag)}])).rows[0]
        assert [(m["content"], m.get("train")) for m in row["messages"]] == [("Q1", None), ("bad", False), ("Q2", None), ("good", None)]
        assert answer_of(row) == "good"
    assert all("train" not in m for m in read_rows(write(tmp_path / "rows.jsonl", [{"messages": turns(weight=1)}])).rows[0]["messages"])
    half = read_rows(write(tmp_path / "rows.jsonl", [{"messages": turns(weight=0.5)}])).report.problems
    assert [(f.kind, f.row) for f in half] == [("weight", 1)] and "message 2 has the weight '0.5'" in half[0].message

    rows = [{**row, "loss_weight": float(i % 4 > 0)} for i, row in enumerate(pairs(40))]
    added = Datasets().add(
        write(tmp_path / "weighted.jsonl", [*rows, {"prompt": "odd", "completion": "x", "loss_weight": 2}]), drop=["weight"]
    )
    report = Datasets().report("weighted")
    assert (added.rows, report["counts"]["left_out"], report["dropped"]) == (30, 10, {"weight": 1})
    kilos = [{**row, "weight": 3.5 * i} for i, row in enumerate(pairs(40))]
    assert Datasets().add(write(tmp_path / "kilos.jsonl", kilos)).rows == 40  # the weight of a parcel is none of ours


MARKED = [
    ("label", [True, False], "label"),
    ("label", [1, 0], "label"),
    ("kto_tag", [True, False], "kto_tag"),
    ("label", ["True", "False"], "label"),
    ("score", [5, 1], "score>=3"),
    ("rating", ["4.5", "0.5"], "rating>=2.5"),
]


@pytest.mark.parametrize(("column", "values", "keep"), MARKED, ids=[f"{row[0]}-{row[1][0]}" for row in MARKED])
def test_bad_answers_are_learned_only_as_told(column: str, values: list[Any], keep: str, tmp_path: Path) -> None:
    rows = [{**row, column: values[i % 4 == 0]} for i, row in enumerate(pairs(40))]
    file = write(tmp_path / "rows.jsonl", rows)
    found = Datasets().recognise(file)
    assert found.question is not None and f"'{column}'" in found.question and found.mapping == {"keep": keep}
    with pytest.raises(DataError, match="--column keep="):
        Datasets().add(file)
    added = Datasets().add(file, mapping=found.mapping)
    assert sides("rows")["train"] | sides("rows")["test"] == {row["completion"] for row in rows if row[column] == values[0]}
    assert added.rows == 30 and Datasets().report("rows")["counts"]["left_out"] == 10
    assert Datasets().add(file, name="all", mapping={"keep": "all"}).rows == 40


SOME = [("weight", None), ("train", None), ("loss_weight", None), ("weight", ""), ("weight", "absent")]


@pytest.mark.parametrize(("column", "nothing"), SOME)
def test_a_weight_that_only_some_rows_have_is_followed(column: str, nothing: Any, tmp_path: Path) -> None:
    rows = [{**row, column: False if i < 3 else nothing} for i, row in enumerate(pairs(400))]
    rows = [{key: value for key, value in row.items() if value != "absent"} for row in rows]
    found = read_rows(write(tmp_path / "rows.jsonl", rows))
    assert len(found.rows) == 397 and found.report.counts == {"left_out": 3}


@pytest.mark.parametrize("nothing", [None, "", "absent"])
def test_marks_that_only_some_rows_have_are_asked_about(nothing: Any, tmp_path: Path) -> None:
    for column, values, kept in (("label", (False, nothing, nothing), 8), ("score", (1, 5, nothing), 4)):
        rows = [{**row, column: values[i % 3]} for i, row in enumerate(pairs(12))]
        file = write(tmp_path / f"{column}.jsonl", [{k: v for k, v in row.items() if v != "absent"} for row in rows])
        found = Datasets().recognise(file)
        assert found.question is not None and f"'{column}'" in found.question
        assert Datasets().add(file, mapping=found.mapping).rows == kept


def test_preferences_are_counted_and_a_label_that_is_the_answer_is_no_mark(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do {i}", "input": f"thing {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(12)]
    file = write(tmp_path / "rows.jsonl", rows)
    found = Datasets().recognise(file)
    assert found.question is not None and "chosen" in found.question
    Datasets().add(file, mapping=found.mapping)
    assert Datasets().report("rows")["counts"]["lost"] == 12 and "thing 3" in (Datasets().get("rows").path / "data.jsonl").read_text()
    labels = write(tmp_path / "labels.jsonl", [{"text": row["prompt"], "label": i % 2} for i, row in enumerate(pairs(20))])
    assert Datasets().add(labels).rows == 20
    with pytest.raises(UsageError, match="keep=score>=4"):
        Datasets().add(labels, name="other", mapping={"keep": "nothing"})


# ---------------------------------------------------------------- what is lost is said


def test_every_reason_to_leave_rows_out_is_said_however_many_they_are(tmp_path: Path) -> None:
    rows = [{**row, "split": ("train", "validation", "test")[i % 3], "loss_weight": i % 2} for i, row in enumerate(pairs(6000))]
    report = Datasets().check_file(write(tmp_path / "rows.jsonl", rows))
    assert [f.message for f in report.warnings if f.kind == "left_out"] == [
        "3,000 rows left out: 'loss_weight' is 0.",
        "1,000 rows left out: it is a validation row, by 'split'.",
    ]


def test_what_is_not_learned_from_is_a_warning_with_its_rows(tmp_path: Path) -> None:
    parts = [{"type": "text", "value": "What is "}, {"type": "text", "value": "<image> this?"}]
    said = {"from": "gpt", "value": "A lamp.", "reasoning_content": "It glows."}
    rows = [{"conversations": [{"from": "human", "content": parts}, said], "images": ["a.png"]} for _ in range(3)]
    report = Datasets().check_file(write(tmp_path / "rows.jsonl", rows))
    assert report.counts["lost"] == 9 and report.ok
    words = "\n".join(f.message for f in report.warnings)
    for expected in ("3 rows of: the key 'reasoning_content'", "holds <image>", "its column 'images'"):
        assert expected in words
    assert read_rows(tmp_path / "rows.jsonl").rows[0]["messages"][0]["content"] == "What is <image> this?"
