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
from workbench_ui.words import Words

__all__ = ["guarded", "spoken"]

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("workbench.ui")


def guarded(t: Words) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Wrap an event handler: what it raises ends as a message that says what to do, never as a silent button."""

    def wrap(handler: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(handler)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            value, problem = spoken(t, lambda: handler(*args, **kwargs))
            if problem:
                raise gr.Error(problem, duration=20, print_exception=False)
            return value  # type: ignore[return-value]

        return run

    return wrap


def spoken(t: Words, call: Callable[[], R]) -> tuple[R | None, str]:
    """Run `call`; return its value and, where it failed, what to tell the person (HTML-escaped), else an empty string."""
    try:
        return call(), ""
    except gr.Error:
        raise
    except WorkbenchError as error:
        return None, html.escape(str(error)).replace("\n", "<br>")
    except Exception:
        ref = secrets.token_hex(3)
        _log.exception("browser request failed, ref %s", ref)
        return None, html.escape(t("error.ours", ref=ref))
