"""How long things may take, in seconds. Tests use short ones; nobody else should need to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["Timing"]


@dataclass(frozen=True)
class Timing:
    """Passed from the dispatcher to its shims in order.json."""

    lease: float = 60.0  # a claimed attempt must have begun by then; renewed three times as often
    start: float = 300.0  # a child that has not said a word by then hangs
    grace: float = 30.0  # between SIGTERM and SIGKILL, and for a child that has written its outcome to leave
    look: float = 1.0  # how often a shim looks whether its job was cancelled
    poll: float = 0.5  # how often the dispatcher looks for work and for the dead
    idle: float = 60.0  # a dispatcher that started by itself leaves after so long without work
    store: float = 600.0  # how long a shim tries to tell the database how its attempt ended
    log_bytes: int = 10_000_000  # of output kept per file; there are two

    @classmethod
    def of(cls, values: dict[str, float]) -> Timing:
        """From an order or a command line; another version's keys are passed over, its missing ones have their defaults."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})  # type: ignore[arg-type]
