"""What the registry publishes loads with plain `transformers` and `peft`: the very code of the card, the very logits of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from workbench.bases.store import Bases
from workbench.records import Adapter
from workbench.registry.imports import import_adapter
from workbench.registry.store import Registry

pytestmark = pytest.mark.torch

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": "all-linear"},
    "rslora, two ranks": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 3}},
    "dora": {"target_modules": ["o_proj", "down_proj"], "use_dora": True},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "with the output layer": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "with single tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
}


def _peft_folder(base: Path, out: Path, settings: dict[str, Any]) -> Any:
    """An adapter with random weights, saved by PEFT itself; returns the logits of the model that was saved."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter) * (0 if "magnitude" in name else 1)
    model.save_pretrained(out)
    return _logits(model)


def _logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(2, 22)[None]).logits


def _by_the_card(found: Adapter, base: Path) -> dict[str, Any]:
    """Run the card's code with its two paths filled in."""
    code = re.search(r"```python\n(.*?)```", (found.path / "README.md").read_text(), re.S)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1].replace("PATH/TO/THE/BASE", str(base)).replace("PATH/TO/THIS/FOLDER", str(found.path)), names)
    return names


def test_the_cards_own_code_gives_the_logits_of_the_model_that_was_saved(pico_base: Path, tmp_path: Path) -> None:
    import torch

    from workbench.hf.load import load_adapter, load_base

    base = Bases().add("pico@1", source=f"folder:{pico_base}", license="Apache-2.0")
    bare = _logits(load_base(base.path, dtype=torch.float32))
    for kind, settings in KINDS.items():
        wanted = _peft_folder(base.path, tmp_path / kind, settings)
        assert (wanted - bare).abs().max() > 1e-3, kind
        published = Registry().publish(tmp_path / kind, name="a", base=base, dataset=None, method="lora", recipe_yaml=None, scores={})
        imported = import_adapter(tmp_path / kind, name="b", base=base)
        for found in (published, imported):
            names = _by_the_card(found, base.path)
            assert torch.equal(_logits(names["model"]), wanted), f"{kind}: the card's code gives other logits"
            assert names["tokenizer"].chat_template
        ours = _logits(load_adapter(load_base(base.path, dtype=torch.float32), published.path))
        assert torch.allclose(ours, wanted, atol=1e-6), f"{kind}: our loader gives other logits"


def test_the_card_is_valid_for_the_hub(pico_base: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    base = Bases().add("pico@1", source=f"folder:{pico_base}", license="Apache-2.0")
    _peft_folder(base.path, tmp_path / "a", KINDS["lora"])
    found = Registry().publish(tmp_path / "a", name="a", base=base, dataset=None, method="lora", recipe_yaml=None, scores={})
    card = ModelCard.load(found.path / "README.md")
    assert card.data.library_name == "peft" and card.data.license == "apache-2.0"
