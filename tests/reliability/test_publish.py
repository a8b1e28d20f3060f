"""A process that dies at any step of publishing, removing or restoring leaves the old state or the new one, never half."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults import Faults
from tests.folders import write_adapter
from tests.tiny_base import make_tiny_base
from workbench import manifest, paths
from workbench.bases.store import Bases
from workbench.records import Adapter, Base
from workbench.registry.store import Registry


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Bases().add("tiny@1", source=f"folder:{make_tiny_base(tmp_path / 'tiny')}", license="Apache-2.0")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "trained")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


def publish(folder: Path, base: Base, name: str, job: str) -> Adapter:
    return Registry().publish(folder, name=name, base=base, dataset=None, method="lora", recipe=None, scores={}, job_id=job)


def test_a_kill_at_any_step_of_publishing(base: Base, trained: Path, faults: Faults, capsys: pytest.CaptureFixture[str]) -> None:
    registry, n, old, new = Registry(), 0, 0, 0
    publish(trained, base, "warm-up", "job-0")
    killed = True
    while killed:
        n += 1
        name, job = f"orders-{n}", f"job-{n}"
        killed = faults.killed_at(n, lambda name=name, job=job: publish(trained, base, name, job))
        found = [a for a in registry.list() if a.name == name]
        old, new = old + (not found), new + bool(found)
        for folder in (paths.adapters_dir() / name).glob("v*"):
            manifest.verify(folder)
        again = publish(trained, base, name, job)  # the job runs again
        assert again.ref == f"{name}@1" and registry.get(again.ref, verify=True) == again
        assert not found or again.manifest_sha256 == found[0].manifest_sha256
    assert publish(trained, base, name, "another").version == 2
    assert n > 20 and old and new > 1, "kills must hit before and after the commit"
    with capsys.disabled():
        sys.stdout.write(f"\nRELIABILITY publish kills={n - 1} before_commit={old} after_commit={new - 1} half=0 lost=0\n")


def test_a_kill_while_removing_or_restoring(base: Base, trained: Path, faults: Faults) -> None:
    registry = Registry()
    publish(trained, base, "orders", "job")
    for action, undo, goes_in in ((registry.remove, registry.restore, True), (registry.restore, registry.remove, False)):
        n, killed = 0, True
        while killed:
            n += 1
            killed = faults.killed_at(n, lambda action=action: action("orders@1"))
            live, trashed = registry.list(), registry.list(trashed=True)
            assert len(live) + len(trashed) == 1
            row = (live or trashed)[0]
            manifest.verify(row.path, row.manifest_sha256)
            if bool(trashed) != goes_in:
                action("orders@1")  # whoever asked asks again
            undo("orders@1")
        action("orders@1")
        assert n > 4
