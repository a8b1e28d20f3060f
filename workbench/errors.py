"""Every error the workbench raises on purpose.

    WorkbenchError            what happened, what was found, what to do next
    ├── UsageError            a reference or value that cannot be understood (also ValueError)
    ├── NotFound              nothing of that name is here (also LookupError)
    ├── Conflict              it exists already, or somebody else changed it first
    ├── DataError             a training file cannot be used; `problems` lists every row at fault
    ├── RecipeError           a recipe is not runnable; `problems` lists all reasons at once
    ├── SourceError           a base cannot be fetched from any of its sources
    ├── IntegrityError        a file on disk is not what its lock or manifest says
    ├── ImportRefused         an adapter from outside breaks an import rule
    ├── MissingDependency     an optional package is not installed
    ├── DatabaseError         the database cannot be reached, read or understood
    ├── TrainingError         a run was stopped because going on would be a waste
    └── JobError              a job cannot do what was asked in its present state
        ├── JobFailed         a job that was waited for ended without success
        └── Fenced            this process no longer owns its attempt

They are caught in two places only: the command line's `main` and the browser's guard.
Anything else that escapes is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "Conflict",
    "DataError",
    "DatabaseError",
    "Fenced",
    "ImportRefused",
    "IntegrityError",
    "JobError",
    "LayoutMissing",
    "JobFailed",
    "MissingDependency",
    "NotFound",
    "RecipeError",
    "SourceError",
    "TrainingError",
    "UsageError",
    "WorkbenchError",
]


class WorkbenchError(Exception):
    """The base of all expected errors. `str()` is the message followed by the hint."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(WorkbenchError, ValueError):
    """A reference or a value that cannot be understood."""


class NotFound(WorkbenchError, LookupError):
    """Nothing of that name is here."""

    @classmethod
    def of(cls, kind: str, name: str, have: Sequence[str], *, command: str) -> NotFound:
        """`No adapter named 'foo'. You have: bar, baz. List them: workbench adapter list`"""
        shown = ", ".join(list(have)[:12]) + (", …" if len(have) > 12 else "")
        found = f"You have: {shown}." if have else f"There is no {kind} yet."
        return cls(f"No {kind} named '{name}'. {found}", hint=f"List them: {command}")


class Conflict(WorkbenchError):
    """It exists already, or somebody else changed it first."""


class _WithProblems(WorkbenchError):
    def __init__(self, message: str, problems: Sequence[str] = (), *, hint: str = "") -> None:
        self.problems = list(problems)
        listed = "".join(f"\n  - {p}" for p in self.problems)
        super().__init__(message + listed, hint=("\n" + hint) if listed and hint else hint)


class DataError(_WithProblems, ValueError):
    """A training file cannot be used; `problems` lists every row at fault."""


class RecipeError(_WithProblems, ValueError):
    """A recipe is not runnable; `problems` lists all reasons at once."""


class SourceError(WorkbenchError):
    """A base cannot be fetched from any of its sources."""


class IntegrityError(WorkbenchError):
    """A file on disk is not what its lock or manifest says."""


class ImportRefused(WorkbenchError):
    """An adapter from outside breaks an import rule."""


class MissingDependency(WorkbenchError, ImportError):
    """An optional package is not installed."""


class DatabaseError(WorkbenchError):
    """The database cannot be reached, read or understood."""


class TrainingError(WorkbenchError):
    """A run was stopped because going on would be a waste; the message says what to change."""


class JobError(WorkbenchError):
    """A job cannot do what was asked in its present state."""


class JobFailed(JobError):
    """A job that was waited for ended without success."""


class Fenced(JobError):
    """This process no longer owns its attempt: another one took over, or the job was cancelled."""


class LayoutMissing(WorkbenchError):
    """A child that reads a stranger's adapter needs the names in memory of its base, and may not ask for them (`bases.layout`)."""
