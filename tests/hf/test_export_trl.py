"""A recipe as plain TRL runs it: the script has nothing of ours, and gives our losses step by step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hf.test_train import chats, losses, recipe, run  # noqa: F401  (a fixture)
from workbench.errors import RecipeError
from workbench.hf.export_trl import export_trl

GIVEN = {
    "max_steps": -1,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.2},
    "lora_target_modules": ["q_proj", "v_proj", "down_proj"],
    "use_rslora": True,
    "warmup_ratio": 0.2,
    "max_length": 40,
}


@pytest.mark.parametrize("given", [GIVEN, {"method": "sft", "max_steps": 5}])
def test_the_script_gives_our_losses(run, pico_base: Path, tmp_path: Path, given: dict[str, object]) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    result = run(**given)
    folder = export_trl(recipe(**given), pico_base, chats(), tmp_path / "trl")
    script = (folder / "train.py").read_text()
    assert "workbench" not in script.partition("import torch")[2]
    tail = "\nimport json\nprint(json.dumps([entry['loss'] for entry in trainer.state.log_history if 'loss' in entry]))\n"
    (folder / "train.py").write_text(script + tail)
    done = subprocess.run([sys.executable, "-W", "ignore", "train.py"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(theirs) == result.steps > 4
    assert theirs == pytest.approx(list(losses(run).values()), abs=1e-5)


def test_trl_itself_reads_the_file(pico_base: Path, tmp_path: Path) -> None:
    folder = export_trl(recipe(max_steps=2), pico_base, chats(), tmp_path / "trl")
    trl = [sys.executable, "-W", "ignore", "-c", "from trl.cli import main; main()"]  # what the command `trl` runs
    done = subprocess.run([*trl, "sft", "--config", "sft.yaml"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "orders" / "adapter_model.safetensors").is_file()


def test_what_trl_does_in_another_way_is_refused(pico_base: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="packing: TRL keeps packed rows apart only with flash attention"):
        export_trl(recipe(packing=True), pico_base, chats(), tmp_path / "trl")
    assert not (tmp_path / "trl").exists()
