"""What a job can do. Each kind is one module with one class: its fields are what a job is told, `of` checks that before it is
submitted, and `run` does it, in the job's own process.

Another distribution adds a kind by an entry point in the group `workbench.jobs`: `name = "module:Class"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from workbench.errors import JobError, UsageError
from workbench.records import Progress

__all__ = ["KINDS", "Spec", "TaskContext", "read"]

KINDS = {
    "train": "workbench.jobs.training:TrainSpec",
    "evaluate": "workbench.jobs.scoring:EvaluateSpec",
    "merge": "workbench.jobs.merging:MergeSpec",
    "fetch": "workbench.jobs.fetching:FetchSpec",
    "rebase": "workbench.jobs.checking:RebaseSpec",
    "rebase-selftest": "workbench.jobs.rebase_selftest:SelfTestSpec",
}


@dataclass(frozen=True)
class TaskContext:
    """Everything a task may know and use beside its spec."""

    job_id: str
    attempt: int
    folder: Path  # of this attempt; also the working directory
    earlier: list[Path]  # folders of earlier attempts, newest first
    token: str  # the fencing token: `db.fencing.check(connection, token)` before anything outside `folder` changes
    report: Callable[[Progress], None]
    stopping: Callable[[], bool]


class Spec(BaseModel):
    """What one job is told, frozen at its submission: written to the database and read from it by the same class."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: ClassVar[str]
    retired: ClassVar[frozenset[str]] = frozenset()  # keys that earlier versions wrote and nothing reads any more

    @property
    def title(self) -> str:
        """What it does, in one line, for people."""
        raise NotImplementedError

    @property
    def needs(self) -> tuple[Path, ...]:
        """Files outside its own folder that must stay until it has ended, though nothing else holds them."""
        return ()

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """Do it. Returns the job's result (JSON); raises a `WorkbenchError` to fail with that message.

        When `ctx.stopping()` becomes true it saves what it needs and raises anything; a later attempt finds the folder in
        `ctx.earlier`. It may be run again after a crash at any moment, even after its last write: what it publishes must be
        published once per `job_id`.
        """
        raise NotImplementedError


def read(kind: str, stored: Mapping[str, Any]) -> Spec:
    """The spec of a job from the database, whichever version wrote it.

    Raises `UsageError` for an unknown kind, `JobError` for a spec that its class cannot read.
    """
    place = KINDS.get(kind) or next((entry.value for entry in entry_points(group="workbench.jobs", name=kind)), None)
    if place is None:
        raise UsageError(f"There is no kind of job '{kind}'.", hint=f"There are: {', '.join(sorted(KINDS))}.")
    made: type[Spec] = resolve_name(place)
    try:
        return made.model_validate({key: value for key, value in stored.items() if key not in made.retired})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise JobError(f"What this job of kind {kind} was told cannot be read: {wrong}.", hint="Submit the job again.") from None
