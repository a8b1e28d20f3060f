"""Broken and hostile data files: each gets one clear error that says what to do, and leaves nothing on disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_data import read_rows
from workbench import Workbench, paths
from workbench.data.checks import LISTED
from workbench.data.formats import recognise
from workbench.data.store import Datasets
from workbench.errors import Conflict, DataError, NotFound, UsageError, WorkbenchError
from workbench.foreign import Limits

GOOD = [{"prompt": f"Say {i} in words, please.", "completion": f"word {i}"} for i in range(30)]


def lines(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def chat(*turns: tuple[str, Any], **extra: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **extra}


def call(arguments: Any, name: str = "find") -> dict[str, Any]:
    turn = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    return {"messages": [{"role": "user", "content": "find it"}, turn]}


def row_of(prompt: str) -> str:
    """A line of JSON whose prompt is written as it stands."""
    return '{"prompt": ' + prompt + ', "completion": "x"}'


def zipped(member: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(member, "x")
    return out.getvalue()


def parquet(table: Any, cut: int | None = None, **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), out, **options)
    return out.getvalue()[:cut]


def odd_parquet(what: str) -> bytes:
    """Columns of types and values that have no plain form in Python."""
    import pyarrow as pa

    answers = pa.array(["x", "y"])
    far = pa.array([2**60, 0], pa.int64()).view(pa.timestamp("us"))
    torn = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
    questions = {"far": far, "torn": torn, "nan": pa.array([float("nan"), 1.5])}
    questions["bytes"] = pa.array([{"a": b"x"}, {"a": b"y"}])
    if what == "twice":
        return parquet(pa.Table.from_arrays([answers, answers, answers], ["prompt", "prompt", "completion"]))
    if what == "deep":
        column = pa.array(["x"])
        for _ in range(300):
            column = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), column)
        return parquet(pa.Table.from_arrays([pa.concat_arrays([column] * 2), answers], ["prompt", "completion"]))
    return parquet(pa.Table.from_arrays([questions[what], answers], ["prompt", "completion"]))


DEEP = "[" * 100_000 + "]" * 100_000
NESTED: Any = {"leaf": 1}
for _ in range(200):
    NESTED = {"in": NESTED}

# name, file name, content, words the error must hold
FILES: list[tuple[str, str, bytes | Callable[[], bytes], list[str]]] = [
    ("empty file", "a.jsonl", b"", ["a.jsonl is empty"]),
    ("only blank lines", "a.jsonl", b"\n \n\n", ["is empty"]),
    ("only a byte order mark", "a.csv", b"\xef\xbb\xbf", ["is empty"]),
    ("empty list", "a.json", b"[]", ["no row"]),
    ("unknown kind", "a.docx2", b"hello there", ["no known kind", "JSONL"]),
    ("zip archive", "a.zip", zipped("rows.jsonl"), ["ZIP archive", "Unpack"]),
    ("excel workbook", "a.xlsx", zipped("xl/workbook.xml"), ["Excel workbook", "CSV"]),
    ("zip called csv", "a.csv", zipped("rows.csv"), ["ZIP archive"]),
    ("gzip", "a.jsonl", gzip.compress(b'{"text": "hello"}'), ["gzip", "gunzip"]),
    ("pdf", "a.csv", b"%PDF-1.7 \x00", ["PDF"]),
    ("sqlite", "a.jsonl", b"SQLite format 3\x00", ["SQLite"]),
    ("pickle", "a.json", pickle.dumps([{"text": "x"}], protocol=4), ["pickle", "never opened"]),
    ("binary noise", "a.csv", bytes(range(256)), ["zero bytes"]),
    ("utf-16 without mark", "a.csv", "question,answer\na,b".encode("utf-16-le"), ["zero bytes", "UTF-8"]),
    ("half a utf-16 file", "a.csv", b"\xff\xfeq", ["UTF-16"]),
    ("latin-1 jsonl", "a.jsonl", '{"text": "a"}\n{"text": "café"}'.encode("latin-1"), ["not UTF-8", "line 2", "0xE9"]),
    ("japanese csv in shift-jis", "a.csv", "質問,回答\nこれは何ですか,本です".encode("shift-jis"), ["not UTF-8"]),
    ("truncated json", "a.json", json.dumps(GOOD)[:-20].encode(), ["not valid JSON", "column"]),
    ("json with a comment", "a.json", b'[\n// rows\n{"text": "a"}]', ["not valid JSON", "line 2"]),
    ("one object, not rows", "a.json", b'{"name": "x", "version": 1}\n', ["Learn 'name'", "plain text?"]),
    ("object over many lines", "a.json", b'{\n "name": "x",\n "n": 1\n}', ["one JSON object", "'name'"]),
    ("list of strings", "a.json", b'["a", "b"]', ["no row", "text, not an object"]),
    ("lists as lines", "a.jsonl", b'["a", "b"]\n["c", "d"]\n', ["holds a list in each line"]),
    ("depth bomb", "a.json", DEEP.encode(), ["nested too deeply"]),
    ("depth bomb in a line", "a.jsonl", lines(GOOD[0], row_of(DEEP)), ["row 2", "nested too deeply"]),
    ("number bomb", "a.jsonl", lines(GOOD[0], row_of("9" * 10_000)), ["row 2"]),
    ("nan", "a.jsonl", lines(GOOD[0], '{"prompt": "x", "completion": NaN}'), ["row 2", "NaN"]),
    ("escape codes in a key", "a.jsonl", lines(GOOD[0], '{"\\u001b[2J": 1, "\\u001b[2J": 2}'), ["row 2", "twice"]),
    ("key twice", "a.jsonl", lines(GOOD[0], '{"prompt": "x", "prompt": "y", "completion": "z"}'), ["row 2", "'prompt' twice"]),
    ("broken line", "a.jsonl", lines(GOOD[0], GOOD[1], '{"prompt": "x"', GOOD[2]), ["row 3", "not JSON", "--drop broken"]),
    ("two objects in a line", "a.jsonl", lines(GOOD[0], json.dumps(GOOD[1]) + json.dumps(GOOD[2])), ["row 2", "Extra data"]),
    ("a row that is a list", "a.jsonl", lines(GOOD[0], "[1, 2]"), ["row 2", "a list"]),
    ("a row without its answer", "a.jsonl", lines(*GOOD, {"prompt": "x"}), ["row 31", "has no 'completion'"]),
    ("answer is null", "a.jsonl", lines(*GOOD, {"prompt": "x", "completion": None}), ["row 31", "empty", "--drop empty"]),
    ("answer is blank", "a.jsonl", lines(*GOOD, {"prompt": "x", "completion": " \n\t"}), ["row 31", "answer", "empty"]),
    ("question is blank", "a.jsonl", lines(*GOOD, {"prompt": "", "completion": "x"}), ["row 31", "question", "empty"]),
    ("empty text", "a.jsonl", lines({"text": "a"}, {"text": ""}), ["row 2", "empty"]),
    ("text is a number", "a.jsonl", lines({"text": "a"}, {"text": 3}), ["row 2", "not text"]),
    ("half a surrogate pair", "a.jsonl", lines(GOOD[0], '{"prompt": "x \\ud83d", "completion": "y"}'), ["row 2", "U+D83D"]),
    ("zero character", "a.jsonl", lines(GOOD[0], '{"prompt": "x\\u0000", "completion": "y"}'), ["row 2", "U+0000"]),
    ("escape codes in a column name", "a.jsonl", lines({**GOOD[0], "\x1b[2J": "x"}), ["cannot be a name"]),
    ("surrogate in a column name", "a.jsonl", lines({**GOOD[0], "\ud800": "x"}), ["cannot be a name"]),
    ("surrogate in a tool argument", "a.jsonl", lines(call({"q": "\ud800"})), ["row 1", "U+D800"]),
    ("endless column name", "a.jsonl", lines({**GOOD[0], "x" * 10_000: "x"}), ["cannot be a name"]),
    ("conversation is a string", "a.jsonl", lines(chat(("user", "a"), ("assistant", "b")), {"messages": "hi"}), ["row 2", "not a list"]),
    ("conversation is empty", "a.jsonl", lines(chat(("user", "a"), ("assistant", "b")), {"messages": []}), ["row 2", "no messages"]),
    ("message is a string", "a.jsonl", lines({"messages": ["hi", "there"]}), ["row 1", "message 1"]),
    ("message without role", "a.jsonl", lines({"messages": [{"content": "hi"}]}), ["row 1", "no role"]),
    ("escape codes in a role", "a.jsonl", lines(chat(("\x1b[2J", "a"), ("assistant", "b"))), ["row 1", "the role"]),
    ("unknown role", "a.jsonl", lines(chat(("narrator", "a"), ("assistant", "b"))), ["row 1", "'narrator'"]),
    ("role is a number", "a.jsonl", lines(chat((7, "a"), ("assistant", "b"))), ["row 1", "no role"]),  # type: ignore[arg-type]
    ("content is a number", "a.jsonl", lines(chat(("user", 7), ("assistant", "b"))), ["row 1", "content of message 1"]),
    ("content is a picture", "a.jsonl", lines(chat(("user", [{"type": "image_url", "image_url": {}}]), ("assistant", "b"))), ["picture"]),
    ("starts with assistant", "a.jsonl", lines(chat(("assistant", "a"), ("user", "b"), ("assistant", "c"))), ["starts with assistant"]),
    ("ends with user", "a.jsonl", lines(chat(("user", "a"), ("assistant", "b"), ("user", "c"))), ["last message is from user"]),
    ("user twice", "a.jsonl", lines(chat(("user", "a"), ("user", "b"), ("assistant", "c"))), ["message 2 is user after user"]),
    ("system in the middle", "a.jsonl", lines(chat(("user", "a"), ("system", "b"), ("assistant", "c"))), ["message 2 is a system"]),
    ("no assistant", "a.jsonl", lines(chat(("user", "a"))), ["no assistant message", "--drop roles"]),
    ("tool result without call", "a.jsonl", lines(chat(("user", "a"), ("assistant", "b"), ("tool", "c"), ("assistant", "d"))), ["no tool"]),
    ("tool call is not json", "a.jsonl", lines({"conversations": [
        {"from": "human", "value": "a"}, {"from": "function_call", "value": "find(it)"}]}), ["message 2", "not JSON", "--drop tools"]),
    ("tool call without name", "a.jsonl", lines(call({}, name="")), ["names no tool"]),
    ("tool arguments are a list", "a.jsonl", lines(call([1])), ["not an object"]),
    ("tool arguments are broken json", "a.jsonl", lines(call('{"a":')), ["arguments of 'find'", "not JSON"]),
    ("tool arguments nested deep", "a.jsonl", lines(call(NESTED)), ["nested too deeply"]),
    ("tools are not json", "a.jsonl", lines(chat(("user", "a"), ("assistant", "b"), tools="find it")), ["list of tools is not JSON"]),
    ("tool without name", "a.jsonl", lines(chat(("user", "a"), ("assistant", "b"), tools=[{"description": "x"}])), ["has no name"]),
    ("calls a tool it does not have", "a.jsonl", lines({**call({}), "tools": [{"name": "sort"}]}), ["'find'", "not among its tools"]),
    ("history is flat", "a.jsonl", lines({"instruction": "a", "output": "b", "history": ["x", "y"]}), ["history"]),
    ("csv: only names", "a.csv", b"question,answer\n", ["column names but no rows"]),
    ("csv: quote never closed", "a.csv", b'question,answer\n"a,b\nc,d\n', ["from line 2 on", "never closed"]),
    ("csv: stray quote", "a.csv", b'question,answer\na,b\n"c"x,d\n', ["from line 3 on", "quotes"]),
    ("csv: too many cells", "a.csv", b"question,answer\na,b\nc,d,e\n", ["row 3", "3 cells", "2 columns"]),
    ("csv: a name twice", "a.csv", b"question,question,answer\na,b,c\n", ["two columns called 'question'"]),
    ("csv: unknown names", "a.csv", b"foo,bar\nwhat is this?,a thing\nand this?,a box\n", ["Question = column A 'foo'", "--question foo"]),
    ("csv: no names", "a.csv", b"What is this thing?,A lamp.\nAnd that one?,A desk.\n", ["column A", "--question A --answer B"]),
    ("csv: several answers", "a.csv", b"question,answer,response\na,b,c\n", ["Answer = column B 'answer'", "--answer answer"]),
    ("csv: only numbers", "a.jsonl", lines({"x": 1, "y": 2}), ["No column holds text", "x, y"]),
    ("one unknown column", "a.csv", b"notes\nfirst thing\nsecond thing\n", ["plain text?", "--column text=notes"]),
    ("preferences", "a.jsonl", lines({"prompt": "a", "chosen": "b", "rejected": "c"}), ["preferences", "--answer chosen"]),
    ("two formats at once", "a.jsonl", lines({**chat(("user", "a"), ("assistant", "b")), **GOOD[0]}), ["or prompt_completion", "--form"]),
    ("parquet: cut off", "a.parquet", lambda: parquet({"text": ["a", "b"]}, cut=40), ["damaged"]),
    ("parquet: only the name", "a.parquet", b"hello", ["not a Parquet file"]),
    ("parquet: no rows", "a.parquet", lambda: parquet({"text": []}), ["holds no rows"]),
    ("parquet: a name twice", "a.parquet", lambda: odd_parquet("twice"), ["two columns called 'prompt'"]),
    ("parquet: a date too far away", "a.parquet", lambda: odd_parquet("far"), ["row 1", "'prompt' holds a value that cannot be read"]),
    ("parquet: text that is not UTF-8", "a.parquet", lambda: odd_parquet("torn"), ["row 2", "'prompt' holds a value that cannot be read"]),
    ("parquet: NaN for a question", "a.parquet", lambda: odd_parquet("nan"), ["row 1", "prompt"]),
    ("parquet: bytes inside", "a.parquet", lambda: odd_parquet("bytes"), ["row 1", "'prompt' holds what cannot be written as JSON"]),
    ("parquet: lists in lists in lists", "a.parquet", lambda: odd_parquet("deep"), ["a.parquet"]),
    ("nan in a tool argument", "a.jsonl", lines(call('{"x": NaN}')), ["row 1", "arguments of 'find'", "not JSON"]),
    ("endless number in a tool argument", "a.jsonl", lines(json.dumps(call({"x": 7})).replace("7", "1e999")), ["row 1", "not finite"]),
    ("csv: a known name twice", "a.csv", b"Question,question,answer\na,b,c\n", ["two columns called 'question'"]),
    ("list with a comma too many", "a.json", b'[{"text": "a"},]', ["not valid JSON"]),
    ("text after the list", "a.json", b'[{"text": "a"}] and more', ["not valid JSON", "Extra data"]),
    ("parquet: bytes for text", "a.parquet", lambda: parquet({"prompt": [b"\xff"], "completion": ["x"]}), ["row 1", "bytes"]),
]  # fmt: skip


def snapshot(home: Path) -> list[str]:
    return sorted(str(path) for path in home.rglob("*") if path.name != ".staging" and path != home / "datasets")


def refused(home: Path, expected: type[WorkbenchError], words: list[str], add: Callable[[], Any]) -> None:
    """`add` raises one error of the kind, with the words and advice, and the home is as it was."""
    before = snapshot(home)
    with pytest.raises(expected) as caught:
        add()
    text = str(caught.value)
    assert caught.value.hint, f"no advice: {text}"
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"
    assert len(text) < 4000
    assert all(line.isprintable() for line in text.split("\n")), f"would garble a terminal: {text!r}"
    assert snapshot(home) == before


@pytest.mark.parametrize(("name", "file_name", "content", "words"), FILES, ids=[row[0] for row in FILES])
def test_a_bad_file_gets_one_clear_error(name: str, file_name: str, content: Any, words: list[str], home: Path, tmp_path: Path) -> None:
    file = tmp_path / file_name
    file.write_bytes(content() if callable(content) else content)
    refused(home, DataError, words, lambda: Datasets().add(file, name="set"))
    assert Datasets().broken() == {}


# name, what is asked for, error, words
WISHES: list[tuple[str, dict[str, Any], type[WorkbenchError], list[str]]] = [
    ("name goes up", {"name": "../evil"}, UsageError, ["cannot be a dataset name"]),
    ("name is absolute", {"name": "/tmp/evil"}, UsageError, ["cannot be a dataset name"]),
    ("name is hidden", {"name": ".trash"}, UsageError, ["cannot be a dataset name"]),
    ("name of an example", {"name": "order-codes"}, Conflict, ["already", "--name"]),
    ("unknown scorer", {"scorer": "vibes"}, UsageError, ["vibes", "exact"]),
    ("scorer with a bad tolerance", {"scorer": "numeric:-1"}, UsageError, ["tolerance"]),
    ("unknown kind to drop", {"drop": ["rude"]}, UsageError, ["rude", "empty"]),
    ("unknown form", {"form": "haiku"}, UsageError, ["haiku", "alpaca"]),
    ("a form it is not", {"form": "alpaca"}, DataError, ["not alpaca", "prompt"]),
    ("column that is not there", {"mapping": {"question": "ask", "answer": "completion"}}, UsageError, ["'ask'", "prompt, completion"]),
    ("role that is not there", {"mapping": {"poem": "prompt"}}, UsageError, ["'poem'", "question"]),
    ("share of everything", {"test_share": 1.0}, UsageError, ["share"]),
    ("more test rows than rows", {"test_rows": 30}, UsageError, ["nothing to train on"]),
    ("negative test rows", {"test_rows": -1}, UsageError, ["test rows"]),
    ("empty system message", {"system": " "}, UsageError, ["system message is empty"]),
    ("system message on raw rows", {"system": "Be brief.", "raw": True}, UsageError, ["system message"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wish", "error", "words"), WISHES, ids=[row[0] for row in WISHES])
def test_a_bad_wish_gets_one_clear_error(name: str, wish: dict[str, Any], error: Any, words: list[str], home: Path, tmp_path: Path) -> None:
    file = tmp_path / "good.jsonl"
    file.write_bytes(lines(*GOOD))
    refused(home, error, words, lambda: Datasets().add(file, **{"name": "set", **wish}))


def test_what_is_not_a_file_is_refused_and_never_waited_for(home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "endless.jsonl").symlink_to("/dev/zero")
    for path, words in [
        (tmp_path / "missing.jsonl", ["There is no file"]),
        (tmp_path, ["is a folder"]),
        (tmp_path / "pipe.jsonl", ["is no plain file"]),
        (tmp_path / "endless.jsonl", ["is no plain file"]),
        (Path("/dev/zero"), ["is no plain file"]),
        (tmp_path / "loop.jsonl", ["is a link"]),
        (tmp_path / "zero\0byte.jsonl", ["cannot be read"]),
    ]:
        refused(home, DataError, words, lambda path=path: Datasets().add(path, name="set"))
    with pytest.raises(DataError, match="is no plain file"):
        Workbench().check_data(tmp_path / "pipe.jsonl")


def test_a_test_file_must_fit(home: Path, tmp_path: Path) -> None:
    train, test, text = tmp_path / "train.jsonl", tmp_path / "test.jsonl", tmp_path / "text.jsonl"
    train.write_bytes(lines(*GOOD))
    test.write_bytes(lines(GOOD[4], {"prompt": "x", "completion": ""}))
    text.write_bytes(lines({"text": "a"}, {"text": "b"}))
    overlap = ["train.jsonl row 5", "also in the test part: test.jsonl row 1", "test.jsonl row 2", "--drop empty --drop overlap"]
    refused(home, DataError, overlap, lambda: Datasets().add(train, name="set", test_file=test))
    refused(home, UsageError, ["messages rows", "text rows"], lambda: Datasets().add(train, name="set", test_file=text))


def test_a_file_that_unpacks_to_gigabytes_costs_its_reader_only(home: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    file = tmp_path / "bomb.parquet"
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), ["a" * 8_000_000])
    file.write_bytes(parquet({"prompt": column, "completion": ["b"] * 300}, compression="zstd", store_schema=False))
    assert file.stat().st_size < 100_000  # and 2.4 GB in memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="bomb.parquet was given up: reading it takes more than 1.0 GB of memory"):
        Datasets().add(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
    assert snapshot(home) == []


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines(*GOOD * 2000))
    monkeypatch.setattr("workbench.data.store._limits", lambda *files: Limits("rows.jsonl", writes=100_000))
    with pytest.raises(DataError, match="cannot be written to the disk: File too large"):
        Datasets().add(file)
    assert not [path for path in tmp_path.rglob("*") if ".staging" in path.parts[:-1]]


def test_findings_are_capped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text("[" + "[]," * 5000 + ",".join(json.dumps({**row, "completion": ""}) for row in GOOD * 50) + "]")
    report = Datasets().check_file(file)
    assert report.counts["broken"] == 5000 and report.counts["empty"] == 1500 and report.blocking == 6500
    assert len(report.problems) == 2 * LISTED and len(json.dumps(report.as_dict())) < 500_000
    with pytest.raises(DataError, match="6,500 problems"):
        Datasets().add(file)


def test_a_file_has_only_so_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.data.table.MAX_ROWS", 100)
    file = tmp_path / "rows.json"
    file.write_text("[" + "[]," * 100 + "{}]")
    with pytest.raises(DataError, match="more than 100 rows"):
        recognise(file)


def test_the_hash_is_of_the_bytes_that_were_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(lines(*GOOD))
    opened: list[Any] = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and str(args[0]) == str(file) else None)
    assert read_rows(file).source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(opened) == 2  # once to read it, and once above


def test_an_unreadable_file_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        Datasets().check_file(tmp_path / "rows.jsonl")
    assert str(tmp_path) not in str(caught.value) and "permissions" not in str(caught.value)


def test_a_checkout_lends_its_examples_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(lines(*GOOD))
    checkout = tmp_path / "checkout"
    shutil.copytree(paths.bundled_datasets_dir(), checkout / "datasets")
    monkeypatch.setenv("WORKBENCH_HOME", str(checkout))
    monkeypatch.setattr(paths, "bundled_datasets_dir", lambda: checkout / "datasets")
    Datasets().add(file)
    assert [(d.name, d.bundled) for d in Datasets().list()] == [("mine", False), ("order-codes", True), ("plain-replies", True)]
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "other"))
    assert [d.name for d in Datasets().list()] == ["order-codes", "plain-replies"]
    with pytest.raises(NotFound):
        Datasets().get("mine")
