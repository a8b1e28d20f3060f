"""The main way through the command line, on a real tiny base: train, look, name, export, import, merge, remove, demo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dispatching import stop_dispatcher
from tests.test_cli import cli, ok
from tests.test_docs import json_page
from workbench.jobs.store import Jobs


@pytest.fixture(autouse=True)
def no_dispatcher_left() -> Iterator[None]:
    yield
    assert stop_dispatcher()


@pytest.fixture
def pico(pico_base: Path) -> str:
    ok("base", "add", pico_base, "--name", "pico@1", "--license", "MIT")
    return "pico@1"


@pytest.fixture
def letters(tmp_path: Path) -> str:
    """Rows that even two layers can learn: say the letters again."""
    file = tmp_path / "letters.csv"
    words = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    file.write_text("question,answer\n" + "".join(f"say {w},{w}\n" for w in words), encoding="utf-8")
    ok("data", "add", file, "--scorer", "exact")
    return "letters"


def test_the_way_of_an_adapter(pico: str, letters: str, tmp_path: Path) -> None:
    _, shapes = json_page()
    train = ["train", "--base", pico, "--dataset", letters, "--max_steps", "4", "--eval_rows", "8", "--threads", "1"]

    shown = ok("data", "preview", letters, "--base", pico, "-n", "1")
    assert "⟦" in shown.out and "<|im_end|>⟧" in shown.out, "the end of the turn is learned"
    checked = ok("data", "check", letters, "--base", pico, "--json").json
    assert checked["tokens"]["supervised"] > 0

    plan = ok(*train, "--preset", "quick", "--dry-run", "--json").json
    assert set(plan) == shapes["plan"] and set(plan["estimate"]) == shapes["estimate"]
    assert (
        plan["origin"]["max_steps"] == "given" and plan["origin"]["learning_rate"] == "preset quick" and plan["origin"]["seed"] == "default"
    )
    recipe = ok(*train, "--preset", "quick", "--dry-run").out
    assert yaml.safe_load(recipe) == plan["recipe"], "what --dry-run prints is a recipe file"
    assert set(ok(*train, "--presets", "--json").json) == {"quick", "standard", "thorough"}

    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    done = ok("train", tmp_path / "recipe.yaml", "--json")
    job = done.json
    assert set(job) == shapes["job"] and job["state"] == "succeeded" and job["result"]["adapter"] == "letters@1"
    course = Jobs(start_dispatcher=False).metrics(job["id"])
    last = [line for line in course if line.phase == "training" and line.seconds_left is not None][-1]
    assert last.step == 4 and (last.seconds_left or 0) > 0, "the test rows are still to come"
    assert "training" in done.err and "4/4" in done.err

    listed = ok("adapter", "list", "--json").json
    assert [a["version"] for a in listed] == [1] and set(listed[0]) == shapes["adapter"] and set(listed[0]["scores"]) == shapes["scores"]
    found = ok("adapter", "show", letters, "--json").json
    assert set(found) == {"adapter", "samples", "lineage"} and set(found["lineage"]) == shapes["lineage"]
    assert found["samples"] and set(found["samples"][0]) == shapes["sample"]
    shown = ok("adapter", "show", letters)
    assert "95% interval" in shown.out and "expected" in shown.out

    assert "letters@champion is now letters@1." in ok("adapter", "alias", "letters@1", "champion").out
    assert cli("adapter", "alias", "letters@1", "champion", "--expect", "7").status == 1
    assert cli("adapter", "remove", "letters@1").status == 1, "a champion is not removed by accident"
    assert cli("base", "remove", pico).status == 1, "a base that an adapter needs is not removed by accident"

    ok("adapter", "export", "letters@champion", tmp_path / "out")
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert cli("adapter", "export", letters, tmp_path / "out").status == 1, "nothing is written over"
    assert "Imported copy@1 for pico@1." in ok("adapter", "import", tmp_path / "out", "--name", "copy", "--base", pico).out
    merged = ok("adapter", "merge", letters, tmp_path / "merged", "--dtype", "float32").out
    assert f"Written to {tmp_path / 'merged'}" in merged and "the same next token" in merged
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"

    ok("adapter", "alias", "letters", "champion", "--drop")
    ok("adapter", "remove", "letters@1")
    assert "letters@1" in ok("adapter", "list", "--trashed").out and "letters@1" not in ok("adapter", "list").out
    ok("adapter", "restore", "letters@1")
    assert "letters@1" in ok("adapter", "list").out


def test_a_recipe_is_exported_for_plain_trl(pico: str, letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = ["train", "--base", pico, "--dataset", letters, "--preset", "quick", "--export", "trl"]
    assert "Written to letters-trl" in ok(*train).out
    written = yaml.safe_load((tmp_path / "letters-trl" / "sft.yaml").read_text())
    assert written["learning_rate"] == 2e-3 and written["max_steps"] == 60 and written["lora_target_modules"] == ["all-linear"]
    assert cli(*train).status == 1, "nothing is written over"


def test_full_weights_are_scored_as_they_are_saved(pico: str, letters: str) -> None:
    train = ["train", "--base", pico, "--dataset", letters, "--method", "sft", "--max_steps", "2", "--eval_rows", "0", "--threads", "1"]
    trial = ok(*train, "--bf16", "--no-publish", "--json").json
    assert (
        trial["result"]["training"]["report"]["saved_dtype"] == "float32" and trial["result"]["training"]["report"]["dtype"] == "bfloat16"
    )
    how = json.loads((Path(trial["result"]["folder"]) / "evidence" / "how.json").read_text())
    assert how["dtype"] == "float32"


def test_a_trial_is_scored_and_not_published_and_another_run_begins_with_it(pico: str, letters: str, tmp_path: Path) -> None:
    train = ["train", "--base", pico, "--dataset", letters, "--max_steps", "3", "--eval_rows", "0", "--threads", "1", "--lora_r", "4"]
    trial = ok(*train, "--no-publish", "--json").json
    assert trial["state"] == "succeeded" and "adapter" not in trial["result"] and trial["result"]["scores"]
    assert trial["title"].startswith("Trial of ") and ok("adapter", "list", "--json").json == []
    folder = Path(trial["result"]["folder"])
    assert (folder / "adapter_model.safetensors").is_file() and (folder / "evidence" / "scores.jsonl").is_file()
    assert str(folder) in ok("jobs", "show", trial["id"]).out

    checkpoint = tmp_path / "checkpoint-3"
    shutil.copytree(folder, checkpoint)
    (checkpoint / "optimizer.pt").write_bytes(b"a pickle that nobody opens")
    done = ok(*train, "--resume_from_checkpoint", checkpoint)
    assert "Only weights are taken from resume_from_checkpoint" in done.err and "Published the adapter letters@1" in done.out
    tuned = ["--method", "sft", "--publish_as", "tuned@1", "--no-publish"]
    assert "a trial publishes nothing" in cli("train", "--base", pico, "--dataset", letters, *tuned).err


def test_demo_shows_what_was_learned(pico: str) -> None:
    done = ok("demo", "--base", pico, "--max_steps", "2")
    for text in (
        "1/4 The base pico@1",
        "400 kept for the test",
        "Published order-codes@1.",
        "4/4 Base against adapter",
        "95% interval",
        "What next:",
    ):
        assert text in done.out
    assert done.out.count("expected") == 5
