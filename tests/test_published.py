"""Published numbers: ours reproduces theirs, and a file of more cells is read or refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks import published
from benchmarks.published import compare, independent, judge, read_cells, recovered_lift


def test_every_published_number_is_met() -> None:
    found = compare(read_cells())
    assert [one.cell.name for one in found if one.agrees is False] == []
    assert sum(one.agrees is True for one in found) == 8
    words = {one.cell.name: (one.verdict.word, one.verdict.absorbed) for one in found if one.verdict is not None}
    assert words == {
        "M4 to M5": ("works", False),
        "M3 to M5": ("works", True),
        "M2 to M3": ("weaker", False),
        "M1 to M5": ("does harm", False),
    }


def test_recovered_lift_is_upgradebenchs() -> None:
    assert recovered_lift(0.4286, 0.6071, 0.9312) == pytest.approx(-0.551, abs=5e-4)
    assert recovered_lift(0.1279, 0.1432, 0.9289) == pytest.approx(-0.0195, abs=5e-5)
    assert recovered_lift(0.52, 0.5, 0.515) is None, "retraining buys 1.5 points: no denominator"
    assert recovered_lift(0.5, 0.5, 0.4) is None


@pytest.mark.parametrize(("name", "homes"), [("M4 to M5", (0.6435, 0.6465)), ("M2 to M3", (0.1895, 0.197)), ("M1 to M5", (0.1305, 0.1335))])
def test_recovered_source_scores_are_good_enough_for_their_words(name: str, homes: tuple[float, float]) -> None:
    cell = next(cell for cell in read_cells() if cell.name == name)
    for home in homes:
        decision = judge([home, cell.home_adapter or 0, cell.new, cell.new_adapter], cell.n or 0)
        assert (decision.word, decision.absorbed) == (cell.expected, False)


def test_further_cells_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "cells:\n- {name: ours, paper: Us, home: 0.1, home_adapter: 0.9, new: 0.1, new_adapter: 0.12, n: 500, expected: lost}\n"
        "- {name: wrong, paper: Us, home: 0.1, home_adapter: 0.9, new: 0.1, new_adapter: 0.12, n: 500, expected: works}\n"
        "- {name: bare, paper: Us, new: 0.1, new_adapter: 0.12}\n"
    )
    found = compare(read_cells(file))
    assert [one.agrees for one in found] == [True, False, None]
    assert found[2].verdict is None and found[2].recovered is None


@pytest.mark.parametrize("wrong", ["", "cells: []", "cells: 3", "cells:\n- {name: a, paper: b, new: 70.3, new_adapter: 0.1}"])
def test_a_wrong_file_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "cells.yaml"
    file.write_text(wrong)
    with pytest.raises(ValidationError):
        read_cells(file)


def test_the_independent_interval_is_newcombes() -> None:
    """9 of 10 against 3 of 10 by method 10 of Newcombe 1998 (Statistics in Medicine 17, 873-890): 0.1705 to 0.8090."""
    gain = independent([-1, 1], [0.3, 0.9], 10)
    assert gain.value == pytest.approx(0.6) and (gain.low, gain.high) == pytest.approx((0.1705, 0.8090), abs=1e-4)


def test_the_command_prints_ours_beside_theirs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["published"])
    published.main()
    shown = capsys.readouterr().out
    assert "-0.551" in shown and "2503.20110" in shown and "widens the intervals" in shown and "Not as published" not in shown
