"""A recipe as files for plain TRL, with nothing of ours in them: for whoever wants to see, change or run it without the workbench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from workbench.errors import RecipeError
from workbench.hf.load import compute_dtype, device, load_tokenizer
from workbench.hf.prepare import prepare
from workbench.hf.train import schedule
from workbench.recipe import Recipe

__all__ = ["export_trl"]

_SCRIPT = '''"""Train on train.jsonl by sft.yaml with plain TRL, rows in the order of the workbench: its losses, step by step.

`trl sft --config sft.yaml` trains the same in an order of its own.
"""

import torch
from trl import DatasetMixtureConfig, ModelConfig, SFTConfig, SFTTrainer, TrlParser, get_dataset, get_peft_config, get_quantization_config

args, model, data = TrlParser((SFTConfig, ModelConfig, DatasetMixtureConfig)).parse_args_and_config(["--config", "sft.yaml"])
args.model_init_kwargs = {"dtype": model.dtype}


class Order(torch.utils.data.Sampler):  # a new one for each epoch, decided by the seed alone
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(rows)

    def __iter__(self):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(len(rows), generator=generator).tolist())


class Trainer(SFTTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return Order()


rows, quantized = get_dataset(data)["train"], get_quantization_config(model)
trainer = Trainer(
    model.model_name_or_path, args, train_dataset=rows, peft_config=get_peft_config(model), quantization_config=quantized
)
trainer.train()
trainer.save_model()
'''


def export_trl(recipe: Recipe, base: Path, rows: Sequence[dict[str, Any]], out: Path) -> Path:
    """Write sft.yaml (for `trl sft --config`), train.py and train.jsonl to the new folder `out` and return it.

    train.jsonl holds token ids and labels, since TRL cannot place them under every chat template. Raises `RecipeError`
    for what plain TRL does in another way, and `TrainingError` as `train` does.
    """
    other = {
        "packing": recipe.packing and "TRL keeps packed rows apart only with flash attention",
        "early_stopping_patience": recipe.early_stopping_patience and "trl sft has no early stopping",
        "resume_from_checkpoint": recipe.resume_from_checkpoint and "TRL resumes steps and optimiser too, which here begin anew",
    }
    if problems := [f"{key}: {why}; leave it out." for key, why in other.items() if why]:
        raise RecipeError("This recipe has no equal in plain TRL:", problems)
    data = prepare(recipe, load_tokenizer(base), rows)
    bf16 = compute_dtype(recipe.bf16) == torch.bfloat16
    settings: dict[str, Any] = {
        "model_name_or_path": str(base),
        "dtype": "bfloat16" if bf16 and recipe.method != "sft" else "float32",
        "datasets": [{"path": "json", "data_files": "train.jsonl"}],
        "max_length": recipe.max_length,
        "output_dir": recipe.adapter_name,
        "bf16": bf16,
        "use_cpu": device().type == "cpu",
        "gradient_checkpointing": bool(recipe.gradient_checkpointing),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": list(recipe.report_to) or "none",
        **schedule(recipe, recipe.steps(len(data.train))),
    }
    if recipe.method != "sft":
        names = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora")
        settings |= {"use_peft": True, "lora_target_modules": list(recipe.lora_target_modules)}
        settings |= {name: getattr(recipe, name) for name in names}
    if recipe.quantization:
        settings |= {"load_in_4bit": True, "bnb_4bit_quant_type": recipe.quantization}
        settings["use_bnb_nested_quant"] = recipe.use_bnb_nested_quant
    out.mkdir(parents=True)
    given = {key: value for key, value in settings.items() if value is not None}
    (out / "sft.yaml").write_text(yaml.safe_dump(given, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (out / "train.py").write_text(_SCRIPT, encoding="utf-8")
    lines = (json.dumps({"input_ids": ids, "labels": labels}) for ids, labels in data.train)
    (out / "train.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return out
