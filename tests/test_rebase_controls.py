"""Bases and adapters whose verdict is known: they must be exactly what they claim to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.controls import add_noise, independent, random_adapter, requantise
from tests import tiny_base, tiny_llama
from tests.folders import adapter_config
from tests.tiny_base import make_tiny_base, write_model
from workbench.bases.tensors import folder_tensors
from workbench.errors import Conflict, UsageError, WorkbenchError
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.writing import encode, load

IDS = [3, 17, 99, 4, 4, 61, 118, 0]
Array = np.ndarray[Any, Any]


def values(folder: Path) -> dict[str, Array]:
    """All weights as float32, whatever their dtype."""
    return {name: load(info) for name, info in folder_tensors(folder).items()}


def factors(weights: dict[str, Array], r: int = 3, seed: int = 5) -> dict[str, Array]:
    """LoRA factors for every linear module of the layers."""
    rng, found = np.random.default_rng(seed), {}
    for name, weight in weights.items():
        if ".layers." in name and weight.ndim == 2:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            found[f"{stem}.lora_A.weight"] = rng.standard_normal((r, weight.shape[1])) / 8
            found[f"{stem}.lora_B.weight"] = rng.standard_normal((weight.shape[0], r)) / 8
    return found


def write_factors(folder: Path, tensors: dict[str, Array]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(r=3, lora_alpha=6)))
    (folder / "manifest.json").write_text("{}")
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("bias", [True, False], ids=["qwen-like", "llama-like"])
def test_other_coordinates_are_the_same_function(tmp_path: Path, bias: bool) -> None:
    """In float64, where the order of sums cannot hide a mistake; and every weight that may move does."""
    kind = {"model_type": "qwen3" if bias else "llama", "attention_bias": bias, "mlp_bias": bias, "tie_word_embeddings": not bias}
    config = {**tiny_llama.CONFIG, **kind}
    weights = tiny_base.weights(1, config=config)
    source = write_model(tmp_path / "a", weights, config)
    moved = tiny_llama.read(Coordinates.draw(source, 7).write_base(source, tmp_path / "b"))
    np.testing.assert_allclose(tiny_llama.forward(moved, IDS, config), tiny_llama.forward(weights, IDS, config), atol=1e-10)
    steady = {name for name in weights if np.array_equal(weights[name], moved[name])}
    steady -= {"model.layers.1.self_attn.k_proj.bias"}  # two key heads stay in place half the time
    assert steady == {name for name in weights if "q_norm" in name or "k_norm" in name}
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_an_adapter_follows_its_base(tmp_path: Path) -> None:
    """With its factors moved it does what it did at home; copied as it is, it does not."""
    weights = tiny_base.weights(1, config=tiny_llama.CONFIG)
    source, adapter = write_model(tmp_path / "a", weights, tiny_llama.CONFIG), write_factors(tmp_path / "adapter", factors(weights))
    coordinates = Coordinates.draw(source, 7)
    moved = tiny_llama.read(coordinates.write_base(source, tmp_path / "b"))
    moved_factors = tiny_llama.read(coordinates.write_adapter(adapter, tmp_path / "adapter-b"))
    home = tiny_llama.forward(tiny_llama.with_adapter(weights, factors(weights), 2.0), IDS)
    followed = tiny_llama.forward(tiny_llama.with_adapter(moved, moved_factors, 2.0), IDS)
    copied = tiny_llama.forward(tiny_llama.with_adapter(moved, factors(weights), 2.0), IDS)
    np.testing.assert_allclose(followed, home, atol=1e-10)
    assert np.abs(copied - home).max() > 0.1
    assert (tmp_path / "adapter-b" / "adapter_config.json").is_file()
    assert not (tmp_path / "adapter-b" / "manifest.json").exists(), "a manifest speaks of the weights it was written for"


@pytest.mark.parametrize(("dtype", "top"), [("BF16", 0x7FFF), ("F32", 0x7FFFFFFF)])
def test_other_coordinates_lose_no_bit(tmp_path: Path, dtype: str, top: int) -> None:
    source = make_tiny_base(tmp_path / "a", dtype=dtype)
    out = Coordinates.draw(source, 0).write_base(source, tmp_path / "b")
    kind = "<u2" if dtype == "BF16" else "<u4"
    for name, info in folder_tensors(source).items():
        moved = folder_tensors(out)[name]
        assert (moved.dtype, moved.shape) == (info.dtype, info.shape)
        before, after = (np.fromfile(t.file, kind, t.elements, offset=t.start) & np.array(top, kind) for t in (info, moved))
        assert np.array_equal(np.sort(before), np.sort(after)), name
        assert not np.array_equal(before, after), name


def test_the_seed_decides(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "a")
    files = [Coordinates.draw(source, seed).write_base(source, tmp_path / f"{n}") / "model.safetensors" for n, seed in enumerate((1, 1, 2))]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


@pytest.mark.parametrize(
    ("name", "model_type", "says"),
    [
        ("model.layers.0.mlp.experts.0.gate_proj.weight", "llama", "model.layers.0.mlp.experts.0.gate_proj.weight is not known"),
        ("model.layers.0.self_attn.rotary.weight", "llama", "rotary.weight is not known"),
        ("score.weight", "llama", "score.weight is not known"),
        ("model.layers.1.self_attn.q_norm.weight", "llama", "q_norm.weight is not known"),  # of the whole width, as OLMo-2 has it
        ("lm_head.weight", "rwkv", "type 'rwkv'"),
    ],
)
def test_a_model_that_is_not_known_is_refused_by_name(tmp_path: Path, name: str, model_type: str, says: str) -> None:
    config = {**tiny_llama.CONFIG, "model_type": model_type}
    source = write_model(
        tmp_path / "a", {**tiny_base.weights(1, config={**config, "model_type": "llama"}), name: np.ones((48, 48))}, config
    )
    with pytest.raises(WorkbenchError, match=says.replace(".", r"\.")):
        Coordinates.draw(source, 0)


def test_a_written_folder_is_never_written_over(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "a")
    with pytest.raises(Conflict, match="exists already"):
        Coordinates.draw(source, 0).write_base(source, source)


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (4, 64), (4, 40), (3, 10_000)])
def test_requantised_weights_have_that_many_levels(tmp_path: Path, bits: int, group: int) -> None:
    source = make_tiny_base(tmp_path / "a", dtype="F32")
    before, after = values(source), values(requantise(source, tmp_path / "b", bits=bits, group=group))
    for name, weight in before.items():
        if ".layers." not in name or weight.ndim < 2:
            assert np.array_equal(weight, after[name]), f"{name} is no linear weight of a layer"
            continue
        for start in range(0, weight.shape[1], group):
            old, new = weight[:, start : start + group], after[name][:, start : start + group]
            step = np.abs(old).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
            assert np.all(np.abs(new - old) <= step * 0.5001)
            levels = new / step
            assert np.abs(levels - np.rint(levels)).max() < 1e-4
        assert not np.array_equal(weight, after[name])


def test_noise_is_as_large_as_the_real_update_and_points_elsewhere(tmp_path: Path) -> None:
    source, later = make_tiny_base(tmp_path / "a"), make_tiny_base(tmp_path / "later", step=0.03)
    home, real, noisy = values(source), values(later), values(add_noise(source, tmp_path / "b", like=later, seed=3))
    for name, weight in home.items():
        wanted, noise = (real[name] - weight).ravel(), (noisy[name] - weight).ravel()
        assert np.linalg.norm(noise) == pytest.approx(np.linalg.norm(wanted), rel=0.05)
        if noise.size > 1000:
            assert abs(noise @ wanted) < 0.1 * np.linalg.norm(noise) * np.linalg.norm(wanted)


def test_noise_of_a_relative_size(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "a", dtype="F32")
    home, noisy = values(source), values(add_noise(source, tmp_path / "b", relative=0.01))
    assert all(np.linalg.norm(noisy[n] - w) == pytest.approx(0.01 * np.linalg.norm(w), rel=0.01) for n, w in home.items())


def test_noise_needs_exactly_one_size_and_equal_shapes(tmp_path: Path) -> None:
    source = make_tiny_base(tmp_path / "a")
    with pytest.raises(UsageError, match="one size"):
        add_noise(source, tmp_path / "b")
    other = write_model(tmp_path / "other", tiny_base.weights(config=tiny_llama.CONFIG), tiny_llama.CONFIG)
    with pytest.raises(UsageError, match=r"embed_tokens\.weight"):
        add_noise(source, tmp_path / "c", like=other)


def test_a_random_adapter_is_as_large_in_every_module(tmp_path: Path) -> None:
    weights = tiny_base.weights(1, config=tiny_llama.CONFIG)
    adapter = write_factors(tmp_path / "adapter", factors(weights))
    old, new = factors(weights), load_file(random_adapter(adapter, tmp_path / "random", seed=1) / "adapter_model.safetensors")
    for name in (n for n in old if "lora_A" in n):
        other = name.replace("lora_A", "lora_B")
        before, after = old[other] @ old[name], new[other] @ new[name]
        assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=1e-5)
        assert abs(np.sum(before * after)) < 0.5 * np.linalg.norm(before) ** 2


def test_an_independent_model_shares_only_its_shapes(tmp_path: Path) -> None:
    drawn = tiny_base.weights(1, config=tiny_llama.CONFIG)
    source = write_model(tmp_path / "a", {n: v.astype(np.float32) for n, v in drawn.items()}, tiny_llama.CONFIG)
    home, fresh = values(source), values(independent(source, tmp_path / "b", seed=2))
    assert {n: v.shape for n, v in home.items()} == {n: v.shape for n, v in fresh.items()}
    for name, weight in fresh.items():
        if weight.ndim == 2:
            assert weight.std() == pytest.approx(0.02, rel=0.1)
            assert abs(np.corrcoef(weight.ravel(), home[name].ravel())[0, 1]) < 0.15
        else:
            assert np.all(weight == (1.0 if "norm" in name else 0.0))


def test_encoding_rounds_to_nearest_even() -> None:
    halves = np.array([1.0, 1.00390625, 1.01171875, -1.00390625, 3.0e38], np.float32)  # between two bfloat16 numbers, but the first
    assert encode(halves, "BF16").tolist() == [0x3F80, 0x3F80, 0x3F82, 0xBF80, 0x7F62]
    with pytest.raises(UsageError, match="F8_E4M3"):
        encode(halves, "F8_E4M3")
