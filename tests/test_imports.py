"""Adapters from outside: what honest tools write is taken in, whatever breaks a rule is refused and leaves nothing behind."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults import DiskError, Faults
from tests.folders import adapter_config, adapter_tensors, write_adapter
from tests.hostile_adapters import (
    CONFIG,
    HEAD,
    HOSTILE,
    TOKENS,
    WEIGHTS,
    changed_weights,
    folder,
    full,
    subfolder,
    with_tensor,
    write_file,
    zipped,
)
from tests.tiny_base import HIDDEN, VOCAB, make_tiny_base, tokenizer_json
from workbench import paths
from workbench.bases.layout import Layout
from workbench.bases.store import Bases
from workbench.errors import ImportRefused, NotFound, UsageError, WorkbenchError
from workbench.evidence import summary
from workbench.recipe import Recipe
from workbench.records import Base, Dataset, ItemScore
from workbench.registry.archive import check_member_name
from workbench.registry.imports import import_adapter
from workbench.registry.store import Registry

pytestmark = pytest.mark.slow


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Bases().add("tiny@1", source=f"folder:{make_tiny_base(tmp_path / 'tiny', dtype='F32')}", license="Apache-2.0")


def everything(folder: Path) -> set[str]:
    return {
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if not p.name.startswith("workbench.db") and ".staging" != p.name and "cache" not in p.parts
    }


def test_every_hostile_input_gets_one_clear_error_and_leaves_nothing(base: Base, tmp_path: Path) -> None:
    import_adapter(write_adapter(tmp_path / "good"), name="good", base=base)  # the table of adapters exists, the modules are loaded
    assert Layout(Bases().lock(base.ref)).parameters  # transformers was asked once for the names in memory
    before = everything(paths.home())
    outside = set(tmp_path.parent.iterdir())
    wrong, slowest = [], 0.0
    for n, (case, (make, message)) in enumerate(HOSTILE.items()):
        (tmp_path / str(n)).mkdir()
        hostile = make(tmp_path / str(n) / "adapter")
        given = everything(tmp_path / str(n))
        start = time.perf_counter()
        try:
            import_adapter(hostile, name="evil", base=base)
            wrong.append(f"{case}: was accepted")
        except ImportRefused as error:
            text = error.message
            if not re.search(f"(?s){message}", text) or not error.hint or len(text) > 2500 or not text.replace("\n", "").isprintable():
                wrong.append(f"{case}: {error}")
        slowest = max(slowest, time.perf_counter() - start)
        if everything(paths.home()) != before or everything(tmp_path / str(n)) != given:
            wrong.append(f"{case}: left something behind")
    assert not wrong, "\n".join(wrong)
    assert set(tmp_path.parent.iterdir()) == outside and not Path("/tmp/canary").exists()
    assert [a.ref for a in Registry().list()] == ["good@1"]
    assert len(HOSTILE) >= 100
    assert slowest < 10


@pytest.mark.parametrize(
    "name", ["../x", "a/../x", "/x", "\\x", "a\\..\\x", "C:x", "c:/x", "//x", "./x", "a/./x", "..", "~x", "x\0", "x\r", "", "a:b"]
)
def test_member_names_that_could_leave_the_folder(name: str) -> None:
    with pytest.raises(ImportRefused):
        check_member_name(name)


# ---------------------------------------------------------------- honest adapters

V10 = adapter_config()
V14 = V10 | {"eva_config": None, "exclude_modules": None, "lora_bias": False}
V18 = V14 | {
    "alora_invocation_tokens": None, "arrow_config": None, "corda_config": None, "ensure_weight_tying": False, "peft_version": "0.18.0",
    "qalora_group_size": 16, "target_parameters": None, "trainable_token_indices": None, "use_qalora": False,
}  # fmt: skip
V21 = V18 | {"kasa_config": None, "lora_ga_config": None, "monteclora_config": None, "use_bdlora": None, "velora_config": None}
V21["peft_version"] = "0.21.2"
SLOTH = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj))|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:v_proj)))"
UNSLOTH = {"target_modules": SLOTH, "task_type": None, "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}}
AXOLOTL = {"config__json": "{}", "README__md": "# x", "tokenizer_config__json": "{}", "training_args__bin": b"\x80"}
FACTORY = {"trainer_log__jsonl": "{}", "trainer_state__json": "{}", "training_loss__png": b"\x89PNG", "training_args__bin": b"x"}


def other_rank(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if ".1.self_attn.q" in n]:
        shape = tensors[name].shape
        tensors[name] = full((4, shape[1]) if "lora_A" in name else (shape[0], 4))


def dora_in_half_precision(tensors: dict[str, Any]) -> None:
    for name, value in list(tensors.items()):
        tensors[name] = value.astype(np.float16)
        if "lora_B" in name:
            tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = full((len(value),), dtype=np.float16)


def last_layer_only(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if ".layers.0." in n]:
        del tensors[name]


def from_a_mac(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
    archive.writestr("My adapter/", b"")
    archive.writestr("__MACOSX/My adapter/._adapter_config.json", b"x")
    archive.writestr("My adapter/.DS_Store", b"x")


HONEST: dict[str, Callable[[Path], Path]] = {
    "PEFT 0.10": folder(V10),
    "PEFT 0.14": folder(V14),
    "PEFT 0.18": folder(V18),
    "PEFT 0.21": folder(V21),
    "a later PEFT with new keys left empty": folder(V21 | {"use_something_new": None}),
    "Unsloth, targets as a pattern": folder(V18 | UNSLOTH),
    "a pattern that would never end": folder(V21 | {"target_modules": "(.*a.*)*" * 40 + "$"}),
    "Axolotl, with what it leaves beside": folder(V21 | {"lora_alpha": 4.0}, None, **AXOLOTL),
    "LLaMA-Factory, with what it leaves beside": folder(V18, None, **FACTORY),
    "all-linear": folder(V21 | {"target_modules": "all-linear"}),
    "some layers only": changed_weights(last_layer_only, layers_to_transform=[1], layers_pattern="layers"),
    "ranks by name": changed_weights(other_rank, rank_pattern={"layers.1.self_attn.q_proj": 4}, alpha_pattern={"q_proj": 8}),
    "DoRA in half precision": changed_weights(dora_in_half_precision, use_dora=True),
    "output layer saved whole": with_tensor(HEAD, full((VOCAB, HIDDEN)), modules_to_save=["lm_head"]),
    "single tokens trained": with_tensor(TOKENS, full((2, HIDDEN)), trainable_token_indices={"embed_tokens": [3, 5]}),
    "zip of the files": zipped(lambda archive, good: None),
    "zip of the folder, made on a Mac": zipped(from_a_mac, "My adapter/"),
    "folder with checkpoints in it": lambda at: write_file(subfolder(at, "checkpoint-60"), "checkpoint-60/optimizer.pt", b"x"),
    "hub cache, all links": lambda at: _hub_cache(at),
}


def _hub_cache(at: Path) -> Path:
    blobs, snapshot = at / "blobs", at / "snapshots" / ("a" * 40)
    write_adapter(blobs)
    snapshot.mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return snapshot


def test_adapters_of_every_common_tool_are_taken_in(base: Base, tmp_path: Path) -> None:
    for n, (case, make) in enumerate(HONEST.items()):
        (tmp_path / str(n)).mkdir()
        found = import_adapter(make(tmp_path / str(n) / "adapter"), name=f"case-{n}", base="tiny@1")
        written = json.loads((found.path / CONFIG).read_text())
        assert found.method == "imported" and found.scores == {} and found.dataset is None, case
        assert (written["base_model_name_or_path"], written["revision"]) == (str(base.path), None), case
        assert written["task_type"] == "CAUSAL_LM", case
        assert isinstance(written["target_modules"], list) and written["init_lora_weights"] is True, case
        assert not {"auto_mapping", "megatron_core", "megatron_config", "layers_pattern", "exclude_modules"} & written.keys(), case
        assert set(written["target_modules"]) <= {"q_proj", "v_proj"} or case == "some layers only", case
        assert {p.name for p in found.path.iterdir()} == {
            CONFIG, WEIGHTS, "README.md", "base.lock.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
            "manifest.json",
        }, case  # fmt: skip
        Registry().get(found.ref, verify=True)
    assert json.loads((Registry().get("case-10").path / CONFIG).read_text())["target_modules"] == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]
    unsloth = (Registry().get("case-5").path / "README.md").read_text()
    assert "was a pattern" in unsloth and SLOTH not in unsloth


def test_ranks_and_alphas_are_published_as_peft_reads_them_whatever_their_order(base: Base, tmp_path: Path) -> None:
    """PEFT takes the first name that matches, where a dot stands for any character: a sorted file would mean something else."""
    alphas = {"q.proj": 1000, "layers.1.self_attn.q_proj": 2, "v_proj": 4, "layers.0.self_attn.v_proj": 400}
    config = adapter_config(alpha_pattern=alphas, rank_pattern={"layers.1.self_attn.v_proj": 4, "v_proj": 2})
    tensors = adapter_tensors()
    v = "base_model.model.model.layers.1.self_attn.v_proj"
    tensors |= {f"{v}.lora_A.weight": full((4, HIDDEN)), f"{v}.lora_B.weight": full((32, 4))}
    found = import_adapter(write_adapter(tmp_path / "adapter", config, tensors), name="x", base=base)
    written = json.loads((found.path / CONFIG).read_text())
    assert (written["lora_alpha"], written["alpha_pattern"]) == (4, {"q_proj": 1000})
    assert (written["r"], written["rank_pattern"]) == (2, {"model.layers.1.self_attn.v_proj": 4})
    card = (found.path / "README.md").read_text()
    assert "LoRA of rank 2 to 4 and alpha 4 to 1e+03 on q_proj, v_proj" in card and "a scale of 1 to 500" in card
    plain = import_adapter(write_adapter(tmp_path / "plain", adapter_config(use_rslora=True)), name="y", base=base)
    card = (plain.path / "README.md").read_text()
    assert "rsLoRA of rank 2 and alpha 4" in card and f"scale of {4 / 2**0.5:.3g}: " in card and "% of the weights" in card


# ---------------------------------------------------------------- the base is matched or asked for


def test_the_base_is_never_guessed(base: Base, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", adapter_config(base_model_name_or_path="tiny", revision=None))
    with pytest.raises(UsageError, match=r"Which base.*`tiny`.*You have: tiny@1.*--base") as error:
        import_adapter(adapter, name="x")
    assert "family@version" in error.value.hint
    write_adapter(adapter, adapter_config(base_model_name_or_path="tiny@1", revision=base.lock_sha256))
    assert import_adapter(adapter, name="x").base_lock_sha256 == base.lock_sha256
    write_adapter(adapter, adapter_config(base_model_name_or_path="tiny@1", revision="main"))
    with pytest.raises(UsageError):
        import_adapter(adapter, name="x")
    with pytest.raises(NotFound, match="No base named 'other@1'"):
        import_adapter(adapter, name="x", base="other@1")
    with pytest.raises(NotFound, match="nothing at"):
        import_adapter(tmp_path / "nowhere", name="x")
    with pytest.raises(UsageError, match="cannot be a"):
        import_adapter(adapter, name="../x", base=base)


def test_what_was_exported_finds_its_base_by_lock_and_comes_back_the_same(base: Base, tmp_path: Path) -> None:
    registry, recipe = Registry(), Recipe(base="tiny@1", dataset="orders")
    first = registry.publish(
        write_adapter(tmp_path / "a"),
        name="orders",
        base=base,
        dataset=None,
        method="lora",
        recipe=recipe,
        scores={},
    )
    Bases().add("other@1", source=f"folder:{make_tiny_base(tmp_path / 'other', 5, dtype='F32')}")
    for n, out in enumerate((registry.export("orders", tmp_path / "out"), registry.export("orders", tmp_path / "out.zip", zip=True))):
        again = import_adapter(out, name="again")
        assert (again.version, again.base_lock_sha256) == (n + 1, first.base_lock_sha256)
        for name in (CONFIG, WEIGHTS, "chat_template.jinja", "tokenizer.json"):
            assert (again.path / name).read_bytes() == (first.path / name).read_bytes(), name
    elsewhere = import_adapter(tmp_path / "out", name="again", base="other@1")
    card = (elsewhere.path / "README.md").read_text()
    assert "made for tiny@1; it was imported for other@1" in card
    # equal weights from another source have another lock, and still match
    Bases().remove("tiny@1", force=True)
    Bases().add("same@2", source=f"folder:{make_tiny_base(tmp_path / 'same', dtype='F32')}", license="MIT")
    assert str(import_adapter(tmp_path / "out", name="again").base) == "same@2"


def test_its_own_chat_template_is_kept_and_its_words_cannot_mark_up_the_card(base: Base, tmp_path: Path) -> None:
    odd = "<img src=x onerror=alert(1)>`|[x](javascript:1)"
    adapter = write_adapter(tmp_path / "adapter", adapter_config(base_model_name_or_path=odd))
    (adapter / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ messages }}", "auto_map": {"AutoTokenizer": "evil.py"}})
    )
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer_json(("<think>", "</think>"))))
    found = import_adapter(adapter, name="x", base=base)
    assert (found.path / "chat_template.jinja").read_text() == "{{ messages }}"
    assert "auto_map" not in (found.path / "tokenizer_config.json").read_text()
    assert (found.path / "tokenizer.json").read_bytes() == (base.path / "tokenizer.json").read_bytes()
    card = (found.path / "README.md").read_text()
    assert "2 tokens that tiny@1 does not have" in card and "chat template of its own" in card
    assert "<img" not in card and "onerror=" not in card


def test_an_imported_adapter_that_is_scored_here_does_not_claim_our_data(base: Base, tmp_path: Path) -> None:
    first = import_adapter(write_adapter(tmp_path / "adapter"), name="x", base=base)
    arm = [ItemScore(id=str(n), nll=2.0 - n % 2, tokens=2, bytes=4, exact=n % 2 == 0) for n in range(30)]
    data = Dataset("orders", tmp_path, "ab" * 32, 330, 300, 30, "messages", None)
    scores = summary(arm, arm).as_dict()
    scored = Registry().publish(
        first.path, name="x", base=base, dataset=data, method="imported", recipe=None, scores=scores, parents=[first.ref]
    )
    card = (scored.path / "README.md").read_text()
    assert "on what data is not known" in card and "datasets:" not in card and "300 rows" not in card
    assert "30 test rows of `orders` (whether its maker trained on them is not known)" in card
    assert "Imported on" in card and "Made from x@1" in card


def test_an_error_of_the_disk_at_any_step_leaves_nothing(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    import_adapter(adapter, name="warm-up", base=base)
    before, faults, points = everything(paths.home()), Faults(monkeypatch), 0
    while True:
        faults.error_at(points + 1)
        try:
            import_adapter(adapter, name="x", base=base)
            break
        except (DiskError, WorkbenchError):
            points += 1
        faults.off()
        if len(Registry().list()) == 2:
            break
        assert {p for p in everything(paths.home()) - before if p.startswith("adapters/x/")} == set(), f"step {points}"
    assert points >= 20


def test_random_damage_is_refused_or_harmless(base: Base, tmp_path: Path) -> None:
    """Flip, cut and stretch good files at random: only known errors, and what passes is a sound adapter."""
    rng = np.random.default_rng(7)
    good = write_adapter(tmp_path / "good")
    zip_file = zipped(lambda a, g: None)(tmp_path / "zip")
    originals = {
        good / CONFIG: (good / CONFIG).read_bytes(),
        good / WEIGHTS: (good / WEIGHTS).read_bytes(),
        zip_file: zip_file.read_bytes(),
    }
    refused = accepted = 0
    for n in range(99):
        file = list(originals)[n % 3]
        data = bytearray(originals[file])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(0, len(data)))
            if rng.random() < 0.6:
                data[at] = int(rng.integers(0, 256))
            elif rng.random() < 0.5:
                del data[at : at + int(rng.integers(1, 40))]
            else:
                data[at:at] = rng.bytes(int(rng.integers(1, 40)))
            data = data or bytearray(b"x")
        file.write_bytes(data)
        try:
            found = import_adapter(zip_file if file == zip_file else good, name="damaged", base=base)
            Registry().get(found.ref, verify=True)
            accepted += 1
        except WorkbenchError:
            refused += 1
        file.write_bytes(originals[file])
    assert refused > 45 and refused + accepted == 99
    assert not list((paths.adapters_dir() / ".staging").iterdir())
