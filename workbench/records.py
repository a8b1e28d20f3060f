"""The records that cross layers, and the references people type, parsed once at the edge.

Everything here is frozen, has no behaviour beyond printing itself, and turns into JSON with `as_json`:
those keys are the stable keys of every `--json` option.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
import types
import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from workbench.errors import UsageError

__all__ = [
    "DTYPES",
    "MAX_LENGTH",
    "VERSION",
    "Adapter",
    "AdapterRef",
    "Attempt",
    "Base",
    "BaseRef",
    "Dataset",
    "ItemScore",
    "Job",
    "JobState",
    "PHASES",
    "Progress",
    "as_json",
    "check_dtype",
    "check_name",
    "from_json",
]

MAX_LENGTH = 1024  # tokens; a longer row is cut, unless a recipe says otherwise
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
VERSION = re.compile(r"[1-9][0-9]{0,8}")  # of an adapter: `isdigit` would take ² and more digits than a database holds
DTYPES = ("bfloat16", "float16", "float32")  # that weights are written in
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_name(name: str, kind: str = "name") -> str:
    """Return `name` if it is safe as a folder name everywhere, else raise `UsageError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{name!r} cannot be a {kind}.",
            hint="Use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting and ending with a letter or digit.",
        )
    return name


def check_dtype(dtype: str) -> str:
    """Return `dtype` if weights are written in it, else raise `UsageError`."""
    if dtype not in DTYPES:
        raise UsageError(f"'{dtype}' is no type for weights.", hint=f"Use one of {', '.join(DTYPES)}.")
    return dtype


@dataclass(frozen=True, order=True)
class BaseRef:
    """One version of an open-weight model: `family@version`, such as `smollm2-135m-instruct@1`."""

    family: str
    version: str

    @classmethod
    def parse(cls, text: str | BaseRef) -> BaseRef:
        if isinstance(text, BaseRef):
            return text
        family, at, version = str(text).partition("@")
        if not at:
            raise UsageError(f"'{text}' names no version of a base.", hint="Write family@version, such as smollm2-135m-instruct@1.")
        return cls(check_name(family, "base family"), check_name(version, "base version"))

    def __str__(self) -> str:
        return f"{self.family}@{self.version}"


@dataclass(frozen=True)
class AdapterRef:
    """`name` (newest version), `name@3` or `name@champion`."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str | AdapterRef) -> AdapterRef:
        if isinstance(text, AdapterRef):
            return text
        name, at, rest = str(text).partition("@")
        check_name(name, "adapter name")
        if not at:
            return cls(name)
        if VERSION.fullmatch(rest):
            return cls(name, version=int(rest))
        if _ALIAS.fullmatch(rest):
            return cls(name, alias=rest)
        raise UsageError(
            f"{str(text)[:100]!r} is neither name@3 nor name@alias.", hint="An alias is 1 to 32 of a-z, 0-9, '_', '-', letter first."
        )

    def __str__(self) -> str:
        return f"{self.name}@{self.version or self.alias}" if self.version or self.alias else self.name


@dataclass(frozen=True)
class Base:
    """A base that is on disk and locked."""

    ref: BaseRef
    path: Path  # the folder with config.json, model*.safetensors and the tokenizer
    lock_sha256: str  # of lock.json: the identity of this base everywhere else
    parameters: int
    dtype: str  # of the weights on disk, such as "bfloat16"
    license: str  # SPDX id or the licence's own name
    source: dict[str, Any]  # {"kind": "hub"|"folder"|"gguf"|"wheel"|"trained", ...}; hub has "repo" and "commit"
    continues: BaseRef | None = None
    added_at: datetime | None = None


@dataclass(frozen=True)
class Dataset:
    """Rows in canonical form, content-hashed, with a train part and a frozen test part."""

    name: str
    path: Path  # folder with data.jsonl, dataset.json, README.md
    sha256: str  # of data.jsonl
    rows: int
    train_rows: int
    test_rows: int
    form: str  # "messages" | "prompt_completion" | "text"
    scorer: str | None  # one of `data.scorers.SCORERS`, "numeric" with its tolerance behind a colon
    bundled: bool = False
    added_at: datetime | None = None


class JobState(StrEnum):
    """queued -> running -> (interrupted -> queued ...) -> one of the four last, which are final."""

    queued = "queued"
    running = "running"
    interrupted = "interrupted"
    succeeded = "succeeded"
    failed = "failed"
    failed_permanently = "failed_permanently"
    cancelled = "cancelled"

    @property
    def final(self) -> bool:
        return self in {JobState.succeeded, JobState.failed, JobState.failed_permanently, JobState.cancelled}

    @property
    def resumable(self) -> bool:
        """Whether a job may be put back into the queue by hand."""
        return self not in {JobState.queued, JobState.running, JobState.succeeded}


PHASES = ("preparing", "training", "testing", "publishing")  # of a training job, in their order


@dataclass(frozen=True)
class Progress:
    """One line of metrics.jsonl. Absent values are None; a reader must accept unknown keys."""

    t: float  # seconds since the epoch
    phase: str  # one of `PHASES`; a check names its stages
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None  # nats per supervised token, mean since the line before
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None  # real (not padding) tokens trained on so far
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    message: str | None = None
    samples: list[dict[str, str]] | None = None  # [{"prompt", "expected", "answer"}]

    @property
    def share(self) -> float | None:
        """How much of its phase is done, 0 to 1; None where no steps are counted."""
        return min(1.0, self.step / self.total_steps) if self.step is not None and self.total_steps else None

    def onto(self, before: Progress | None) -> Progress:
        """This line with what it leaves out taken from `before`; another phase counts its own steps, so nothing carries over."""
        if before is None or before.phase != self.phase:
            return self
        given = {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) is not None}
        return dataclasses.replace(before, **given)

    def __str__(self) -> str:
        parts = [self.phase, f"{self.step}/{self.total_steps}" if self.step is not None and self.total_steps else ""]
        parts += [f"{name} {value:.4g}" for name in ("loss", "eval_loss") if (value := getattr(self, name)) is not None]
        parts += [f"{self.seconds_left:.0f} s left" if self.seconds_left is not None else "", self.message or ""]
        return ", ".join(filter(None, parts))

    def __repr__(self) -> str:
        return f"<Progress {self}>"


@dataclass(frozen=True)
class Attempt:
    """One try at a job."""

    n: int
    state: str  # "running" | "interrupted" | "succeeded" | "failed" | "cancelled"
    path: Path  # <home>/jobs/<id>/attempt-<n>
    started_at: datetime | None = None  # when its process was taken up, not when the job was submitted
    ended_at: datetime | None = None
    exit_code: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Job:
    """A durable unit of work in its own process."""

    id: str
    kind: str  # "train", ...
    title: str
    state: JobState
    spec: dict[str, Any]  # frozen at submission; for "train" {"recipe": {...}}
    created_at: datetime
    ended_at: datetime | None = None
    cancel_requested: bool = False
    attempts: tuple[Attempt, ...] = ()
    result: dict[str, Any] | None = None  # for "train" {"adapter": "name@1", ...}
    error: str | None = None
    progress: Progress | None = None  # the newest line of the newest attempt

    def worked(self, now: datetime | None = None) -> float:
        """Seconds that its attempts have run, up to `now` (else the present); waiting in the queue is no work."""
        spans = [(a.ended_at or now or datetime.now(UTC)) - a.started_at for a in self.attempts if a.started_at]
        return sum(max(0.0, span.total_seconds()) for span in spans)  # clocks are put back

    def _told(self) -> dict[str, str]:
        """What is worth a line: how far it is, or what came of it."""
        made = next((str(made) for key in ("adapter", "base", "out") if (made := (self.result or {}).get(key))), "")
        newest = str(self.progress) if self.progress and not self.state.final else ""
        return {
            "job": self.id, "state": self.state.value, "what": self.title, "progress": newest, "made": made, "error": self.error or "",
        }  # fmt: skip

    def __repr__(self) -> str:
        told = [" ".join(text.split()) for text in self._told().values() if text]
        return f"<Job {told[0]} {': '.join(told[1:])}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        told = self._told() | ({"worked": f"{self.worked():.0f} s"} if self.attempts else {})
        rows = (f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in told.items() if text)
        return f"<table>{''.join(rows)}</table>"


@dataclass(frozen=True)
class ItemScore:
    """How one test row fared under one arm (base, or base + adapter)."""

    id: str  # the row's id in data.jsonl
    nll: float  # summed negative log-likelihood of the answer's tokens, in nats
    tokens: int  # number of answer tokens, end of turn included
    bytes: int  # UTF-8 length of the answer
    exact: bool  # teacher-forced argmax right at every answer token = greedy decoding reproduces it
    right: bool | None = None  # by the dataset's own scorer; None when it has none
    answer: str | None = None  # the generated answer, where one was generated


@dataclass(frozen=True)
class Adapter:
    """A named, versioned, immutable result."""

    name: str
    version: int
    path: Path  # a plain PEFT folder
    base: BaseRef
    base_lock_sha256: str
    dataset: str | None
    dataset_sha256: str | None
    method: str  # "lora" | "qlora" | "imported"
    manifest_sha256: str
    created_at: datetime
    aliases: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()  # "name@2" of adapters this one was made from
    job_id: str | None = None
    scores: dict[str, Any] = field(default_factory=dict)  # evidence.Summary.as_dict(); {} without evidence
    trashed_at: datetime | None = None

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


def as_json(value: Any) -> Any:
    """Turn records into plain JSON values: references to text, times to ISO 8601, paths to text; NaN and infinities, which JSON does
    not know, to null."""
    if isinstance(value, BaseRef | AdapterRef):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    return value


@cache
def _types(kind: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def from_json(kind: Any, data: Any) -> Any:
    """Build a record of numbers and texts from what `as_json` made of it, by the types of its fields; keys that it does not know are
    left out. Raises `KeyError`, `TypeError` or `AttributeError` for what is none."""
    if data is None:
        return None
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return from_json(next(a for a in arguments if a is not type(None)), data)
    if origin is tuple:
        return tuple(from_json(arguments[0], value) for value in data)
    if origin is dict:
        return {key: from_json(arguments[1], value) for key, value in data.items()}
    if dataclasses.is_dataclass(kind):
        known = [f.name for f in dataclasses.fields(kind) if f.name in data]
        return typing.cast(Any, kind)(**{name: from_json(_types(typing.cast(Any, kind))[name], data[name]) for name in known})
    return data
