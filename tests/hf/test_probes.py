"""Stage 2 on tiny models: what must be 1 or 0 is, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hf.tiny_adapter import order_rows, tiny_adapter
from tests.tiny_base import make_tiny_base
from workbench.errors import DataError
from workbench.hf.evaluate import evaluate
from workbench.hf.load import load_base, load_tokenizer
from workbench.hf.probes import linear_cka, passages_nll, probe
from workbench.rebase.health import neutral_passages
from workbench.rebase.recoordinate import Coordinates

pytestmark = pytest.mark.torch
ROWS = order_rows(24)


@pytest.fixture(scope="module")
def base(pico_base: Path) -> Path:
    return pico_base


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return tiny_adapter(base)


def test_a_base_against_itself_differs_in_nothing(base: Path, adapter: Path) -> None:
    same = probe(base, base, adapter, ROWS, max_length=256)
    assert same.prompts == 24
    assert same.cka_mean == pytest.approx(1.0) and all(value == pytest.approx(1.0) for value in same.cka.values())
    assert same.top1_agreement == 1.0 and same.jsd == pytest.approx(0.0, abs=1e-6)
    assert same.effect_correlation == pytest.approx(1.0) and same.effect_slope == pytest.approx(1.0)
    assert same.effect_ratio == pytest.approx(1.0)


def test_the_dose_curve_starts_at_the_bare_base_and_passes_the_adapter(base: Path, adapter: Path) -> None:
    dose = probe(base, base, adapter, ROWS, max_length=256).dose
    scored = evaluate(base, adapter, ROWS[:8], max_length=256, dtype=torch.float32)
    for alpha, arm in (("0", scored.base), ("1", scored.adapter)):
        assert dose[alpha] == pytest.approx(sum(s.nll for s in arm) / sum(s.tokens for s in arm), rel=1e-4)
    assert dose["1"] < dose["0.5"] < dose["0"], "the adapter was trained on these rows"


def test_cka_is_blind_to_a_change_of_coordinates_and_the_effect_is_not(base: Path, adapter: Path, tmp_path: Path) -> None:
    moved = Coordinates.draw(base, seed=3).write_base(base, tmp_path / "moved")
    found = probe(base, moved, adapter, ROWS, max_length=256)
    assert found.cka_mean == pytest.approx(1.0, abs=1e-3)
    assert found.top1_agreement == 1.0
    assert (found.effect_correlation or 0.0) < 0.9
    assert found.dose["1"] > found.dose["0"] / 2, "the copy must not help much in other coordinates"


def test_an_independent_base_agrees_with_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    stranger = make_tiny_base(tmp_path / "stranger", 7, dtype="F32")
    found = probe(base, stranger, adapter, ROWS, max_length=256)
    assert found.cka_mean < 0.99 and (found.top1_agreement or 0.0) < 0.6 and (found.jsd or 0.0) > 0.1


def test_cka_of_noise_is_small_and_of_a_rotation_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator))
    assert linear_cka(x, 3 * x @ rotation) == pytest.approx(1.0)
    assert linear_cka(x, torch.randn(200, 16, generator=generator)) < 0.2


def test_passages_cost_the_same_alone_and_in_a_batch(base: Path) -> None:
    model, tokenizer = load_base(base, dtype=torch.float32), load_tokenizer(base)
    texts = neutral_passages()[:4]
    together = passages_nll(model, tokenizer, texts)
    for text, (nats, size) in zip(texts, together, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            plain = model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
        assert nats == pytest.approx(float(plain), rel=1e-4) and size == len(text.encode())


def test_no_rows_is_an_error(base: Path, adapter: Path) -> None:
    with pytest.raises(DataError, match="no prompts"):
        probe(base, base, adapter, [], max_length=256)
