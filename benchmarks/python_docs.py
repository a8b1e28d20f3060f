"""docs/python.md: what a script can call, from signatures and docstrings. tests/hf/test_python_docs.py runs its examples."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from workbench import errors, records
from workbench.api import Workbench
from workbench.bases.store import Bases
from workbench.data.store import Datasets
from workbench.jobs.store import Jobs
from workbench.planning import Plan
from workbench.prune import Leftover
from workbench.rebasing import Rebase
from workbench.registry.store import Registry

__all__ = ["python_page"]

_PARTS = {"bench": Workbench, "bench.bases": Bases, "bench.datasets": Datasets, "bench.jobs": Jobs, "bench.adapters": Registry}
_PARTS |= {"bench.rebase": Rebase}
_RECORDS = (records.Base, records.Dataset, records.Job, records.Attempt, records.Progress, records.Adapter, Plan, Leftover)
_INNER = {"publish", "recover", "ensure_running", "submit"}  # what the engine calls; a script has no use for it


def python_page(mark: str) -> str:
    """The page as Markdown, after the line `mark`."""
    parts = [
        mark,
        "# From Python",
        "`Workbench` is the one front door: the command line and the browser pages call nothing else. Whatever trains, scores or merges\n"
        "is a job in a process of its own; the calls below submit it, and `bench.jobs.wait` waits for it.",
    ]
    for name, part in _PARTS.items():
        parts.append(f"## {name}\n\n{_prose(part)}")
        parts += [f"### {name}.{_signature(method)}\n\n{_prose(method)}" for method in _methods(part)]
    parts.append("## Records\n\nWhat the calls return. All are frozen; `workbench.records.as_json` makes plain JSON values of them.")
    for record in _RECORDS:
        fields = "\n".join(f"    {line.strip()}" for line in _fields(record))
        parts.append(f"### {record.__name__}\n\n{_prose(record)}\n\n```python\n{textwrap.dedent(fields)}\n```")
    parts.append(f"## Errors\n\n{_prose(errors)}")
    return "\n\n".join(parts) + "\n"


def _methods(part: type) -> Iterator[Callable[..., Any]]:
    for name, value in vars(part).items():
        if inspect.isfunction(value) and not name.startswith("_") and name not in _INNER:
            yield value


def _signature(method: Callable[..., Any]) -> str:
    """`add(file, *, name=None) -> Dataset`: without the types of the arguments, which the docstring explains."""
    found = inspect.signature(method)
    bare = [p.replace(annotation=inspect.Parameter.empty) for name, p in found.parameters.items() if name != "self"]
    shown = re.sub(r"=<function .+? at 0x\w+>", "=…", str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty)))
    return f"{method.__name__}{shown}" + (f" → {found.return_annotation}" if found.return_annotation != "None" else "")


def _prose(documented: Any) -> str:
    """A docstring; its indented paragraphs become code."""
    made = []
    for paragraph in (inspect.getdoc(documented) or "").split("\n\n"):
        if paragraph.startswith(("    ", ">>> ")):
            code = textwrap.dedent(paragraph)
            # doctest takes what follows for output up to an empty line, so one stands before the fence
            paragraph = f"```python\n{code}\n\n```" if ">>>" in code else f"```text\n{code}\n```"
        made.append(paragraph)
    return "\n\n".join(made)


def _fields(record: type) -> list[str]:
    """The lines of a record's fields, as they are written, comments included."""
    lines = inspect.getsource(record).splitlines()
    return [line for line in lines if re.match(r"    \w+: ", line)]
