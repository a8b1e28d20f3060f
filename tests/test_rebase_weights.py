"""Stage 1: every figure against the plain formula on whole matrices, every class of change on a model that was changed that way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.controls import add_noise, independent, requantise
from tests import tiny_base, tiny_llama
from tests.folders import adapter_config, write_adapter
from tests.tiny_base import safetensors, write_model
from workbench.bases.lock import Lock, build_lock
from workbench.bases.stream import distance
from workbench.bases.tensors import folder_tensors
from workbench.errors import IntegrityError
from workbench.rebase import lineage
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.result import Weights
from workbench.rebase.weights import examine
from workbench.rebase.writing import encode, load, rewrite_base

Array = np.ndarray[Any, Any]
CONFIG = {**tiny_base.CONFIG, "hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 6, "head_dim": 8, "vocab_size": 120}
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj")
R = 4


def base(folder: Path, weights: dict[str, Array], dtype: type = np.float32) -> Path:
    return write_model(folder, {name: value.astype(dtype) for name, value in weights.items()}, CONFIG)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base(tmp_path_factory.mktemp("rebase") / "home", tiny_base.weights(1, config=CONFIG))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    rng, shapes = np.random.default_rng(3), {n: t.shape for n, t in folder_tensors(home).items()}
    tensors = {}
    for module in MODULES:
        out, width = shapes[f"{module}.weight"]
        tensors[f"base_model.model.{module}.lora_A.weight"] = rng.standard_normal((R, width), dtype=np.float32) / 50
        tensors[f"base_model.model.{module}.lora_B.weight"] = rng.standard_normal((out, R), dtype=np.float32) / 5
    config = adapter_config(r=R, lora_alpha=6, use_rslora=True, alpha_pattern={"mlp.up_proj": 2})
    return write_adapter(tmp_path_factory.mktemp("rebase") / "adapter", config, tensors)


def lock(folder: Path) -> Lock:
    return build_lock(folder, {"kind": "folder"})


def check(adapter: Path, home: Path, new: Path, *, gone: bool = False) -> Weights:
    return examine(adapter, lock(home), lock(new), home_folder=None if gone else home, new_folder=new)


def continued(home: Path, out: Path, step: float = 0.05, seed: int = 9) -> Path:
    """Every tensor moved by `step` of its size, the same for all."""
    return add_noise(home, out, relative=step, seed=seed)


def scales() -> dict[str, float]:
    return {m: (2 if "up_proj" in m else 6) / R**0.5 for m in MODULES}


def test_every_figure_is_that_of_the_whole_matrices(tmp_path: Path, home: Path, adapter: Path) -> None:
    new = continued(home, tmp_path / "b")
    found = {m.module: m for m in check(adapter, home, new).modules}
    factors, old, now = tiny_llama.read(adapter), tiny_llama.read(home), tiny_llama.read(new)
    assert set(found) == set(MODULES)
    norm = np.linalg.norm
    for module in MODULES:
        a, b = (factors[f"base_model.model.{module}.lora_{f}.weight"].astype(np.float64) for f in "AB")
        w = old[f"{module}.weight"].astype(np.float64)
        d, update = now[f"{module}.weight"] - w, scales()[module] * b @ a
        q_a, q_b = np.linalg.qr(a.T)[0], np.linalg.qr(b)[0]
        expected = [
            norm(d) / norm(w), norm(d) / norm(update), norm(d @ q_a) / norm(w @ q_a), norm(q_b.T @ d) / norm(q_b.T @ w),
            np.sum(d * update) / norm(d) / norm(update),
        ]  # fmt: skip
        one = found[module]
        assert [one.drift, one.ratio, one.input, one.output, one.alignment] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (found[MODULES[0]].group, found[MODULES[0]].layer, found[MODULES[1]].group) == ("attention", 0, "mlp")


def test_totals_are_roots_of_sums(tmp_path: Path, home: Path, adapter: Path) -> None:
    new = continued(home, tmp_path / "b")
    found = check(adapter, home, new)
    old, now = tiny_llama.read(home), tiny_llama.read(new)
    every = np.concatenate([(now[f"{m}.weight"] - old[f"{m}.weight"]).ravel() for m in MODULES])
    size = np.concatenate([old[f"{m}.weight"].ravel() for m in MODULES])
    assert found.drift == pytest.approx(np.linalg.norm(every) / np.linalg.norm(size), rel=1e-4)
    assert found.embeddings == pytest.approx(0.05, rel=0.02)
    assert found.norms == pytest.approx(0.05, rel=0.05)
    assert (found.change, found.exact, found.error) == ("continuation", True, None)
    assert found.notes == () and found.drift == pytest.approx(0.05, rel=0.02)
    norms = [np.linalg.norm(old[f"{module.module}.weight"]) for module in found.modules]
    assert [module.weight for module in found.modules] == pytest.approx(norms, rel=1e-4)
    assert set(found.worst) == {"layer 0", "layer 1"}


def test_a_base_that_took_the_update_in_points_the_adapters_way(tmp_path: Path, home: Path, adapter: Path) -> None:
    """W_B = W_A + dW: a merged patch, exactly the adapter's own."""
    factors, weights = tiny_llama.read(adapter), tiny_llama.read(home)
    for module in MODULES:
        a, b = (factors[f"base_model.model.{module}.lora_{f}.weight"] for f in "AB")
        weights[f"{module}.weight"] = weights[f"{module}.weight"] + np.float32(scales()[module]) * b @ a
    found = check(adapter, home, base(tmp_path / "b", weights))
    assert found.change == "low_rank"
    assert [found.alignment, found.ratio] == pytest.approx([1.0, 1.0], abs=1e-3)


def patched(home: Path, out: Path) -> Path:
    """A patch of rank 4 merged in bfloat16: rounding noise lies over it."""
    rng = np.random.default_rng(4)
    weights = tiny_llama.read(home)
    for name, value in weights.items():
        if ".layers." in name and value.ndim == 2:
            patch = rng.standard_normal((value.shape[0], 4)) @ rng.standard_normal((4, value.shape[1]))
            value += (0.02 * np.linalg.norm(value) / np.linalg.norm(patch) * patch).astype(np.float32)
    return base(out, weights)


def to_bf16(source: Path, out: Path) -> Path:
    """The same folder with its weights in bfloat16."""
    out.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (out / name).write_bytes((source / name).read_bytes())
    raw = {n: ("BF16", t.shape, encode(load(t), "BF16").tobytes()) for n, t in folder_tensors(source).items()}
    (out / "model.safetensors").write_bytes(safetensors(raw))
    return out


def codebook(source: Path, out: Path) -> Path:
    """Rounded to 16 levels spaced as a normal distribution is, in groups of 64, as NF4 is (Dettmers et al. 2023, arXiv 2305.14314)."""
    from scipy.stats import norm

    levels = norm.ppf(np.linspace(0.03, 0.97, 16)).astype(np.float32)
    levels /= levels.max()

    def change(info: Any) -> Array:
        values = load(info)
        if values.ndim == 2 and ".layers." in info.name:
            groups = values.reshape(-1, values.shape[1] if values.shape[1] % 64 else 64)
            scale = np.abs(groups).max(axis=1, keepdims=True)
            values = (levels[np.abs((groups / scale)[..., None] - levels).argmin(axis=2)] * scale).reshape(values.shape)
        return encode(values, info.dtype)

    return rewrite_base(source, out, change)


CHANGES = {
    "int8": (lambda a, out: requantise(a, out, bits=8), "requantised", "same"),
    "int8 by row": (lambda a, out: requantise(a, out, bits=8, group=4096), "requantised", "same"),
    "int6": (lambda a, out: requantise(a, out, bits=6), "requantised", "same"),
    "int4 of 32": (lambda a, out: requantise(a, out, bits=4, group=32), "requantised", "same"),
    "int3": (lambda a, out: requantise(a, out, bits=3), "requantised", "same"),
    "codebook": (codebook, "requantised", "same"),
    "noise": (lambda a, out: add_noise(a, out, relative=0.01), "continuation", "same"),
    "heavy noise": (lambda a, out: add_noise(a, out, relative=0.4), "continuation", "same"),
    "patch": (patched, "low_rank", "same"),
    "permuted": (lambda a, out: Coordinates.draw(a, 2).write_base(a, out), "permuted", "permuted"),
    "independent": (lambda a, out: independent(a, out, seed=2), "independent", "independent"),
}


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHANGES)
def test_the_kind_of_change_is_recognised(tmp_path: Path, home: Path, adapter: Path, name: str, bf16: bool) -> None:
    make, change, reading = CHANGES[name]
    if bf16:
        stored = to_bf16(home, tmp_path / "home")
        wide = base(tmp_path / "wide", {name: load(info) for name, info in folder_tensors(stored).items()})
        home, new = stored, to_bf16(make(wide, tmp_path / "new32"), tmp_path / "new")
    else:
        new = make(home, tmp_path / "new")
    found = check(adapter, home, new)
    assert found.lineage is not None
    assert (found.change, found.lineage.reading) == (change, reading), found


def test_another_dtype_is_recognised(tmp_path: Path, home: Path, adapter: Path) -> None:
    new = to_bf16(home, tmp_path / "b")
    assert check(adapter, home, new).change == check(adapter, new, home).change == "recast"
    squeezed = rewrite_base(new, tmp_path / "c", lambda info: encode(load(info), "BF16"))
    assert check(adapter, new, squeezed).change == "identical"


def test_the_same_bytes_are_identical_and_not_read(home: Path, adapter: Path) -> None:
    found = check(adapter, home, home)
    assert (found.change, found.drift, found.ratio, found.bytes_read, found.lineage) == ("identical", 0.0, 0.0, 0, None)
    assert found.worst == ()


def test_with_the_old_weights_gone_sketches_answer(tmp_path: Path, home: Path, adapter: Path) -> None:
    new = continued(home, tmp_path / "b")
    exact, guess = check(adapter, home, new), check(adapter, home, new, gone=True)
    assert (guess.change, guess.exact, guess.input, guess.output, guess.alignment, guess.lineage) == ("unknown", False, *[None] * 4)
    assert guess.error is not None and 0.02 < guess.error < 0.2
    assert guess.drift == pytest.approx(exact.drift, rel=4 * guess.error)
    assert guess.ratio == pytest.approx(exact.ratio, rel=4 * guess.error)
    assert check(adapter, home, home, gone=True).change == "identical"
    assert check(adapter, home, to_bf16(home, tmp_path / "c"), gone=True).change == "recast"


def test_other_shapes_are_not_compared(tmp_path: Path, home: Path, adapter: Path) -> None:
    config = {**CONFIG, "intermediate_size": 256}
    new = write_model(tmp_path / "b", tiny_base.weights(1, config=config), config)
    for gone in (False, True):
        found = check(adapter, home, new, gone=gone)
        assert (found.change, found.drift, found.modules) == ("other_shape", None, ())
    assert lineage.compare(home, new).reading == "unclear"


def test_weights_that_are_not_finite_are_named(tmp_path: Path, home: Path, adapter: Path) -> None:
    weights = tiny_llama.read(home)
    weights[f"{MODULES[2]}.weight"][3, 5] = np.nan
    new, fine = base(tmp_path / "b", weights), continued(home, tmp_path / "c")
    with pytest.raises(IntegrityError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        examine(adapter, lock(home), lock(fine), home_folder=home, new_folder=new)
    with pytest.raises(IntegrityError, match=r"down_proj\.weight"):
        distance(*(folder_tensors(folder)[f"{MODULES[2]}.weight"] for folder in (home, new)))


def test_large_finite_weights_are_no_error(tmp_path: Path) -> None:
    """Squares of 1e25 do not fit into float32."""
    folders = [write_model(tmp_path / n, {"x": np.full((3, 5), v, np.float32)}) for n, v in (("a", 1e25), ("b", 3e25))]
    one, two = (folder_tensors(f)["x"] for f in folders)
    assert distance(one, two) == pytest.approx((15 * 4e50, 15e50), rel=1e-5)


def test_an_adapter_without_factors_is_an_error(tmp_path: Path, home: Path) -> None:
    empty = write_adapter(tmp_path / "adapter", tensors={"base_model.model.lm_head.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(IntegrityError, match="no LoRA factors"):
        check(empty, home, home)


def test_lineage_finds_shared_tokens_by_name(tmp_path: Path, home: Path) -> None:
    """Token ids moved with their rows: the residual stream must be aligned over tokens, not rows."""
    weights, order = tiny_llama.read(home), np.random.default_rng(0).permutation(120)
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][order]
    new = base(tmp_path / "b", weights)
    plain = base(tmp_path / "a", tiny_llama.read(home))
    for folder, places in ((plain, np.arange(120)), (new, np.argsort(order))):
        vocab = {f"w{n}": int(places[n]) for n in range(120)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocab}}))
    found = lineage.compare(plain, new)
    assert (found.reading, found.residual_identity) == ("same", 1.0)
    assert found.residual_cosine == pytest.approx(1.0, abs=1e-4)


def test_lineage_survives_new_embeddings(tmp_path: Path, home: Path) -> None:
    weights = tiny_llama.read(home)
    weights["model.embed_tokens.weight"] = np.random.default_rng(8).standard_normal((120, 128)).astype(np.float32)
    found = lineage.compare(home, base(tmp_path / "b", weights))
    assert (found.reading, found.identity, found.agreement) == ("same", 1.0, 1.0)
