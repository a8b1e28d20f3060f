"""The simulation gives the rule the intervals that a real check gives it, and the rule keeps its error rates."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from workbench.cli.rebase_statistics import published
from workbench.cli.rebase_statistics import simulate as simulate_command
from workbench.evidence import Evidence
from workbench.rebase.contrasts import measure
from workbench.rebase.result import Settings
from workbench.rebase.simulate import loss_intervals, simulate, success_intervals, truth
from workbench.rebase.states import STATES
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
        real = measure(Evidence(*arms[:2]), Evidence(*arms[2:]), same_tokenizer=True, settings=Settings()).contrasts["exact_match"]
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
    real = measure(Evidence(*arms[:2]), Evidence(*arms[2:]), same_tokenizer=True, settings=Settings(resamples=1000))
    for key in FOUND:
        mine, theirs = getattr(made, key), getattr(real.contrasts["nll_per_token"], key)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_each_true_state_is_one_distribution_and_every_word_occurs() -> None:
    assert all(sum(s.rows.values()) == pytest.approx(1) for s in STATES if s.rows)
    assert {truth(s).word for s in STATES if not s.limit} == {"works", "weaker", "lost", "does harm", "not needed", "no gain at home"}
    assert [s.name for s in STATES if truth(s).absorbed] == ["half of the gain known to the new base", "loss: half known to the new base"]


def test_the_rule_keeps_its_error_rates_and_the_one_first_written_does_not() -> None:
    names = {"nothing left", "below the bare new base", "three points of harm behind a better base", "new base as good alone"}
    table = simulate(400, (100,), states=[s for s in STATES if s.name in names])
    assert table.false_works("guarded").worst <= 0.025 and table.false_alarm("guarded").worst <= 0.025
    assert table.false_works("first").worst > 0.5 and table.false_alarm("first").worst > 0.5
    assert table.false_works("points").worst > 0.05
    again = simulate(400, (100,), states=[s for s in STATES if s.name in names])
    assert again.outcomes == table.outcomes, "the same seed, the same figures"
    assert all(sum(o.words["guarded"].values()) == pytest.approx(1) for o in table.outcomes)


def test_the_commands_print_tables_and_json() -> None:
    text = CliRunner().invoke(simulate_command, ["--sets", "10"], catch_exceptions=False).output
    assert "copy as good" in text and "on point estimates" in text and "2.5 %" in text
    shown = CliRunner().invoke(published, [], catch_exceptions=False).output
    assert "-0.551" in shown and "2503.20110" in shown and "widens the intervals" in shown and "Not as published" not in shown
    data = json.loads(CliRunner().invoke(published, ["--json"], catch_exceptions=False).output)
    assert data[0]["recovered"] == pytest.approx(-0.5508, abs=1e-3) and data[2]["verdict"]["word"] == "works"
