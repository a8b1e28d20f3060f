"""The lock: what it records, that it is the same everywhere, and how well drift can be read from it."""

from __future__ import annotations

import hashlib
import json
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.tiny_base import HIDDEN, INNER, VOCAB, bf16, make_tiny_base, safetensors, weights
from workbench.bases.lock import build_lock, read_lock, write_lock
from workbench.bases.sketch import drift, fingerprint
from workbench.bases.tensors import floats, folder_tensors, read_header
from workbench.errors import IntegrityError

Array = npt.NDArray[np.float32]


def sketch_of(values: Array) -> Array:
    """The sketch of an array, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(safetensors({"w": ("F32", values.shape, values.tobytes())}))
        return fingerprint(read_header(file)["w"]).numbers()


SOURCE = {"kind": "hub", "repo": "org/model", "commit": "c" * 40, "revision": "main", "path": "/home/somebody"}


def test_the_lock_records_shapes_hashes_norms_and_tokenizer(tmp_path: Path) -> None:
    lock = build_lock(make_tiny_base(tmp_path / "a"), SOURCE)
    name, value = "model.layers.1.mlp.down_proj.weight", weights()["model.layers.1.mlp.down_proj.weight"]
    stored = bf16(value)
    tensor = lock.tensors[name]
    assert (tensor.shape, tensor.dtype) == ((HIDDEN, INNER), "bfloat16")
    assert tensor.sha256 == hashlib.sha256(stored.tobytes()).hexdigest()
    exact = (stored.astype(np.uint32) << 16).view(np.float32)
    assert tensor.norm == pytest.approx(np.linalg.norm(exact.astype(np.float64)), rel=1e-6)
    assert np.array_equal(tensor.numbers(), sketch_of(exact))
    assert lock.parameters == sum(v.size for v in weights().values())
    assert (lock.dtype, lock.model_type, lock.commit) == ("bfloat16", "llama", "c" * 40)
    assert lock.special_ids == {"bos_token": 1, "eos_token": 2, "pad_token": 0, "unk_token": None}
    assert lock.eos_token_ids == (2,)
    assert lock.tokenizer["vocab_size"] == VOCAB
    assert lock.chat_template is not None and "im_start" in lock.chat_template


def test_the_lock_depends_on_the_content_alone(tmp_path: Path) -> None:
    first = write_lock(make_tiny_base(tmp_path / "a"), SOURCE)
    copy = make_tiny_base(tmp_path / "b", config={"transformers_version": "9.9", "_name_or_path": "x"})
    again = write_lock(copy, {**SOURCE, "path": "/else"})
    assert first.sha256 == again.sha256
    assert "somebody" not in (tmp_path / "a" / "lock.json").read_text()
    assert read_lock(tmp_path / "a" / "lock.json") == first
    other = build_lock(make_tiny_base(tmp_path / "c", seed=1), SOURCE)
    assert other.weights_sha256 != first.weights_sha256 and other.config_sha256 == first.config_sha256


def test_the_sketch_is_part_of_the_format() -> None:
    """Golden numbers: should they ever change, sketches in old locks could not be compared with new ones."""
    values = np.arange(-5000, 5000, dtype=np.float32) / 1000
    found = sketch_of(values)
    np.testing.assert_allclose(found[:4], [5.356, -40.064, 43.051, -29.932], rtol=1e-6)
    assert float(np.linalg.norm(found)) == pytest.approx(321.2037658691406)


def test_sketches_subtract_and_keep_the_norm() -> None:
    rng = np.random.default_rng(7)
    a, d = rng.standard_normal(20_000).astype(np.float32), rng.standard_normal(20_000).astype(np.float32)
    np.testing.assert_allclose(sketch_of(a + d) - sketch_of(a), sketch_of(d), atol=1e-3)
    tensors = rng.standard_normal((400, 5000)).astype(np.float32)
    ratios = [float(np.sum(sketch_of(x).astype(float) ** 2) / np.sum(x.astype(float) ** 2)) for x in tensors]
    # mean 1 (unbiased), variance 2/64: the standard error of the mean of 400 is 0.009
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)
    assert np.std(np.sqrt(ratios)) == pytest.approx(np.sqrt(2 / 64) / 2, rel=0.2)


def test_drift_over_many_tensors_is_good_to_a_few_percent() -> None:
    rng = np.random.default_rng(3)
    true = estimated = 0.0
    for n in range(100):
        a = rng.standard_normal((96, 64)).astype(np.float32)
        b = a + 0.01 * (1 + n % 5) * rng.standard_normal((96, 64)).astype(np.float32)
        true += float(np.sum((b - a).astype(np.float64) ** 2))
        estimated += drift(sketch_of(a), sketch_of(b)) ** 2
    assert np.sqrt(estimated / true) == pytest.approx(1.0, abs=0.05)


def test_a_tensor_is_streamed(tmp_path: Path) -> None:
    """Peak memory stays far below two tensors, and what lies in the last piece lands where it would land alone."""
    big = np.random.default_rng(0).standard_normal((3000, 2000)).astype(np.float32)  # 6 M values, six pieces, 24 MB
    (tmp_path / "model.safetensors").write_bytes(safetensors({"w": ("F32", big.shape, big.tobytes())}))
    info = folder_tensors(tmp_path)["w"]
    fingerprint(info)  # the random signs are cached
    tracemalloc.start()
    found = fingerprint(info)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * big.nbytes
    assert found.norm == pytest.approx(float(np.linalg.norm(big.astype(np.float64))), rel=1e-6)
    spike = np.zeros_like(big)
    spike[-1, -1] = 300.0
    assert sorted(np.abs(sketch_of(spike)))[-2:] == [0.0, 300.0]
    np.testing.assert_allclose(sketch_of(big + spike) - sketch_of(big), sketch_of(spike), atol=0.01)


def test_float8_values_match_the_standard() -> None:
    codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0xB8], dtype=np.uint8)
    assert floats(codes, "F8_E4M3").tolist() == [0.0, 2.0**-9, 2.0**-6, 1.0, 448.0, -1.0]
    assert floats(np.array([0x01, 0x3C, 0x7B, 0x7C], dtype=np.uint8), "F8_E5M2").tolist() == [2.0**-16, 1.0, 57344.0, float("inf")]


def test_whole_numbers_are_hashed_but_not_sketched(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors({"packed": ("U8", (4,), b"abcd")}))
    found = fingerprint(read_header(tmp_path / "model.safetensors")["packed"])
    assert (found.sha256, found.norm, found.sketch) == (hashlib.sha256(b"abcd").hexdigest(), None, None)


@pytest.mark.parametrize("damage", ["no json", "[]", '{"schema": 1}', '{"schema": 99}'])
def test_a_damaged_lock_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text(damage)
    with pytest.raises(IntegrityError, match="is not a lock"):
        read_lock(path)


def test_a_lock_with_a_changed_tensor_entry_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "a")
    write_lock(folder, SOURCE)
    data = json.loads((folder / "lock.json").read_text())
    data["tensors"]["model.norm.weight"]["surprise"] = 1
    (folder / "lock.json").write_text(json.dumps(data))
    with pytest.raises(IntegrityError, match="surprise"):
        read_lock(folder / "lock.json")
