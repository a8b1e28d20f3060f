"""What the kinds of job share: the base, dataset and recipe as they were at submission, and phases that no later attempt repeats."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from workbench import manifest
from workbench.bases.store import Bases
from workbench.data.store import Datasets
from workbench.errors import IntegrityError
from workbench.jobs.tasks import TaskContext
from workbench.records import Base, Dataset

__all__ = ["finished", "frozen_base", "frozen_dataset"]


def finished(ctx: TaskContext, name: str, work: Callable[[Path], None]) -> Path:
    """The finished folder `name`: copied from an earlier attempt that got so far, else made by `work(folder)`."""
    goal, draft = ctx.folder / name, ctx.folder / f"{name}.partial"
    for folder in ctx.earlier:
        done = folder / name
        if (done / manifest.NAME).is_file():
            manifest.verify(done, allow_extra=True)
            shutil.copytree(done, goal, ignore=shutil.ignore_patterns("evidence") if name == "trained" else None)
            return goal
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    work(draft)
    manifest.write(draft)
    os.rename(draft, goal)
    return goal


def frozen_base(ref: str, lock_sha256: str) -> Base:
    """The base of this name; raises `IntegrityError` when it is not the one that the job was submitted for."""
    base = Bases().get(ref)
    if base.lock_sha256 != lock_sha256:
        raise IntegrityError(f"{ref} is not the base this job was submitted for: its lock changed.", hint="Submit the job again.")
    return base


def frozen_dataset(name: str, sha256: str) -> Dataset:
    """The dataset of this name; raises `IntegrityError` when it is not the one that the job was submitted for."""
    dataset = Datasets().get(name)
    if dataset.sha256 != sha256:
        raise IntegrityError(f"{name} is not the dataset this job was submitted for: its rows changed.", hint="Submit the job again.")
    return dataset
