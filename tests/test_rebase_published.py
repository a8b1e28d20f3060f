"""Published numbers: ours reproduces theirs, and a file of more cells is read or refused in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import DataError, NotFound
from workbench.rebase.published import compare, read_cells, recovered_lift
from workbench.rebase.verdict import judge_cells


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
        found = judge_cells(home=home, home_adapter=cell.home_adapter or 0, new=cell.new, new_adapter=cell.new_adapter, n=cell.n or 0)
        assert (found.word, found.absorbed) == (cell.expected, False)


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


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("cells: [", "not YAML"),
        ("", "the file"),
        ("[]", "the file"),
        ("cells: []", "cells"),
        ("cells:\n- {name: a, paper: b, new: 0.5}", "cell 1 (a), new_adapter: Field required"),
        ("cells:\n- {name: a, paper: b, new: 70.3, new_adapter: 0.1}", "less than or equal to 1, found 70.3"),
        ("cells:\n- {name: a, paper: b, new: .nan, new_adapter: 0.1}", "cell 1 (a), new"),
        ("cells:\n- {name: a, paper: b, new: 0.1, new_adapter: 0.1, bass: 1}", "cell 1 (a), bass: Extra inputs"),
        ("cells:\n- {name: a, paper: b, new: 0.1, new_adapter: 0.1, n: 0}", "cell 1 (a), n"),
        ("cells:\n- {name: a, paper: b, new: 0.1, new_adapter: 0.1, expected: fine}", "found 'fine'"),
        ("cells:\n- 3", "cell 1"),
        ("cells: 3", "list"),
    ],
)
def test_a_wrong_file_is_one_error_that_says_what_is_wrong(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "cells.yaml"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        read_cells(file)
    assert part in str(error.value) and "new_adapter" in error.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none.yaml"):
        read_cells(tmp_path / "none.yaml")
