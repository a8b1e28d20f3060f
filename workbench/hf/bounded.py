"""Rows as a base's own tokenizer and chat template show them. Both are strangers' programs, so they run in a child with limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.data.checks import RowLength
from workbench.errors import DataError
from workbench.foreign import GIB, Limits
from workbench.hf.render import Span, render
from workbench.records import Base

__all__ = ["lengths", "spans"]

_SECONDS = 20  # to read a tokenizer on a busy machine
# Whatever the family, reading its configuration imports the same two seconds of libraries.
_LIBRARIES = ("workbench.hf.load", "transformers.models.llama.configuration_llama")


def lengths(base: Base, rows: Sequence[dict[str, Any]], **choices: Any) -> list[RowLength]:
    """The length of every row in the base's tokens; `choices` as for `render`. Raises `DataError`, `UsageError`."""
    return _limits(base, rows).run(_each, base.path, list(rows), "length", choices)


def spans(base: Base, rows: Sequence[dict[str, Any]], *, max_length: int) -> list[list[Span]]:
    """Every row as `Rendered.spans`. Raises `DataError`, `UsageError`."""
    return _limits(base, rows).run(_each, base.path, list(rows), "spans", {"max_length": max_length})


def _limits(base: Base, rows: Sequence[dict[str, Any]]) -> Limits:
    """Many times what honest templates need (about a millisecond a row)."""
    size = sum(len(str(row)) for row in rows)
    return Limits(
        f"The chat template or tokenizer of {base.ref}",
        memory=GIB + 100 * size,
        seconds=round(_SECONDS + len(rows) / 100 + size / 50_000),
        preload=_LIBRARIES,
        error=DataError,
        hint="It is a program that came with the base. Add the base again with a plain chat_template.jinja, or use another base.",
    )


# ---------------------------------------------------------------- in the child


def _each(folder: Path, rows: list[dict[str, Any]], wanted: str, choices: dict[str, Any]) -> list[Any]:
    """`wanted`, an attribute of `Rendered`, of every row."""
    from workbench.hf.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return [getattr(render(tokenizer, row, **choices), wanted) for row in rows]
