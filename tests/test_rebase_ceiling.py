"""Recovered lift from row scores: the published definition, its interval, and what it refuses to divide by."""

from __future__ import annotations

import pytest

from workbench.evidence import Evidence
from workbench.rebase.contrasts import recovered
from workbench.rebase.result import Settings
from workbench.records import ItemScore

N = 200


def arm(right: int, nats: float = 1.0) -> list[ItemScore]:
    return [ItemScore(f"r{i}", nats, 1, 4, i < right) for i in range(N)]


def test_half_of_the_lift_is_a_half_and_its_interval_holds_it() -> None:
    found = recovered(Evidence(arm(40), arm(90)), Evidence(arm(40), arm(140)), "exact_match", seconds=3.0, settings=Settings())
    assert found.score == 0.7 and found.recovered == pytest.approx(0.5)
    assert found.recovered_low is not None and found.recovered_high is not None
    assert found.recovered_low < 0.5 < found.recovered_high
    assert found.headroom.value == pytest.approx(0.25) and found.headroom.above_zero


def test_a_copy_below_the_bare_base_recovers_less_than_nothing() -> None:
    found = recovered(Evidence(arm(120), arm(80)), Evidence(arm(120), arm(180)), "exact_match", seconds=0, settings=Settings())
    assert found.recovered is not None and found.recovered == pytest.approx(-40 / 60) and (found.recovered_high or 0) < 0


def test_a_lift_that_is_not_shown_is_not_divided_by() -> None:
    found = recovered(Evidence(arm(100), arm(100)), Evidence(arm(100), arm(103)), "exact_match", seconds=0, settings=Settings())
    assert found.recovered is None and found.recovered_low is None and found.headroom.value == pytest.approx(0.015)


def test_losses_read_the_same_way_round() -> None:
    found = recovered(
        Evidence(arm(0, 2.0), arm(0, 1.5)), Evidence(arm(0, 2.0), arm(0, 1.0)), "nll_per_token", seconds=0, settings=Settings()
    )
    assert found.score == 1.0 and found.recovered == pytest.approx(0.5) and found.headroom.value == pytest.approx(0.5)
