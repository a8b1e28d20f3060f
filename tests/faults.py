"""Faults at the n-th step: an error of the disk, or the death of the process, wherever something is written or committed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from workbench.db import session


class DiskError(OSError):
    """What the disk says at the chosen step."""


class Faults:
    """Counts the steps that change the disk or commit a transaction, and acts before the chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = -1
        self._act: Callable[[], object] = lambda: None
        self._engines: list[Any] = []
        for module, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (shutil, "copyfile"), (shutil, "rmtree")):
            monkeypatch.setattr(module, name, self._before(getattr(module, name)))

    def error_at(self, n: int) -> None:
        """The n-th step from now raises `DiskError`."""
        self._arm(n, self._raise)

    def killed_at(self, n: int, action: Callable[[], object]) -> bool:
        """Run `action` in a child process that dies without a word at its n-th step; False when it came to its end."""
        session.dispose()
        child = os.fork()
        if child == 0:
            try:
                self._arm(n, lambda: os._exit(137))
                action()
            finally:
                os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137

    def off(self) -> None:
        self._left = -1

    def _arm(self, n: int, act: Callable[[], object]) -> None:
        from sqlalchemy import event

        engine = session.engine()
        if engine not in self._engines:
            event.listen(engine, "commit", self._step)
            self._engines.append(engine)
        self._left, self._act = n, act

    def _step(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()

    def _before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            self._step()
            return real(*args, **kwargs)

        return stepping

    @staticmethod
    def _raise() -> None:
        raise DiskError(28, "No space left on device")
