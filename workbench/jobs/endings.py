"""How an attempt ended, read from what it left behind. The shim asks after its child, the dispatcher after a dead shim."""

from __future__ import annotations

import dataclasses
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.jobs.folder import EXIT, OUTCOME, read_json, write_json

__all__ = ["Ending", "after_child", "after_shim", "write"]


@dataclass(frozen=True)
class Ending:
    """`crashed` counts against the job's `max_crashes`; `interrupted` (cancelled, told to stop, reboot) does not."""

    how: Literal["succeeded", "failed", "crashed", "interrupted"]
    exit_code: int | None = None
    result: dict[str, Any] | None = None
    error: str | None = None


def write(folder: Path, ending: Ending) -> None:
    """exit.json, so that nothing is lost while the database is away."""
    write_json(folder / EXIT, dataclasses.asdict(ending))


def after_child(folder: Path, exit_code: int, *, asked: str | None) -> Ending:
    """The ending of a child that is gone. `asked`: why it was told to stop, if it was."""
    outcome = read_json(folder / OUTCOME)
    if outcome is not None and outcome.get("ok"):
        return Ending("succeeded", exit_code, result=outcome.get("result"))
    if asked is not None:
        return Ending("interrupted", exit_code, error=asked)
    if outcome is None:
        return Ending("crashed", exit_code, error=f"{_in_words(exit_code)} It left no result.")
    if outcome.get("stopped"):
        return Ending("crashed", exit_code, error="Somebody else sent its process SIGTERM.")
    return Ending("failed", exit_code, error=str(outcome.get("error")))


def after_shim(folder: Path, *, rebooted: bool, began: bool, seen_to_fail: bool) -> Ending:
    """The ending of an attempt whose supervisor is dead and whose processes are gone."""
    record = read_json(folder / EXIT)
    if record is not None and record.keys() == {field.name for field in dataclasses.fields(Ending)}:
        return Ending(**record)
    outcome = read_json(folder / OUTCOME)
    if outcome is not None and outcome.get("ok"):
        return Ending("succeeded", result=outcome.get("result"))
    if outcome is not None and not outcome.get("stopped"):
        return Ending("failed", error=str(outcome.get("error")))
    if rebooted:
        return Ending("interrupted", error="The machine was restarted.")
    if not began and not seen_to_fail:
        return Ending("interrupted", error="It was claimed, but the dispatcher ended before starting it.")
    if not began:
        return Ending("crashed", error="Its supervisor could not start; shim.log in its folder says why.")
    return Ending("crashed", error="Its supervisor was killed.")


def _in_words(code: int) -> str:
    if code >= 0:
        return f"The process ended with status {code}."
    name = signal.Signals(-code).name if -code in signal.valid_signals() and -code < 32 else f"signal {-code}"
    return f"The process was killed by {name}" + (" (out of memory? The kernel's log would say so.)" if -code == signal.SIGKILL else ".")
