"""Fetch a base as a job: the download goes on when the page that asked for it is closed."""

from __future__ import annotations

import time
from typing import Any

from workbench.bases.store import Bases
from workbench.jobs.tasks import TaskContext
from workbench.records import Progress

__all__ = ["run"]


def run(ctx: TaskContext) -> dict[str, Any]:
    """Add the base of the spec. Asked again after a crash, it finds the base that is there. Returns {"base": ref}."""

    def say(sentence: str) -> None:
        ctx.report(Progress(t=time.time(), phase="preparing", message=sentence))

    base = Bases().add(ctx.spec["base"], source=ctx.spec.get("source"), on_progress=say)
    return {"base": str(base.ref)}
