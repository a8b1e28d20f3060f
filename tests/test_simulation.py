"""The simulation gives the rule the intervals that a real check gives it, and the rule keeps its error rates."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks import simulate as simulation
from benchmarks.simulate import loss_intervals, simulate, success_intervals, truth
from benchmarks.states import STATES
from workbench.evidence import Evidence
from workbench.rebase.contrasts import tabulate
from workbench.rebase.result import Settings
from workbench.records import ItemScore

FOUND = {"gain", "transfer", "served", "alone", "kept"}


def scores(values: np.ndarray, exact: np.ndarray) -> list[ItemScore]:
    return [ItemScore(f"r{i}", float(v) * 4, 4, 10, bool(e)) for i, (v, e) in enumerate(zip(values, exact, strict=True))]


@pytest.mark.parametrize("n", [50, 100, 400])
def test_synthetic_tables_get_the_intervals_of_real_ones(n: int) -> None:
    """Within what 5,000 resamples scatter; exact bounds to the digit."""
    rng = np.random.default_rng(n)
    for name in ("copy as good", "three points of harm behind a better base", "half of the gain known to the new base"):
        state = next(s for s in STATES if s.name == name)
        bits = np.array([[int(b) for b in row] for row in state.rows])
        counts = rng.multinomial(n, list(state.rows.values()))
        made = success_intervals(bits, counts[None], n)[0]
        rows = np.repeat(bits, counts, axis=0)
        arms = [scores(np.ones(n), rows[:, k]) for k in range(4)]
        real = tabulate(Evidence(*arms[:2]), Evidence(*arms[2:]), same_tokenizer=True, settings=Settings()).contrasts["exact_match"]
        for key in FOUND:
            mine, theirs = getattr(made, key), getattr(real, key)
            assert mine.value == pytest.approx(theirs.value) and mine.method.split("-")[0] == theirs.method.split("-")[0]
            near = 1e-12 if mine.method == "exact" else 1.6 / n + (0.02 if key == "kept" and n < 100 else 0.004)
            assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=near), (name, key)


def test_synthetic_losses_get_the_same_resamples_as_real_ones() -> None:
    rng = np.random.default_rng(3)
    losses = rng.gamma(2, 0.5, (120, 1, 4)).astype(np.float32)
    made = loss_intervals(losses)[0]
    arms = [scores(losses[:, 0, k], np.zeros(120)) for k in range(4)]
    real = tabulate(Evidence(*arms[:2]), Evidence(*arms[2:]), same_tokenizer=True, settings=Settings(resamples=1000))
    for key in FOUND:
        mine, theirs = getattr(made, key), getattr(real.contrasts["nll_per_token"], key)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_each_true_state_is_one_distribution_and_every_word_occurs() -> None:
    assert all(sum(s.rows.values()) == pytest.approx(1) for s in STATES if s.rows)
    assert {truth(s).word for s in STATES if not s.limit} == {"works", "weaker", "lost", "does harm", "not needed", "no gain at home"}
    assert [s.name for s in STATES if truth(s).absorbed] == ["half of the gain known to the new base", "loss: half known to the new base"]


def test_the_rule_keeps_its_error_rates_and_the_same_on_point_estimates_does_not() -> None:
    names = {"nothing left", "below the bare new base", "three points of harm behind a better base", "new base as good alone"}
    states = [s for s in STATES if s.name in names]
    table = simulate(400, (100,), states=states)
    assert table.false_works("rule").worst <= 0.025 and table.false_alarm("rule").worst <= 0.025
    assert table.false_works("points").worst > 0.05
    assert simulate(400, (100,), states=states).outcomes == table.outcomes, "the same seed, the same figures"
    assert all(sum(o.words["rule"].values()) == pytest.approx(1) for o in table.outcomes)


@pytest.mark.slow
def test_the_command_prints_every_state_and_both_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["simulate", "--sets", "10"])
    simulation.main()
    text = capsys.readouterr().out
    assert all(state.name in text for state in STATES) and "on point estimates" in text and "2.5 %" in text
