"""The queue against a model of it, thousands of operations in random order, on both databases; and the first start at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.reliability.queue_model import QueueMachine
from workbench.db import session

# SQLite waits for the disk at each commit, so the counts are what 15 seconds allow.
EXAMPLES = {"sqlite": 45, "postgres": 30}


def test_the_queue_behaves_like_its_model(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    QueueMachine.operations = 0
    chosen = settings(
        max_examples=EXAMPLES[database],
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # a shortest failure takes minutes to find; the steps of the first one are printed
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(QueueMachine, settings=chosen)
    with capsys.disabled():
        sys.stdout.write(f"\nRELIABILITY queue model on {database}: operations={QueueMachine.operations} differences=0\n")
    assert QueueMachine.operations > 500


def test_many_processes_may_be_the_first(database: str) -> None:
    code = "from workbench.db import session\nwith session.transaction() as c: session.now(c); print('made')"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == ["made"] * 3
    with session.transaction() as connection:
        assert session.now(connection) > 0
