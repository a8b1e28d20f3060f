"""The command line as people use it, also wrongly; the whole of it runs through `workbench.cli.run`, no part replaced."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from counting import Count

from tests.folders import write_adapter
from tests.test_docs import json_page
from tests.tiny_base import make_tiny_base
from workbench import Workbench
from workbench.cli import run
from workbench.cli.follow import ProgressPrinter
from workbench.records import Progress


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def cli(*words: str | Path) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run([str(word) for word in words])
    return Done(status, out.getvalue(), err.getvalue())


def ok(*words: str | Path) -> Done:
    done = cli(*words)
    assert done.status == 0, done.err
    return done


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "Questions 2024.csv"
    lines = [f"what is {i} plus {i}?,{i + i}" for i in range(40)]
    file.write_text("question,answer\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return file


# ---------------------------------------------------------------- what people type wrongly

WRONG = [
    # words, exit status, what the answer must say
    ([], 2, "Start here"),
    (["bogus"], 2, "There are: demo, base, data, train"),
    (["traine"], 2, "Did you mean: workbench train?"),
    (["list"], 2, "workbench base list, or workbench data list"),
    (["logs"], 2, "workbench jobs logs"),
    (["import"], 2, "workbench adapter import"),
    (["jobs", "lst"], 2, "Did you mean: workbench jobs list?"),
    (["jobs", "start"], 2, "There are: list, show, logs"),
    (["jobs", "list", "--state", "done"], 2, "'failed_permanently'"),
    (["jobs", "list", "--limit", "0"], 2, "--limit"),
    (["jobs", "show"], 1, "There is no job yet."),
    (["jobs", "show", "nope"], 1, "workbench jobs list"),
    (["jobs", "cancel"], 2, "JOB"),
    (["jobs", "cancel", "nope"], 1, "workbench jobs list"),
    (["train", "--lr", "3"], 2, "Did you mean --learning_rate?"),
    (["train", "--epochs", "3"], 2, "Did you mean --num_train_epochs?"),
    (["train", "--model_name_or_path", "x"], 2, "Did you mean --base?"),
    (["train", "--learningrate", "3"], 2, "Did you mean --learning_rate?"),
    (["train", "--zzz"], 2, "workbench train --help"),
    (["train", "--lora_target_modules", "q_proj", "v_proj"], 2, "with commas"),
    (["train", "--packing", "true"], 2, "--no_packing"),
    (["train", "--config", "nothere.yaml"], 2, "does not exist"),
    (["train", "nothere.yaml"], 1, "cannot be read"),
    (["train"], 1, "dataset: must be given."),
    (["train", "--export", "axolotl"], 2, "'trl'"),
    (["train", "--export", "trl", "--detach"], 2, "stands alone: leave out"),
    (["train", "--base", "b@1", "--dataset", "order-codes", "--preset", "fast"], 1, "quick, standard, thorough"),
    (["train", "--base", "org/model", "--dataset", "order-codes"], 1, "workbench base add org/model"),
    (["train", "--base", "b@1", "--dataset", "order-codes"], 1, "No base named 'b@1'"),
    (["train", "--base", "smollm2-135m-instruct@1", "--dataset", "order-codes"], 1, "workbench base add smollm2-135m-instruct@1"),
    (["base", "add"], 2, "WHAT"),
    (["base", "add", "org/model"], 1, "workbench base add org/model --name model@1"),
    (["base", "add", "org/Some Model@main", "--source", "x", "--name", "a@1"], 1, "Leave one out."),
    (["base", "add", "nothing-like-this@1"], 1, "The catalogue offers"),
    (["base", "add", "/not/there", "--name", "a@1"], 1, "folder:PATH"),
    (["base", "show", "nothing"], 1, "family@version"),
    (["base", "show", "smollm2-135m-instruct@1"], 1, "workbench base add smollm2-135m-instruct@1"),
    (["base", "catalogue", "zzz"], 0, "Nothing in the catalogue matches 'zzz'."),
    (["data", "add", "nothere.csv"], 1, "There is no file nothere.csv."),
    (["data", "add"], 2, "FILE"),
    (["data", "check", "nothere.csv"], 1, "There is no file nothere.csv."),
    (["data", "check", "nothere"], 1, "workbench data list"),
    (["data", "check", "order-codes", "--raw"], 1, "was read already"),
    (["data", "check", "order-codes", "--column", "x"], 1, "role=column"),
    (["data", "check", "order-codes", "--form", "csv"], 2, "'prompt_completion'"),
    (["data", "show", "nothere"], 1, "You have: order-codes"),
    (["data", "remove", "order-codes"], 1, "ships with the workbench"),
    (["data", "preview", "order-codes"], 2, "--base"),
    (["adapter", "show", "nothere"], 1, "workbench adapter list"),
    (["adapter", "show", "no/name"], 1, "cannot be"),
    (["adapter", "export", "nothere", "out"], 1, "workbench adapter list"),
    (["adapter", "merge", "nothere", "out", "--dtype", "int3"], 2, "--dtype"),
    (["adapter", "import", "nothere"], 2, "--name"),
    (["help", "nope"], 2, "There are: demo"),
]


@pytest.mark.parametrize(("words", "status", "said"), WRONG, ids=[" ".join(w) or "(nothing)" for w, _, _ in WRONG])
def test_a_wrong_word_gets_one_helpful_answer(words: list[str], status: int, said: str, home: Path) -> None:
    done = cli(*words)
    text = " ".join((done.out + done.err).split())
    assert done.status == status, text
    assert said in text
    assert "Traceback" not in text
    assert not [p for p in home.rglob("*") if p.is_file() and "workbench.db" not in p.name], "a refused command leaves nothing behind"


@pytest.mark.parametrize("words", [["adapters", "ls"], ["models", "list"], ["datasets", "ls"], ["job", "list"]])
def test_the_words_of_other_tools_work_too(words: list[str]) -> None:
    assert ok(*words).out


def test_dashes_and_underscores_are_the_same() -> None:
    for option in ("--learning-rate", "--learning_rate"):
        assert "learning_rate: Input should be a valid number" in cli("train", "--base", "b@1", "--dataset", "d", option, "x").err


def test_all_problems_of_a_recipe_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("base: nonsense\nlearning_rat: 3\nlora_r: 0\nreport_to: [stdout]\n", encoding="utf-8")
    done = cli("train", file, "--method", "full")
    assert done.status == 1
    for text in (
        "base:",
        "dataset: must be given",
        "learning_rat: no such key. Did you mean learning_rate?",
        "lora_r:",
        "report_to",
        "method:",
    ):
        assert text in done.err


def test_version_help_and_short_help() -> None:
    assert re.fullmatch(r"workbench, version \d+\.\d+\.\d+\n", ok("--version").out)
    assert ok("-h").out == ok("--help").out == ok("help").out
    assert ok("help", "jobs", "list").out == ok("jobs", "list", "--help").out


# ---------------------------------------------------------------- data


def test_data_from_file_to_trash(questions: Path, home: Path) -> None:
    added = ok("data", "add", questions)
    assert "Added questions-2024: 36 rows to train on, 4 kept for the test." in added.out
    assert re.search(r"questions-2024 +36 +4 +messages", ok("data", "list").out)
    assert "question = 'question', answer = 'answer'" in ok("data", "show", "questions-2024").out
    again = cli("data", "add", questions)
    assert again.status == 1 and "--name" in again.err
    ok("data", "remove", "questions-2024")
    assert "questions-2024" not in ok("data", "list").out
    assert list((home / "datasets" / ".trash").iterdir())


def test_bad_rows_are_listed_and_left_out_only_as_told(tmp_path: Path, home: Path) -> None:
    file = tmp_path / "bad.jsonl"
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(30)]
    rows[3]["completion"] = " "
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    checked = cli("data", "check", file)
    assert checked.status == 1 and "row 4: the answer (message 2) is empty." in checked.out and "--drop empty" in checked.out
    refused = cli("data", "add", file)
    assert refused.status == 1 and "row 4" in refused.err and not (home / "datasets" / "bad").exists()
    assert "Left out as told: 1 empty." in ok("data", "add", file, "--drop", "empty,duplicate").out


def test_an_unclear_file_is_asked_about_in_words_and_flags_answer_it(tmp_path: Path) -> None:
    file = tmp_path / "odd.csv"
    file.write_text("left,right\n" + "".join(f"some longer text {i},{'yes' if i % 2 else 'no'}\n" for i in range(30)), encoding="utf-8")
    asked = cli("data", "add", file)
    assert asked.status == 1 and "Question = column A" in asked.err
    flags = asked.err.strip().splitlines()[-1].partition("add: ")[2].split()
    assert flags[::2] == ["--question", "--answer"]
    assert "scored by label" in ok("data", "add", file, *flags).out


def test_data_json_has_the_documented_keys(questions: Path) -> None:
    _, shapes = json_page()
    added = ok("data", "add", questions, "--json").json
    assert set(added["dataset"]) == shapes["dataset"] and set(added["report"]) == shapes["report"]
    assert ok("data", "show", "questions-2024", "--json").json == added
    listed = {d["name"]: d for d in ok("data", "list", "--json").json}
    assert listed["questions-2024"] == added["dataset"] and listed["order-codes"]["bundled"]
    assert set(ok("data", "check", questions, "--json").json) == shapes["report"]


# ---------------------------------------------------------------- about


def test_info_and_doctor_say_what_they_found(home: Path) -> None:
    _, shapes = json_page()
    facts = ok("info", "--json").json
    assert set(facts) == shapes["facts"] and facts["home"] == str(home)
    assert str(home) in ok("info").out
    checks = {check["name"]: check for check in ok("doctor", "--json").json}
    assert {"libraries", "home", "database", "datasets package"} <= set(checks)
    assert all(set(check) == shapes["diagnosis"] for check in checks.values())
    assert checks["home"]["state"] == checks["database"]["state"] == "ok"


def test_doctor_finds_a_broken_database_and_a_changed_dataset(home: Path, questions: Path) -> None:
    ok("data", "add", questions)
    rows = home / "datasets" / "questions-2024" / "data.jsonl"
    rows.write_text(rows.read_text().replace("plus", "minus", 1))
    (home / "workbench.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    done = cli("doctor", "--deep")
    assert done.status == 1
    assert re.search(r"broken +database", done.out) and re.search(r"broken +dataset questions-2024", done.out)
    assert "Traceback" not in done.out + done.err


def test_a_home_that_cannot_be_written_is_told_plainly(tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "file"))
    done = cli("data", "add", questions)
    assert done.status == 1 and "WORKBENCH_HOME" in done.err and "Traceback" not in done.err


# ---------------------------------------------------------------- jobs


@pytest.fixture
def no_dispatcher_left() -> Iterator[None]:
    yield
    from tests.dispatching import stop_dispatcher

    assert stop_dispatcher()


@pytest.mark.usefixtures("no_dispatcher_left")
@pytest.mark.slow
def test_jobs_from_submission_to_resumption(tmp_path: Path) -> None:
    """One that succeeds, one that fails, one that is let go of with Ctrl-C, cancelled and resumed."""
    _, shapes = json_page()
    jobs = Workbench().jobs
    good = jobs.submit(Count(name="count to three", steps=3))
    bad = jobs.submit(Count(name="fail at two", steps=3, at=2, then="fail"))
    long = jobs.submit(Count(name="count for long", steps=2000, seconds=0.05))

    done = ok("jobs", "follow", good.id)
    assert f"Job {good.id} succeeded" in done.out and "training" in done.err
    failed = cli("jobs", "follow", bad.id, "--json")
    assert failed.status == 1 and "It was told to fail." in failed.err and f"workbench jobs logs {bad.id}" in failed.err
    assert f"workbench jobs resume {bad.id}" in ok("jobs", "show", bad.id).out
    assert "TrainingError" in ok("jobs", "logs", bad.id, "--tail", "5").out

    interrupted = interrupt_when([sys.executable, "-m", "workbench", "jobs", "follow"], rb"training")  # the newest job
    assert interrupted.status == 130
    assert f"Let go of job {long.id}; it goes on." in interrupted.err and f"workbench jobs cancel {long.id}" in interrupted.err
    shown = ok("jobs", "show", "--json").json
    assert set(shown) == shapes["job"] and set(shown["attempts"][0]) == shapes["attempt"] and set(shown["progress"]) == shapes["progress"]
    assert shown["state"] == "running"
    assert re.search(rf"{long.id} +running +\d+/2000 +", ok("jobs", "list").out)

    assert "was asked to stop" in ok("jobs", "cancel", long.id).out
    cancelled = cli("jobs", "follow", long.id)
    assert cancelled.status == 1 and f"workbench jobs resume {long.id}" in cancelled.err
    assert [job["id"] for job in ok("jobs", "list", "--state", "cancelled", "--json").json] == [long.id]
    assert f"Job {long.id} goes on" in ok("jobs", "resume", "--detach", long.id[:5]).err
    ok("jobs", "cancel", long.id)


def interrupt_when(words: list[str], seen: bytes) -> Done:
    """Run a command and press Ctrl-C once its standard error holds `seen`."""
    heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who runs the tests in the background ignores it
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heeded)
    assert child.stderr and child.stdout
    text = b""
    while seen not in text:
        piece = child.stderr.read1(4096)  # type: ignore[attr-defined]
        assert piece, text
        text += piece
    child.send_signal(signal.SIGINT)
    out, rest = child.communicate(timeout=30)
    return Done(child.returncode, out.decode(), (text + rest).decode())


# ---------------------------------------------------------------- progress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


COURSE = [
    Progress(t=0, phase="preparing", message="Reading the base"),
    Progress(t=1, phase="training", step=1, total_steps=4, loss=2.5, tokens_per_second=180.4, seconds_left=95),
    Progress(t=2, phase="training", step=2, total_steps=4, eval_loss=2.25),
    Progress(t=3, phase="training", step=4, total_steps=4, loss=0.5, seconds_left=0),
    Progress(t=4, phase="testing", step=100, total_steps=400),
]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_is_redrawn_on_a_terminal_and_written_in_lines_to_a_log(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    err = stream()
    with contextlib.redirect_stderr(err):
        follower = ProgressPrinter()
        for progress in COURSE:
            follower(progress)
        follower.close()
    text = err.getvalue()
    assert "loss 2.500  180 tokens/s  1 min 35 s left" in text
    lines = [line.rstrip().rpartition("\x1b[2K")[2] for line in text.rstrip("\n").split("\n")]  # what stays on the screen
    if err.isatty():
        assert lines[:2] == ["Reading the base", "preparing"]
        assert "\r\x1b[2Ktraining    ████████████░░░░░░░░░░░░  2/4  loss 2.500  held back 2.250" in text
    else:
        assert "\x1b" not in text and len(lines) == 4
    assert "4/4  loss 0.500  held back 2.250" in "\n".join(lines) and lines[-1].startswith("testing")


# ---------------------------------------------------------------- bases


@pytest.mark.slow
def test_bases_from_folder_to_trash(tmp_path: Path, home: Path) -> None:
    _, shapes = json_page()
    first, second = make_tiny_base(tmp_path / "Tiny Model", 1), make_tiny_base(tmp_path / "next", 1, step=0.01)
    unnamed = cli("base", "add", first)
    assert unnamed.status == 1 and f"workbench base add {first} --name tiny-model@1" in unnamed.err
    assert "Added tiny@1" in ok("base", "add", first, "--name", "tiny@1", "--license", "MIT").out
    added = ok("base", "add", "tiny@2", "--source", f"folder:{second}", "--continues", "tiny@1", "--json").json
    assert set(added) == shapes["base"] and added["continues"] == "tiny@1"
    assert re.search(r"tiny@2 +[\d,]+ +bfloat16 +\w+ +folder +tiny@1", ok("base", "list").out)
    shown = ok("base", "show", "tiny@2", "--json").json
    assert (
        set(shown) == {"base", "lock", "mechanisms", "padded_because"} and shown["base"] == added and set(shown["lock"]) == shapes["lock"]
    )
    assert added["lock_sha256"] in ok("base", "show", "tiny@2").out
    assert "You have: tiny@1, tiny@2." in cli("base", "show", "tiny").err
    assert set(ok("base", "diff", "tiny@1", "tiny@2", "--json").json) == shapes["difference"]
    assert "tensors moved by" in ok("base", "diff", "tiny@1", "tiny@2").out
    ok("base", "remove", "tiny@1")
    assert cli("base", "show", "tiny@1").status == 1 and list((home / "bases" / ".trash").iterdir())
    assert [b["ref"] for b in ok("base", "list", "--json").json] == ["tiny@2"]


def test_the_catalogue_tells_licence_and_openness() -> None:
    assert "smollm2-135m-instruct@1" in ok("base", "catalogue").out
    card = ok("base", "catalogue", "gemma-3-270m").out
    assert "obliges" in card and "Model Openness Framework" in card or "no class" in card
    assert set(ok("base", "catalogue", "smollm2-135m-instruct@1", "--json").json[0]) == json_page()[1]["catalogue entry"]


@pytest.mark.parametrize("wanted", ["", "1"])
def test_colours_are_for_terminals_that_want_them(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", wanted)
    err = Terminal()
    with contextlib.redirect_stderr(err):
        assert run(["adapter", "show", "nothing"]) == 1
    assert ("\x1b[" in err.getvalue()) == (not wanted)
    assert "\x1b[" not in cli("adapter", "show", "nothing").err, "a log gets none in any case"


@pytest.mark.slow
def test_a_terminal_without_a_character_shows_another() -> None:
    narrow = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "base", "show", "nothing@1"], capture_output=True, text=True, env=narrow, timeout=60
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "The catalogue offers" in done.stderr


def test_what_a_stranger_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J\x1b[8mhidden\x9b2J\u202egnp.exe"
    base = Workbench().bases.add("tiny@1", source=f"folder:{make_tiny_base(tmp_path / 'tiny')}")
    adapter = write_adapter(tmp_path / "adapter")
    (adapter / "evidence").mkdir()
    (adapter / "evidence" / "samples.jsonl").write_text(json.dumps({"prompt": evil, "adapter": evil}) + "\n", encoding="utf-8")
    Workbench().adapters.publish(adapter, name="x", base=base, dataset=None, method="lora", recipe=None, scores={})
    shown = ok("adapter", "show", "x").out
    assert "hidden" in shown and not set(shown) & set("\x1b\x07\x9b\u202e")
    raw = ok("adapter", "show", "x", "--json")
    assert not set(raw.out) & set("\x1b\x07\x9b\u202e") and raw.json["samples"][0]["prompt"] == evil
    wrong = cli("adapter", "show", evil)
    assert wrong.status == 1 and not set(wrong.err) & set("\x07\x9b\u202e") and "\x1b[2J" not in wrong.err
