"""Where the browser's side ends errors: expected ones become a sentence on the page, bugs a reference into the log."""

from __future__ import annotations

import functools
import html
import logging
import secrets
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gradio as gr

from workbench.errors import WorkbenchError
from workbench.words import Words

__all__ = ["guarded", "spoken"]

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("workbench.ui")


def guarded(t: Words) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Wrap an event handler: what it raises ends as a message that says what to do, never as a silent button.

    The message travels as the event's error; `assets/workbench.js` shows it, because Gradio shows none for events
    that do not go through its queue.
    """

    def wrap(handler: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(handler)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            value, problem = _caught(t, lambda: handler(*args, **kwargs))
            if problem:
                raise gr.Error(problem, print_exception=False)
            return value  # type: ignore[return-value]

        return run

    return wrap


def spoken(t: Words, call: Callable[[], R]) -> tuple[R | None, str]:
    """Run `call`; return its value and, where it failed, what to say on the page (as markup), else an empty string."""
    value, problem = _caught(t, call)
    return value, html.escape(problem).replace("\n", "<br>")


def _caught(t: Words, call: Callable[[], R]) -> tuple[R | None, str]:
    try:
        return call(), ""
    except WorkbenchError as error:
        return None, t.said(str(error))
    except Exception:
        ref = secrets.token_hex(3)
        _log.exception("browser request failed, ref %s", ref)
        return None, t("error.ours", ref=ref)
