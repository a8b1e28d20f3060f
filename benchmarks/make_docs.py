"""Write the pages that are derived from the code: docs/cli.md from `--help`, docs/recipe.md from the
recipe model, docs/python.md from docstrings, docs/findings.md and docs/check.md from the catalogue and the records of the rebase check.

    python -m benchmarks.make_docs            write them (or: make docs)
    python -m benchmarks.make_docs --check    exit 1 when one is out of date

tests/test_docs.py runs the check.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.check_docs import check_page, check_schema
from benchmarks.python_docs import python_page
from workbench.cli import root
from workbench.cli.recipe_options import default_text, kind_of
from workbench.rebase.findings import CATALOGUE, LEVELS, described
from workbench.recipe import GROUPS, KEYS, PRESETS, Recipe

DOCS = Path(__file__).resolve().parent.parent / "docs"
_MADE = "<!-- Made by benchmarks/make_docs.py: do not edit. -->"
WIDTH = 100


def commands() -> Iterator[tuple[str, click.Context]]:
    """Every command with its context, in the order of the overview: `workbench`, `workbench demo`, …"""
    yield from _below(click.Context(root, info_name="workbench", **_settings(root)))


def _below(context: click.Context) -> Iterator[tuple[str, click.Context]]:
    yield context.command_path, context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _below(click.Context(command, info_name=name, parent=context, **_settings(command)))


def _settings(command: click.Command) -> dict[str, object]:
    return {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}


def cli_page() -> str:
    """docs/cli.md."""
    parts = [
        _MADE,
        "# The command line",
        "Exit status: 0 done, 1 it failed (the reason is on standard error), 2 wrongly called, 130 interrupted with Ctrl-C.\n"
        "Progress goes to standard error, results to standard output. `--json` prints stable keys, listed in [json.md](json.md).\n"
        'Options may be written with `-` or `_`. Completion for bash: `eval "$(_WORKBENCH_COMPLETE=bash_source workbench)"`.',
    ]
    for path, context in commands():
        parts.append(f"{'##' if path.count(' ') < 2 else '###'} {path}\n\n```text\n{context.get_help().rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def recipe_page() -> str:
    """docs/recipe.md."""
    parts = [
        _MADE,
        "# The recipe",
        "Everything that decides a training run. The same keys are the lines of a YAML file, the options of `workbench train`,\n"
        "the arguments of `Workbench.train` and the fields of the browser form. Names are those of TRL, PEFT and transformers.\n"
        "Unknown keys are errors, and all problems are reported at once.",
        "```yaml\nbase: smollm2-135m-instruct@1\ndataset: order-codes\nmethod: lora\nmax_steps: 60\nlearning_rate: 0.002\n```",
        "`workbench train --config recipe.yaml` runs it; what is given on the command line goes over the file, the file over the\n"
        "preset, the preset over the defaults. `workbench train … --dry-run > recipe.yaml` writes every key out, with where its\n"
        "value came from; `--export trl` writes the same run for plain TRL: `sft.yaml` for `trl sft --config`, and a script that\n"
        "gives the same losses.",
    ]
    for group in GROUPS:
        rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
        for name, field in Recipe.model_fields.items():
            if KEYS[name].group == group:
                default = "**required**" if field.is_required() else f"`{default_text(field)}`" if default_text(field) else ""
                kind = kind_of(KEYS[name]).replace("|", "\\|")
                rows.append(f"| `{name}` | {kind} | {default} | {str(field.description).replace('|', chr(92) + '|')} |")
        parts.append(f"## {group}\n\n" + "\n".join(rows))
    presets = ["| preset | when | values |", "|---|---|---|"]
    for name, preset in PRESETS.items():
        values = ", ".join(f"`{key}: {value}`" for key, value in preset.values.items())
        presets.append(f"| `{name}` | {preset.title}. {preset.when} | {values} |")
    told = "What each will take on this machine: `workbench train --base … --dataset … --presets`."
    parts.append(f"## Presets\n\n{told}\n\n" + "\n".join(presets))
    return "\n\n".join(parts) + "\n"


_LEVELS = {
    "break": 'The adapter cannot load on the new base, or would mean something else there. The verdict is "cannot load".',
    "risk": "It loads and may behave differently. The behavioural test decides.",
    "note": "Worth knowing.",
}


def findings_page() -> str:
    """docs/findings.md."""
    parts = [
        _MADE,
        "# Findings of the rebase check",
        "Before anything is run, `workbench rebase check` compares configurations, tokenizers, chat templates and the shapes of\n"
        "tensors (stage 0). Everything that differs is listed, each with one of these names. A few have a second, lesser level.",
    ]
    for level in LEVELS:
        names = [name for name, entry in CATALOGUE.items() if entry.level == level]
        told = {name: described(name) for name in names}
        rows = ["| finding | what it says |", "|---|---|", *(f"| [`{name}`](#{name}) | {told[name]['title']} |" for name in names)]
        parts.append(f"## {level}\n\n{_LEVELS[level]}\n\n" + "\n".join(rows))
        for name, entry in told.items():
            also = f" Only a {entry['milder']} when {entry['when']}." if entry["milder"] else ""
            parts.append(f"### {name}\n\n**{entry['title']}.** {entry['explanation']}{also}\n\nWhat to do: {entry['advice']}")
    return "\n\n".join(parts) + "\n"


PAGES = {
    "cli.md": cli_page,
    "recipe.md": recipe_page,
    "findings.md": findings_page,
    "python.md": lambda: python_page(_MADE),
    "check.md": lambda: check_page(_MADE),
    "check.schema.json": check_schema,
}


def main(arguments: list[str]) -> int:
    stale = [name for name, page in PAGES.items() if _read(DOCS / name) != page()]
    if arguments == ["--check"]:
        for name in stale:
            sys.stderr.write(f"docs/{name} is out of date. Run: make docs\n")
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8", newline="\n")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
