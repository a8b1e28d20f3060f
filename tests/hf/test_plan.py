"""A plan on a real tiny base: what would waste a run, or be ignored by it, is known before it starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import TEMPLATE
from workbench import Workbench
from workbench.errors import RecipeError
from workbench.jobs import tasks
from workbench.jobs.store import Jobs
from workbench.jobs.training import TrainSpec
from workbench.planning import Plan

TRIMS = TEMPLATE.replace("message['content'] +", "(message['content'] | trim) +")
TOOL = {"type": "function", "function": {"name": "price_of", "description": "A price.", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def plan(pico_base: Path, tmp_path: Path) -> Any:
    """Plan a run over rows of any form, on the tiny base with the chat template that is given."""
    bench = Workbench()

    def make(rows: list[dict[str, Any]], template: str = TEMPLATE, raw: bool = False, **given: Any) -> Plan:
        folder = tmp_path / "base"
        folder.mkdir()
        for file in pico_base.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "chat_template.jinja").write_text(template)
        bench.bases.add("pico@1", source=f"folder:{folder}")
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        bench.datasets.add(file, name="rows", raw=raw, test_rows=4)
        return bench.plan({"base": "pico@1", "dataset": "rows", **given})

    return make


def chats(n: int = 24, answer: str = "LM {i}") -> list[dict[str, Any]]:
    rows = []
    for i in range(n):
        asked = [{"role": "system", "content": "Code the order."}, {"role": "user", "content": f"{i} lamps to Cairo by Friday"}]
        rows.append({"messages": [*asked, {"role": "assistant", "content": answer.format(i=i)}]})
    return rows


def pairs(n: int = 24) -> list[dict[str, Any]]:
    return [{"prompt": f"order {i} of the red lamps", "completion": f"    return {i}\n"} for i in range(n)]


def test_answers_that_are_all_cut_off_block_though_a_system_turn_holds_the_same_end_token(plan: Any) -> None:
    found = plan(chats(), assistant_only_loss=False, max_length=24)
    assert found.lengths["supervised"] > 0 and found.lengths["answer_lost"] == found.lengths["rows"]
    assert "No training row teaches the model to end its answer" in found.problems[0] and "raise max_length" in found.problems[0]


def test_a_template_that_ends_no_turn_blocks(plan: Any) -> None:
    found = plan(chats(), "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")
    assert "writes no end of turn" in found.problems[0]


def test_tools_that_the_template_does_not_show_are_a_warning_with_their_count(plan: Any) -> None:
    rows = [{**row, "tools": [TOOL]} if i % 2 else row for i, row in enumerate(chats())]
    found = plan(rows)
    [told] = [text for text in found.warnings if "tools" in text]
    assert 5 < int(told.split()[0]) < 15 and not found.problems


def test_white_space_that_the_template_drops_is_a_warning(plan: Any) -> None:
    found = plan(pairs(), TRIMS)
    assert any("chat template drops" in text and text.startswith("20 rows") for text in found.warnings)


def test_a_choice_that_these_rows_would_ignore_blocks(plan: Any) -> None:
    found = plan(pairs(), completion_only_loss=False)
    assert "completion_only_loss: false changes nothing here" in found.problems[0]


def test_raw_pairs_learn_both_parts_when_asked(plan: Any) -> None:
    both = plan(pairs(), raw=True, completion_only_loss=False)
    assert not both.problems and both.lengths["supervised"] == both.lengths["tokens"] - both.lengths["rows"]


def test_a_checkpoint_that_cannot_be_begun_with_blocks(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-9").mkdir()
    found = plan(chats(), resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    assert found.problems[0].startswith("resume_from_checkpoint: ") and "adapter_model.safetensors" in found.problems[0]
    (tmp_path / "checkpoint-9" / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "checkpoint-9" / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 32}')
    found = Workbench().plan({**found.recipe.model_dump(), "lora_r": 16})
    assert found.problems == ["resume_from_checkpoint: r is 8 there and 16 here; the adapter has to keep its shape and scale."]
    assert "Only weights are taken" in found.warnings[-1]


def test_rows_beyond_the_context_and_too_few_rows_to_watch_are_known(plan: Any) -> None:
    rows = chats(7)
    rows[0]["messages"][1]["content"] += " and to Lima" * 300
    found = plan(rows, max_length=2000, early_stopping_patience=2)
    assert "this base reads 512 at most. Set max_length: 512" in found.problems[0]
    assert "early_stopping_patience has nothing to watch" in found.warnings[-1]


def test_a_logger_and_a_module_that_are_not_there_block(plan: Any) -> None:
    found = plan(chats(), report_to=["mlflow"], lora_target_modules=["q_proj", "mlp.q_proj", "wqkv", "embed_tokens"])
    assert [text.partition(";")[0] for text in found.problems] == [
        "report_to: mlflow is not installed: pip install mlflow",
        "lora_target_modules: this base has no mlp.q_proj and no wqkv and no embed_tokens",
    ]
    assert "it has down_proj, gate_proj, k_proj" in found.problems[1]


def test_a_plan_in_hand_is_not_made_again_and_its_recipe_arrives_unchanged(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(chats(), lora_r=4, lora_target_modules=["q_proj"])
    bench = Workbench()
    bench.jobs = Jobs(start_dispatcher=False)
    monkeypatch.delattr(Workbench, "plan")
    job = bench.train(found)
    spec = tasks.read(job.kind, bench.jobs.get(job.id).spec)
    assert isinstance(spec, TrainSpec) and spec.recipe == found.recipe and spec.publish
    assert (spec.base_lock_sha256, spec.dataset_sha256) == (found.base.lock_sha256, found.dataset.sha256)
    with pytest.raises(RecipeError, match="This run would be wasted:\n  - no rows"):
        bench.train(dataclasses.replace(found, problems=["no rows"]))
