"""Records as the store hands them out, small enough to read in a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from workbench.evidence import summary
from workbench.records import Adapter, Attempt, Base, BaseRef, Dataset, ItemScore, Job, JobState, Progress

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
BASE = BaseRef("tiny", "1")
EVIL = "<img src=x onerror=alert(1)>\"'&"  # what a person could name or write anywhere


@cache
def scores(right_before: int, right_after: int, n: int = 200, scorer: str | None = "exact") -> dict[str, Any]:
    """A real summary: the first so many rows are right in each arm."""
    before = [_item(i, i < right_before, 8.0) for i in range(n)]
    after = [_item(i, i < right_after, 2.0 if right_after > right_before else 8.0) for i in range(n)]
    return summary(before, after, scorer).as_dict()


def _item(i: int, right: bool, nll: float) -> ItemScore:
    return ItemScore(f"row-{i}", nll + i % 7 / 10, tokens=8, bytes=20, exact=right, right=right)


def adapter(name: str = "orders", version: int = 1, **changed: Any) -> Adapter:
    values: dict[str, Any] = {
        "name": name,
        "version": version,
        "path": Path(f"/home/adapters/{name}/v{version}"),
        "base": BASE,
        "base_lock_sha256": "ab" * 32,
        "dataset": "order-codes",
        "dataset_sha256": "cd" * 32,
        "method": "lora",
        "manifest_sha256": "ef" * 32,
        "created_at": NOW - timedelta(hours=2),
        "job_id": "job1",
        "scores": scores(2, 160),
    }
    return Adapter(**{**values, **changed})


def job(state: JobState = JobState.running, **changed: Any) -> Job:
    values: dict[str, Any] = {
        "id": "job1",
        "kind": "train",
        "title": "orders: lora on tiny@1",
        "state": state,
        "spec": {"recipe": {"base": "tiny@1", "dataset": "order-codes", "method": "lora", "name": None, "bf16": None, "packing": False}},
        "created_at": NOW - timedelta(minutes=3),
        "attempts": (Attempt(1, "running", Path("/home/jobs/job1/attempt-1")),),
    }
    return Job(**{**values, **changed})


def dataset(**changed: Any) -> Dataset:
    values: dict[str, Any] = {
        "name": "order-codes",
        "path": Path("/home/datasets/order-codes"),
        "sha256": "cd" * 32,
        "rows": 1200,
        "train_rows": 800,
        "test_rows": 400,
        "form": "messages",
        "scorer": "exact",
    }
    return Dataset(**{**values, **changed})


def base(**changed: Any) -> Base:
    values: dict[str, Any] = {
        "ref": BASE,
        "path": Path("/home/bases/tiny/1"),
        "lock_sha256": "ab" * 32,
        "parameters": 134_515_008,
        "dtype": "bfloat16",
        "license": "Apache-2.0",
        "source": {"kind": "folder"},
    }
    return Base(**{**values, **changed})


def training(steps: range, total: int = 60, **changed: Any) -> list[Progress]:
    """Metrics of steps that fall from 3 nats, one line a step."""
    return [
        Progress(
            t=1000.0 + s,
            phase="training",
            step=s,
            total_steps=total,
            loss=3 - 2.5 * s / total,
            tokens=s * 400,
            seconds_left=total - s,
            **changed,
        )
        for s in steps
    ]
