"""Only the answer that was asked for last may be drawn.

A page asks again with every change, and a slow answer (the first one reads a tokenizer) may come back after a later quick
one. Gradio would draw it, and the page would show what was true for an older form.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from threading import Lock

__all__ = ["Newest"]

_SESSIONS = 1000  # windows remembered; an older one merely loses this protection


class Newest:
    """Hands out tickets per window; a ticket is good until the same window draws another."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self._last: OrderedDict[str, int] = OrderedDict()
        self._lock = Lock()

    def ticket(self, session: str | None) -> tuple[str, int]:
        with self._lock:
            ticket = (session or "", next(self._count))
            self._last[ticket[0]] = ticket[1]
            self._last.move_to_end(ticket[0])
            if len(self._last) > _SESSIONS:
                self._last.popitem(last=False)
        return ticket

    def is_newest(self, ticket: tuple[str, int]) -> bool:
        with self._lock:
            return self._last.get(ticket[0], ticket[1]) == ticket[1]
