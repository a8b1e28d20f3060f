"""docs/check.md and docs/check.schema.json: the JSON of a rebase check, from its records and the comments beside their fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import tokenize
from io import StringIO
from typing import Any

from pydantic import TypeAdapter

from workbench import stats
from workbench.rebase import result
from workbench.rebase.verdicts import VERDICTS

__all__ = ["check_page", "check_schema"]

_RECORDS: tuple[type[Any], ...] = (
    result.Check,
    result.Structure,
    result.Finding,
    result.Weights,
    result.Lineage,
    result.ModuleDrift,
    result.Probes,
    result.Verdict,
    result.Contrasts,
    stats.Interval,
    result.Settings,
    result.Witness,
    result.Health,
    result.Retrained,
)
_LEFT_OUT = {
    "structure": "a [structure](#structure)",
    "weights": "a [weights](#weights), or null when stage 1 was not asked for",
    "probes": "a [probes](#probes), or null",
    "health": "a [health](#health), or null",
    "retrained": "a [retrained](#retrained), or null",
    "lineage": "a [lineage](#lineage), or null",
    "settings": "the [settings](#settings) it was decided by",
}


def check_page(made: str) -> str:
    """docs/check.md."""
    words = ", ".join(f"`{word}`" for word in VERDICTS)
    changes = ", ".join(f"`{change}`" for change in result.CHANGES)
    parts = [
        made,
        "# The JSON of a rebase check",
        "`workbench rebase check … --json FILE` writes an array of checks, `workbench rebase show … --json` prints one, and\n"
        "`<home>/checks/<adapter>/v<N>/<base>/check.json` is one. The keys are stable: one is only removed or given another meaning\n"
        "with a new `schema`. New keys may be added. NaN and infinity are null. [check.schema.json](check.schema.json) is the same as a\n"
        "JSON schema.",
        f"A verdict is one of, from good to bad: {words}. A change of weights is one of: {changes}.",
        "Exit status of `workbench rebase check`: 0 checked; 3 a verdict is the one of `--fail-on` or a worse one; 1 it could not be\n"
        "checked; 2 wrongly called. Without `--fail-on` a finished check exits with 0, whatever it says.",
    ]
    for record in _RECORDS:
        notes = {**field_notes(record), **({"word": "the verdict's word, or null"} if record is result.Check else {})}
        rows = ["| key | type | meaning |", "|---|---|---|"]
        rows += [f"| `{name}` | {_kind(record, name)} | {_told(name, note)} |" for name, note in notes.items()]
        about = " ".join((inspect.getdoc(record) or "").split("\n\n")[0].split())
        parts.append(f"## {record.__name__.lower()}\n\n{about}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def check_schema() -> str:
    """docs/check.schema.json."""
    schema = TypeAdapter(result.Check).json_schema(mode="serialization")
    schema["properties"]["word"] = {"anyOf": [{"enum": list(VERDICTS)}, {"type": "null"}], "title": "Word"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A rebase check"}
    return json.dumps({**schema, **head}, indent=1, sort_keys=True) + "\n"


def field_notes(record: type[Any]) -> dict[str, str]:
    """Field -> the comment at the end of its line; "" for a field that says it all."""
    source = inspect.getsource(record)
    comments = {
        token.start[0]: re.sub(r"^#\s*", "", token.string)
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    lines = {node.target.id: node.end_lineno for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {field.name: comments.get(lines.get(field.name) or 0, "") for field in dataclasses.fields(record)}


def _told(name: str, note: str) -> str:
    return (note or _LEFT_OUT.get(name, name.replace("_", " "))).replace("|", "\\|")


def _kind(record: type[Any], name: str) -> str:
    """A field's type in JSON's words."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(record)}
    kind = kinds.get(name, "str | None")
    if kind == "tuple[float, float] | None":
        return "array of 2 numbers or null"
    for pattern, word in _WORDS.items():
        kind = re.sub(pattern, word, kind)
    return kind


_WORDS = {
    r"tuple\[(\w+), \.\.\.\]": r"array of \1",
    r"dict\[str, (?:Any|dict.*)\]": "object",
    r"dict\[str, (\w+)\]": r"object of \1",
    r" \| None": " or null",
    r"\bstr\b": "string",
    r"\b(?:float|int)\b": "number",
    r"\bbool\b": "true or false",
}
