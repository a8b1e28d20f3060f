"""Merging: the written files are base + adapter, in the base's dtype; and plain peft reads our adapters as we do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.hf.tiny_adapter import order_rows, tiny_adapter
from tests.tiny_base import make_tiny_base
from workbench.bases.store import Bases
from workbench.errors import Conflict, IntegrityError, UsageError
from workbench.hf.evaluate import evaluate
from workbench.hf.load import load_adapter, load_base, load_tokenizer
from workbench.hf.merge import compare_logits, merge
from workbench.hf.render import render
from workbench.recipe import RECIPE, Recipe
from workbench.registry.store import Registry

pytestmark = pytest.mark.torch
ROWS = order_rows()
QLORA = Recipe(base="tiny@1", dataset="orders", method="qlora")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("half"))


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return tiny_adapter(base)


@pytest.fixture(scope="module")
def qlora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qlora") / "adapter"
    shutil.copytree(tiny_adapter(base, quantized="nf4"), folder)
    (folder / RECIPE).write_text(QLORA.to_yaml())
    return folder


def logits(model: object, base: Path) -> torch.Tensor:
    tokenizer = load_tokenizer(base)
    with torch.no_grad():
        return torch.cat([model(torch.tensor([render(tokenizer, row, max_length=512).input_ids])).logits[0] for row in ROWS[:6]])


def nothing_left(folder: Path) -> bool:
    return list(folder.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_peft_and_our_loader_give_the_same_logits(base: Path, adapter: Path, dtype: torch.dtype) -> None:
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), adapter).eval()
    ours = load_adapter(load_base(base, dtype=dtype), adapter)
    assert torch.equal(logits(plain, base), logits(ours, base))
    assert not torch.equal(logits(ours, base), logits(load_base(base, dtype=dtype), base))


def test_a_published_version_loads_with_plain_peft_and_gives_the_same_logits(base: Path, qlora: Path) -> None:
    known = Bases().add("tiny@1", source=f"folder:{base}")
    made = Registry().publish(qlora, name="orders", base=known, dataset=None, method="qlora", recipe=QLORA, scores={})
    for dtype in (torch.float32, torch.bfloat16):
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(known.path, dtype=dtype), made.path).eval()
        ours = load_adapter(load_base(known.path, dtype=dtype), made.path)
        assert torch.equal(logits(plain, base), logits(ours, base))
    assert AutoTokenizer.from_pretrained(made.path).chat_template == load_tokenizer(base).chat_template
    assert Recipe.beside(made.path) == QLORA and QLORA.quantization == "nf4"


def test_merged_files_are_base_plus_adapter_in_the_bases_dtype(base: Path, adapter: Path, tmp_path: Path) -> None:
    lines = []
    report = merge(base, adapter, tmp_path / "merged", rows=ROWS, report=lines.append)
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16 and merged.config.dtype == torch.bfloat16
    before = logits(load_adapter(load_base(base, dtype=torch.float32), adapter), base)
    after = logits(load_base(tmp_path / "merged", dtype=torch.float32), base)
    gap = compare_logits(before, after)
    assert gap.top1_agreement > 0.97 and gap.kl < 0.02
    assert report.merging.top1_agreement > 0.95 and report.merging.kl < 0.1 * report.adapter.kl
    assert report.positions == 8 * 16 and report.dtype == report.trained_on == "bfloat16"
    assert report.as_trained is None
    assert json.loads((tmp_path / "merged" / "merge.json").read_text()) == {"job": None, **dataclasses.asdict(report)}
    assert [line.step for line in lines] == [1, 2, 3]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == load_tokenizer(base).chat_template
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (base / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "merged"]
    found = evaluate(base, tmp_path / "merged", ROWS[:24], max_length=512, dtype=torch.float32)
    assert sum(s.exact for s in found.adapter) > 15 and not any(s.exact for s in found.base)


def test_merging_in_float32_is_exact_to_rounding(base: Path, adapter: Path, tmp_path: Path) -> None:
    report = merge(base, adapter, tmp_path / "out" / "merged", dtype="float32")
    assert report.merging.max_logit_difference < 1e-3 and report.merging.top1_agreement == 1
    assert report.adapter.max_logit_difference > 0.5


def test_a_qlora_adapter_reports_the_difference_to_what_it_was_trained_on(base: Path, qlora: Path, tmp_path: Path) -> None:
    full = merge(base, qlora, tmp_path / "full", rows=ROWS)
    assert (full.trained_on, full.dtype) == ("nf4", "bfloat16")
    assert full.as_trained is not None and full.as_trained.kl > 3 * full.merging.kl


def test_the_adapters_own_test_rows_are_the_probes(base: Path, adapter: Path, tmp_path: Path) -> None:
    published = tmp_path / "published"
    shutil.copytree(adapter, published)
    (published / "evidence").mkdir()
    (published / "evidence" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    assert merge(base, published, tmp_path / "merged").positions == 3 * 16


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Conflict, match="exists already"):
        merge(base, adapter, out)
    with pytest.raises(UsageError, match="'int3' is no type for weights"):
        merge(base, adapter, out / "m", dtype="int3")
    with pytest.raises(IntegrityError):
        merge(base, tmp_path / "home", out / "m")
    huge = tmp_path / "huge"
    shutil.copytree(adapter, huge)
    config = json.loads((huge / "adapter_config.json").read_text())
    (huge / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 10**9}))
    with pytest.raises(IntegrityError, match="do not fit into float16"):
        merge(base, huge, out / "m", dtype="float16")
    assert nothing_left(out)


def test_a_bias_of_the_adapter_is_merged_where_the_base_has_one_and_refused_where_not(base: Path, tmp_path: Path) -> None:
    """Such an adapter works without merging; but a layer without a bias has no place for it."""
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="no bias"):
        merge(base, tiny_adapter(base, steps=2, lora_bias=True), tmp_path / "out" / "merged", rows=ROWS)
    assert nothing_left(tmp_path / "out")
    biased = tmp_path / "biased"
    shutil.copytree(base, biased)
    config = AutoConfig.from_pretrained(base, attention_bias=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(biased)
    made = tiny_adapter(biased, steps=2, lora_bias=True, target_modules=("q_proj", "v_proj"))
    assert merge(biased, made, tmp_path / "merged", rows=ROWS, dtype="float32").merging.max_logit_difference < 1e-4


def test_a_merge_that_loses_the_adapter_is_refused(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As happened to others: the merged files hold the bare base. Only reading them again can tell."""
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **_: self.unload(), raising=False)
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="are not base \\+ adapter"):
        merge(base, adapter, tmp_path / "out" / "merged", rows=ROWS)
    assert nothing_left(tmp_path / "out")
