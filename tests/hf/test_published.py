"""What the registry publishes loads with plain `transformers` and `peft`: the very code of the card, the very logits of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.bases.store import Bases
from workbench.errors import ImportRefused
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
    for kind, changed in KINDS.items():
        wanted = _peft_folder(base.path, tmp_path / kind, changed)
        assert (wanted - bare).abs().max() > 1e-3, kind
        published = Registry().publish(tmp_path / kind, name="a", base=base, dataset=None, method="lora", recipe=None, scores={})
        imported = import_adapter(tmp_path / kind, name="b", base=base)
        for found in (published, imported):
            names = _by_the_card(found, base.path)
            assert torch.equal(_logits(names["model"]), wanted), f"{kind}: the card's code gives other logits"
            assert names["tokenizer"].chat_template
        ours = _logits(load_adapter(load_base(base.path, dtype=torch.float32), published.path))
        assert torch.allclose(ours, wanted, atol=1e-6), f"{kind}: our loader gives other logits"


def test_every_tensor_is_known_for_what_peft_does_with_it(pico_base: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench import peft_layout
    from workbench.rebase.adapter import read_adapter
    from workbench.rebase.factors import modules

    kinds = {**KINDS, "embedding": {"target_modules": ["embed_tokens", "q_proj"], "alpha_pattern": {"layers.1.self_attn.q_proj": 3}}}
    for kind, changed in kinds.items():
        _peft_folder(pico_base, tmp_path / kind, changed)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico_base), tmp_path / kind)
        layers = {name.removeprefix(peft_layout.PREFIX): m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
        layers = {name: layer for name, layer in layers.items() if getattr(layer, "scaling", None)}
        adapted = {module.name: module.read() for module in modules(tmp_path / kind)}
        assert adapted.keys() == layers.keys(), kind
        for name, layer in layers.items():
            ours = torch.from_numpy(adapted[name].left @ adapted[name].right)
            assert torch.allclose(ours, layer.get_delta_weight("default"), atol=1e-6), (kind, name)
        found = read_adapter(tmp_path / kind)
        assert found.adds == {name: tuple(layer.get_delta_weight("default").shape) for name, layer in layers.items()}, kind
        # of an adapted embedding PEFT saves the base's own table as well, and puts it into any base that it loads on
        whole = {"with the output layer": ["lm_head.weight"], "embedding": ["model.embed_tokens.weight"]}.get(kind, [])
        assert not found.other and list(found.full) == whole, kind
        assert list(found.tokens.values()) == ([(2, 64)] if kind == "with single tokens" else []), kind


GROWN: dict[str, dict[str, Any]] = {
    "nothing of them trained": {},
    "both tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "the embedding": {"modules_to_save": ["embed_tokens"]},
    "the new rows": {"trainable_token_indices": [400, 401]},
}


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_with_added_tokens_come_in_onto_a_base_that_has_them(tied: bool, pico_base: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench.hf.load import load_adapter, load_base

    tokenizer = AutoTokenizer.from_pretrained(pico_base)
    tokenizer.add_tokens(["<call>", "</call>"], special_tokens=True)
    small = AutoModelForCausalLM.from_pretrained(pico_base, tie_word_embeddings=tied)
    small.save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(pico_base).save_pretrained(tmp_path / "small")
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    grown.resize_token_embeddings(len(tokenizer))
    grown.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    lacking = Bases().add("small@1", source=f"folder:{tmp_path / 'small'}")
    base = Bases().add("grown@1", source=f"folder:{tmp_path / 'grown'}")
    for kind, changed in GROWN.items():
        model = AutoModelForCausalLM.from_pretrained(base.path)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **changed))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / kind, save_embedding_layers=True)
        tokenizer.save_pretrained(tmp_path / kind)
        found = import_adapter(tmp_path / kind, name="a", base=base)
        ours = load_adapter(load_base(base.path, dtype=torch.float32), found.path)
        assert torch.allclose(_logits(ours), _logits(model), atol=1e-5), kind
        with pytest.raises(ImportRefused, match="lacks .*tokens.*resize_token_embeddings"):
            import_adapter(tmp_path / kind, name="b", base=lacking)


NAMES = st.lists(st.sampled_from(["layers", "0", "1", "mlp", "q_proj", "up.proj", "q"]), min_size=1, max_size=4).map(".".join)


@settings(max_examples=300, deadline=None)
@given(ranks=st.dictionaries(NAMES, st.integers(1, 64), max_size=5), modules=st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_names_mean_what_peft_takes_them_for(ranks: dict[str, int], modules: list[str]) -> None:
    """Before and after publishing, which sorts the names, PEFT's own function gives each module the same."""
    from peft.utils.other import get_pattern_key

    from workbench.peft_layout import Scaling
    from workbench.registry.peft_config import Declared

    for key in ("rank_pattern", "alpha_pattern"):
        declared = Declared.model_validate({"peft_type": "LORA", "r": 3, "lora_alpha": 3, key: ranks})
        written = dict(sorted(declared.published(modules, [])[key].items()))
        for module in modules:
            wanted = ranks.get(get_pattern_key(ranks.keys(), module), 3)
            for scaling in (declared.scaling, Scaling.of({"r": 3, "lora_alpha": 3, key: ranks})):
                assert (scaling.rank_of if key == "rank_pattern" else scaling.alpha_of)(module) == wanted
            assert written.get(get_pattern_key(written.keys(), module), 3) == wanted


def test_upstreams_own_loaders_find_the_base_of_what_was_published(pico_base: Path, tmp_path: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import pipeline

    base = Bases().add("pico@1", source=f"folder:{pico_base}", license="Apache-2.0")
    wanted = _peft_folder(base.path, tmp_path / "a", KINDS["lora"])
    found = Registry().publish(tmp_path / "a", name="a", base=base, dataset=None, method="lora", recipe=None, scores={})
    assert torch.equal(_logits(AutoPeftModelForCausalLM.from_pretrained(found.path)), wanted)
    assert torch.equal(_logits(pipeline("text-generation", model=str(found.path)).model), wanted)
    assert import_adapter(Registry().export("a", tmp_path / "out"), name="b").base_lock_sha256 == base.lock_sha256


def test_the_card_is_valid_for_the_hub(pico_base: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    base = Bases().add("pico@1", source=f"folder:{pico_base}", license="Apache-2.0")
    _peft_folder(base.path, tmp_path / "a", KINDS["lora"])
    found = Registry().publish(tmp_path / "a", name="a", base=base, dataset=None, method="lora", recipe=None, scores={})
    card = ModelCard.load(found.path / "README.md")
    assert card.data.library_name == "peft" and card.data.license == "apache-2.0"
