"""Fetch a base as a job: the download goes on when the page that asked for it is closed."""

from __future__ import annotations

import time
from typing import Any

from workbench.bases.store import Bases
from workbench.errors import Conflict
from workbench.jobs.tasks import Spec, TaskContext
from workbench.records import BaseRef, Progress

__all__ = ["FetchSpec"]


class FetchSpec(Spec):
    """Add a base to the home."""

    kind = "fetch"

    base: str
    source: str | None = None

    @classmethod
    def of(cls, bases: Bases, base: str | BaseRef, source: str | None) -> FetchSpec:
        """Raises `NotFound` for a name nobody knows, `Conflict` when the base is there already."""
        ref = BaseRef.parse(base)
        if bases.has(ref):
            raise Conflict(f"The base {ref} is here already.")
        if source is None:
            bases.catalogue().get(ref)
        return cls(base=str(ref), source=source)

    @property
    def title(self) -> str:
        return f"Fetch {self.base}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Asked again after a crash, it finds the base that is there. Returns {"base": ref}."""

        def say(sentence: str) -> None:
            ctx.report(Progress(t=time.time(), phase="preparing", message=sentence))

        return {"base": str(Bases().add(self.base, source=self.source, on_progress=say).ref)}
