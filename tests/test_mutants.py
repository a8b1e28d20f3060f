"""The table of `make mutate`: what counts as killed, and when it is too little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import mutants


@pytest.mark.parametrize(("killed", "enough"), [(8, True), (7, False)])
def test_four_of_five_must_be_killed_and_what_no_test_reaches_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], killed: int, enough: bool
) -> None:
    """A test that failed or took too long noticed; one that passed, or that is not there, did not; untried mutants do not count."""
    codes = [1] * (killed - 1) + [-24] + [0, 33] + [0] * (8 - killed) + [None] * 5
    record = tmp_path / "workbench" / "jobs" / "queue.py.meta"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"exit_code_by_key": {f"workbench.jobs.queue.x_claim__mutmut_{n}": code for n, code in enumerate(codes)}}))
    monkeypatch.setattr(mutants, "MUTANTS", tmp_path)
    assert mutants.report(diffs=False) is enough
    assert f"| workbench.jobs.queue | 10 | {killed} | 1 | {9 - killed} | 1 | {10 * killed} |" in capsys.readouterr().out


def test_the_sample_is_of_modules_that_exist() -> None:
    for module in [*mutants.CORE, *mutants.SAMPLE]:
        file = mutants.ROOT / Path(*module.split("."))
        assert file.with_suffix(".py").is_file() or file.is_dir(), module
