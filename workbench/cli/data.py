"""`workbench data`: the rows you teach."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from workbench.cli.base import whole_ref
from workbench.cli.groups import CommandGroup, Words, bench, json_option
from workbench.cli.output import ago, count, fields, json_answer, note, say, table
from workbench.cli.report import print_report
from workbench.data.formats import FORMATS
from workbench.data.scorers import SCORERS
from workbench.errors import UsageError
from workbench.records import MAX_LENGTH, Dataset

__all__ = ["data"]

FILE = click.Path(path_type=Path)
_STYLES = {"template": {"dim": True}, "prompt": {"fg": "cyan"}, "learned": {"fg": "green", "bold": True}}


@click.group(cls=CommandGroup)
def data() -> None:
    """The rows you teach. A file is recognised, checked, and gets a test part that no training ever sees."""


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that answer what a file cannot say itself, shared by `add` and `check`."""
    for option in reversed(
        [
            click.option("--form", type=Words(list(FORMATS)), help="What a row is, where it cannot be recognised."),
            click.option("--question", metavar="COLUMN", help="The column with the question."),
            click.option("--answer", metavar="COLUMN", help="The column with the answer."),
            click.option(
                "--column",
                "columns",
                multiple=True,
                metavar="ROLE=COLUMN",
                help="Any other column, such as system=hint; also split=none, keep=label, keep='score>=4'.",
            ),
            click.option("--raw", is_flag=True, help="Keep prompt and completion as they are, without a chat template."),
            click.option("--system", metavar="TEXT", help="One system message in front of every row."),
            click.option("--test-file", type=FILE, help="A file that is the test part. Default: a part of FILE is frozen."),
            click.option("--drop", multiple=True, metavar="KIND,KIND", help="Leave out bad rows of these kinds: empty, overlap, roles, …"),
        ]
    ):
        command = option(command)
    return command


@data.command()
@click.argument("file", type=FILE)
@click.option("--name", help="What to call it. Default: the file's name.")
@click.option(
    "--test-share",
    type=click.FloatRange(0, 0.9),
    metavar="SHARE",
    help="The share frozen as the test part. Default: 0.1.",
)
@click.option("--test-rows", type=click.IntRange(0), metavar="N", help="About so many rows as the test part instead.")
@click.option("--scorer", metavar="|".join(SCORERS), help="What makes an answer right.")
@reading_options
@json_option
def add(file: Path, **options: Any) -> None:
    """Read a file, list every problem, freeze a test part, and keep the rows under a name.

    JSONL, JSON, CSV and Parquet; chat messages, prompt and completion, plain text, Alpaca and ShareGPT.
    """
    added = bench().datasets.add(file, **_reading(options))
    report = bench().datasets.report(added.name)
    json_answer({"dataset": added, "report": report})
    print_report(report)
    say(f"\nAdded {added.name}: {count(added.train_rows)} rows to train on, {count(added.test_rows)} kept for the test.")
    say(f"See what is learned: workbench data preview {added.name} --base BASE")


@data.command("list")
@json_option
def list_data() -> None:
    """List the datasets that are here, the bundled examples included."""
    datasets = bench().datasets.list()
    for name, problem in bench().datasets.broken().items():
        note(f"The dataset {name} is damaged: {problem}. Remove it: workbench data remove {name}")
    json_answer(datasets)
    rows = [(d.name, count(d.train_rows), count(d.test_rows), d.form, d.scorer or "", _origin(d)) for d in datasets]
    empty = "No datasets yet. Add one: workbench data add FILE"
    table(("dataset", "train", "test", "form", "scorer", "added"), rows, empty=empty, right=("train", "test"))


@data.command()
@click.argument("name")
@json_option
def show(name: str) -> None:
    """Show one dataset: its parts, its hash, and what the check found when it was added."""
    dataset = bench().datasets.get(name)
    report = bench().datasets.report(name)
    json_answer({"dataset": dataset, "report": report})
    fields(
        [
            ("dataset", dataset.name),
            ("rows", f"{count(dataset.train_rows)} to train on, {count(dataset.test_rows)} kept for the test"),
            ("form", dataset.form),
            ("scorer", dataset.scorer or "none: answers are judged by how well they are predicted"),
            ("added", _origin(dataset)),
            ("folder", dataset.path),
            ("sha256", dataset.sha256),
        ]
    )
    say()
    print_report(report)


@data.command()
@click.argument("file_or_name")
@click.option("--base", metavar="BASE", help="Count lengths in this base's tokens.")
@click.option("--max_length", type=click.IntRange(8), metavar="N", default=MAX_LENGTH, show_default=True, help="Longer rows would be cut.")
@click.option("--all", "everything", is_flag=True, help="Print every warning, not the first few of each kind.")
@reading_options
@json_option
def check(file_or_name: str, base: str | None, max_length: int, everything: bool, **options: Any) -> int:
    """List every problem of a file or a dataset, with row numbers. Changes nothing. Exit status 1 when rows are unusable."""
    reading, base = _reading(options), base and whole_ref(base)
    report = bench().check_data(file_or_name, base=base, max_length=max_length, **reading)
    status = int(bool(report.problems))
    json_answer(report.as_dict(), status=status)
    print_report(report.as_dict(), everything=everything)
    return status


@data.command()
@click.argument("name")
@click.option("--base", metavar="BASE", required=True, help="Whose tokenizer and chat template to show.")
@click.option("-n", "rows", type=click.IntRange(1, 100), metavar="N", default=3, show_default=True, help="How many rows.")
@click.option("--split", type=Words(["train", "test"]), default="train", show_default=True, help="Which part.")
@click.option("--max_length", type=click.IntRange(8), metavar="N", default=MAX_LENGTH, show_default=True, help="Where rows are cut.")
@json_option
def preview(name: str, base: str, rows: int, split: str, max_length: int) -> None:
    """Show rows exactly as the trainer will see them, and which part is learned."""
    shown = bench().preview(name, whole_ref(base), n=rows, split=split, max_length=max_length)
    json_answer([[{"text": text, "class": kind} for text, kind in spans] for spans in shown])
    words = {"template": "template", "prompt": "prompt", "learned": "learned ⟦so⟧"}
    say("  ".join(click.style(word, **_STYLES[kind]) for kind, word in words.items()))  # type: ignore[arg-type]
    for number, spans in enumerate(shown, start=1):
        say(f"\n── row {number} " + "─" * 60)
        for kind, tokens in groupby(spans, key=lambda span: span[1]):
            say(_painted("".join(text for text, _ in tokens), kind), end="")
        say()


@data.command()
@click.argument("name")
def remove(name: str) -> None:
    """Move a dataset to the trash. Adapters made from it keep their evidence."""
    bench().datasets.remove(name)
    say(f"Removed {name}.")


def _origin(dataset: Dataset) -> str:
    return "comes with the workbench" if dataset.bundled else ago(dataset.added_at)


def _painted(text: str, kind: str) -> str:
    marked = f"⟦{text}⟧" if kind == "learned" else text
    return click.style(marked, **_STYLES[kind])  # type: ignore[arg-type]


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """Turn `--question`, `--answer` and `--column role=name` into one mapping of roles to columns, `--drop a,b` into a list."""
    named = {role: options.pop(role) for role in ("question", "answer")}
    mapping = {role: column for role, column in named.items() if column}
    for pair in options.pop("columns", ()):
        role, equals, column = pair.partition("=")
        if not (role and equals and column):
            raise UsageError(f"--column takes role=column, not '{pair}'.", hint="Such as: --column system=hint")
        mapping[role] = column
    drop = [kind.strip() for given in options.pop("drop") for kind in given.split(",") if kind.strip()]
    return {**options, "mapping": mapping or None, "drop": drop}
