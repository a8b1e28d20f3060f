"""What the test rows say of an adapter: its summary, in words and on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.errors import IntegrityError, UsageError
from workbench.evidence import (
    Evidence,
    Summary,
    read_scores,
    summary,
    write_scores,
)
from workbench.records import ItemScore


def arm(exact: list[bool], nll: list[float] | None = None, right: list[bool] | None = None) -> list[ItemScore]:
    nll = nll or [1.0] * len(exact)
    rights = right or [None] * len(exact)
    return [ItemScore(f"r{i}", n, 4, 10, e, r) for i, (e, n, r) in enumerate(zip(exact, nll, rights, strict=True))]


def test_no_flips_never_give_a_zero_width_interval() -> None:
    for both in (False, True):
        gain = summary(arm([both] * 183), arm([both] * 183)).gain["exact_match"]
        assert gain.method == "exact" and gain.value == 0
        assert gain.low == pytest.approx(-gain.high)
        assert 0.0195 < gain.high < 0.02, "183 rows without a flip rule out a loss of 2 points (3.69 / n)"


def test_one_resample_serves_both_arms() -> None:
    """Arms that differ by a constant have a gain without noise, however noisy the rows are."""
    rng = random.Random(1)
    noisy = [rng.uniform(0.1, 100) for _ in range(150)]
    base, better = arm([False] * 150, noisy), arm([False] * 150, [x - 0.04 for x in noisy])
    gain = summary(base, better).gain["nll_per_token"]
    assert gain.method == "bootstrap"
    assert gain.low == pytest.approx(0.01) and gain.high == pytest.approx(0.01) and gain.value == pytest.approx(0.01)


def test_rows_of_one_group_are_resampled_as_one() -> None:
    rng = random.Random(2)
    by_group = [rng.gauss(0.5, 1) for _ in range(20)]
    base = arm([False] * 400, [10.0] * 400)
    adapter = arm([False] * 400, [10.0 - by_group[i // 20] for i in range(400)])
    groups = [f"doc{i // 20}" for i in range(400)]
    alone = summary(base, adapter).gain["nll_per_token"]
    grouped = summary(base, adapter, groups=groups)
    assert grouped.groups == 20 and grouped.gain["nll_per_token"].method == "bootstrap-bca"
    wide = grouped.gain["nll_per_token"]
    assert wide.value == pytest.approx(alone.value)
    assert (wide.high - wide.low) > 3 * (alone.high - alone.low)
    flips = summary(arm([False] * 400), arm([False] * 400), groups=groups).gain["exact_match"]
    assert flips.method == "exact" and 0.15 < flips.high < 0.18, "20 groups without a flip say as much as 20 rows"
    mixed = summary(base, adapter, groups=[None, *groups[1:]])
    assert mixed.groups == 21


def test_summary_counts_flips_both_ways_and_keeps_the_arms_apart() -> None:
    base = arm([True] * 30 + [False] * 70, [8.0] * 100, [True] * 40 + [False] * 60)
    adapter = arm([False] * 10 + [True] * 60 + [False] * 30, [4.0] * 100, [False] * 5 + [True] * 85 + [False] * 10)
    result = summary(base, adapter, "label")
    assert (result.flips["exact_match"].up, result.flips["exact_match"].down) == (40, 10)
    assert (result.flips["right"].up, result.flips["right"].down) == (50, 5)
    assert result.gain["exact_match"].value == pytest.approx(0.3) and result.gain["right"].value == pytest.approx(0.45)
    assert result.base.nll_per_token == pytest.approx(2.0) and result.adapter.nll_per_token == pytest.approx(1.0)
    assert result.base.bits_per_byte == pytest.approx(0.8 / math.log(2)) and result.base.tokens == 400
    assert result.flips["right"].p_value < 1e-6
    assert "right" not in summary(base[:5], arm([True] * 5)).gain, "a scorer counts only where both arms have it"


def test_summary_survives_json_and_is_deterministic() -> None:
    rng = random.Random(7)
    base = arm([rng.random() < 0.3 for _ in range(90)], [rng.uniform(1, 9) for _ in range(90)])
    adapter = arm([rng.random() < 0.7 for _ in range(90)], [rng.uniform(1, 5) for _ in range(90)])
    result = summary(base, adapter, "exact")
    data = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert Summary.from_dict(data) == result
    assert Summary.from_dict({**data, "added_later": 1}) == result
    assert summary(base, adapter, "exact") == result


def test_scores_survive_the_disk(tmp_path: Path) -> None:
    base = arm([True, False], [0.1 + 0.2, 1e-9])
    adapter = [dataclasses.replace(s, right=True, answer="naïve\u2028line\n") for s in arm([False, True])]
    for groups in (None, ["a", None]):
        evidence = Evidence(base, adapter, groups)
        write_scores(tmp_path / "scores.jsonl", evidence)
        assert read_scores(tmp_path / "scores.jsonl") == evidence


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"id": "x"}',
        '{"id": "x", "base": {"nll": 1, "tokens": 1, "bytes": 1, "exact": true}}',
        '{"id": "x", "base": {"nll": NaN, "tokens": 1, "bytes": 1, "exact": true}, "adapter": {}}',
        '{"id": "x", "base": {"nll": 1, "tokens": 0, "bytes": 1, "exact": true}, "adapter": {}}',
    ],
)
def test_damaged_scores_are_named_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "scores.jsonl"
    write_scores(path, Evidence(arm([True]), arm([True])))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(IntegrityError, match="Line 2 of scores.jsonl"):
        read_scores(path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_scores(tmp_path / "absent.jsonl")


def test_bits_per_byte_need_the_length_of_every_arm() -> None:
    base = arm([True] * 30)
    unknown = [dataclasses.replace(score, bytes=0) for score in base]
    assert "bits_per_byte" in summary(base, base).gain
    for arms in ((base, unknown), (unknown, base)):
        told = summary(*arms)
        assert "bits_per_byte" not in told.gain and "nll_per_token" in told.gain
    assert summary(base, unknown).base.bits_per_byte is not None and summary(base, unknown).adapter.bits_per_byte is None


def test_arms_that_are_not_paired_are_refused() -> None:
    with pytest.raises(UsageError, match="same rows"):
        summary(arm([True, True]), arm([True]))
    with pytest.raises(UsageError, match="same rows"):
        summary(arm([True, True]), list(reversed(arm([True, True]))))
    with pytest.raises(UsageError, match="same rows"):
        summary(arm([True, True]), arm([True, True]), groups=["a"])
    with pytest.raises(UsageError, match="no test rows"):
        summary([], [])


@pytest.mark.slow
def test_import_stays_light() -> None:
    code = "import sys, workbench.evidence; assert not {'numpy', 'scipy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
