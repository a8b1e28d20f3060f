"""`workbench rebase`: does an adapter still work on another base?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workbench.cli.follow import carried_out
from workbench.cli.groups import CommandGroup, bench, json_option
from workbench.cli.output import json_answer, note, print_json, say, table
from workbench.cli.rebase_selftest import selftest
from workbench.errors import NotFound
from workbench.rebase.result import DEFAULT_STAGES, STAGES, Settings
from workbench.rebase.verdicts import ALARMS, VERDICTS, badness

if TYPE_CHECKING:
    from workbench.api import Workbench
    from workbench.rebase.release import Cell
    from workbench.rebase.result import Check
    from workbench.words import Words

__all__ = ["matrix", "rebase", "show"]

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_FAILED = 3  # --fail-on was met; 1 is an error, 2 a wrong call
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=CommandGroup)
def rebase() -> None:
    """Does an adapter made for one base still work on another?

    Bases of one family are not interchangeable because they have the same shape. The check compares four arms on the adapter's
    frozen test set - the old base and the new one, each without and with the adapter - and says in one word what it means.
    """


def _limit(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=float, metavar="X", help=f"{text} Default: {getattr(Settings, name):.2f}.")


@rebase.command(short_help="Check one or more adapters on a new base.", epilog=f"From good to bad: {', '.join(VERDICTS)}.")
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True)
@click.option("--onto", metavar="BASE", required=True, help="The new base, family@version.")
@click.option("--stages", metavar="LIST", help=f"Comma-separated: {', '.join(STAGES)}. Default: all but probes.")
@click.option("--probes", is_flag=True, help="Also probe both bases with the test prompts, without their answers.")
@click.option("--retrain", is_flag=True, help="Also train on the new base by the stored recipe, for the ceiling. Takes as long as that.")
@click.option("--rows", type=click.IntRange(1), metavar="N", help="Score at most so many test rows: faster, and less is proven.")
@click.option("--fail-on", type=click.Choice(ALARMS), help=f"Exit with {EXIT_FAILED} when a verdict is this one or a worse one.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="FILE",
              help="Write the checks as JSON (docs/json.md); - prints them instead of the words.")  # fmt: skip
@click.option("--report", "report_file", type=_FILE, metavar="FILE", help="Write a page that opens offline.")
@_limit("delta", "Share of the gain that the new base may have absorbed.")
@_limit("epsilon", "How much of a success score may go missing.")
@_limit("epsilon_nll", "The same in nats per token.")
@click.option("--detach", "-d", is_flag=True, help="Submit the job and return at once.")
def check(
    adapters: tuple[str, ...],
    onto: str,
    stages: str | None,
    probes: bool,
    retrain: bool,
    rows: int | None,
    fail_on: str | None,
    json_file: Path | None,
    report_file: Path | None,
    detach: bool,
    **limits: float | None,
) -> int:
    """Check ADAPTERs (name, name@3, name@champion) on a new base, which is loaded once for all of them.

    Exit status: 0 checked; 3 a verdict met --fail-on; 1 it could not be checked; 2 wrongly called.
    """
    work = bench()
    given = {key: value for key, value in limits.items() if value is not None}
    wanted = DEFAULT_STAGES if stages is None else [part.strip() for part in stages.split(",") if part.strip()]
    job = work.rebase.check(adapters, onto=onto, stages=wanted, probes=probes, retrain=retrain, rows=rows, settings=given)
    result = carried_out(job, detach=detach).result or {}
    checks = [work.rebase.get(done["adapter"], onto) for done in result["checks"]]
    _write(checks, json_file, report_file)
    if str(json_file) != "-":
        for check in checks:
            _print(check)
    for adapter, message in result["failed"].items():
        note(f"{adapter} could not be checked: {message}")
    if result["failed"]:
        return 1
    # where nothing was decided, nothing failed
    return EXIT_FAILED if fail_on and any(check.word and badness(check.word) >= badness(fail_on) for check in checks) else 0


def _print(check: Check, *, stale: bool = False, full: bool = False) -> None:
    from workbench.cli.telling import print_telling
    from workbench.rebase.telling import tell
    from workbench.words import words

    print_telling(tell(check, stale=stale), words("en"), full=full)


def _write(checks: list[Check], json_file: Path | None, report_file: Path | None) -> None:
    from workbench.rebase.report import html

    if str(json_file) == "-":
        print_json([check.as_dict() for check in checks])
    elif json_file is not None:
        text = json.dumps([check.as_dict() for check in checks], ensure_ascii=False, indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
        note(f"Written to {json_file}.")
    if report_file is not None:
        report_file.write_text(html(checks), encoding="utf-8")
        note(f"Written to {report_file}.")


@rebase.command()
@click.argument("adapter")
@click.option("--onto", metavar="BASE", required=True, help="The base it was checked on.")
@click.option("--report", "report_file", type=_FILE, metavar="FILE", help="Write a page that opens offline.")
@json_option
def show(adapter: str, onto: str, report_file: Path | None) -> None:
    """Show everything that the newest check of ADAPTER on a base found."""
    work = bench()
    check = work.rebase.get(adapter, onto)
    if report_file is not None:
        report_file.write_text(work.rebase.report(adapter, onto), encoding="utf-8")
        note(f"Written to {report_file}.")
    json_answer(check.as_dict())
    _print(check, stale=work.rebase.stale(check), full=True)


@rebase.command()
@click.argument("adapters", metavar="[ADAPTER]...", nargs=-1)
@click.option("--check", "run", is_flag=True, help="First check what was not checked yet or has changed since, one job per base.")
@json_option
def matrix(adapters: tuple[str, ...], run: bool) -> None:
    """Adapters against bases: the word of the newest check, and the score with the adapter at home and then on the base."""
    from workbench.rebase.release import safety
    from workbench.words import words

    work = bench()
    refs = sorted((base.ref for base in work.bases.list()), key=lambda ref: (ref.family, _number(ref.version), ref.version))
    bases, rows = list(map(str, refs)), [work.adapters.get(ref) for ref in adapters] if adapters else list(work.rebase.newest())
    cells = work.rebase.matrix(rows, bases)
    if run:
        _check_waiting(work, cells)
        cells = work.rebase.matrix(rows, bases)
    keys = [{"adapter": cell.adapter.ref, "base": cell.base, "state": cell.state.name} for cell in cells]
    json_answer([{**key, "check": cell.check and cell.check.as_dict()} for key, cell in zip(keys, cells, strict=True)])
    t = words("en")
    body = [[adapter.ref, *(_cell(cell, t) for cell in cells if cell.adapter == adapter)] for adapter in rows]
    table(("adapter", *bases), body, empty="No adapters yet. Make one: workbench train --base … --dataset …")
    for base in bases:
        away = [cell for cell in cells if cell.base == base and cell.state.name != "home"]
        if (told := safety([cell.check if cell.state.verdict else None for cell in away], base)) is not None:
            say(t.say(told))


def _cell(cell: Cell, t: Words) -> str:
    return f"{t(f'rebase.word.{cell.state.key}')} {t.say(cell.scores or '')}".rstrip()


def _number(version: str) -> int:
    return int(version) if version.isdigit() else -1


def _check_waiting(work: Workbench, cells: Sequence[Cell]) -> None:
    """Check what was never checked, and what has changed since, one job per base."""
    for base in dict.fromkeys(cell.base for cell in cells):
        waiting = [cell.adapter.ref for cell in cells if cell.base == base and cell.state.waits and cell.adapter.scores]
        if waiting:
            carried_out(work.rebase.check(waiting, onto=base))


@rebase.command()
@click.argument("name", required=False)
@json_option
def findings(name: str | None) -> None:
    """Explain the findings of stage 0, or the one called NAME (the same as docs/findings.md)."""
    from workbench.rebase.findings import CATALOGUE, described

    if name is not None and name not in CATALOGUE:
        raise NotFound.of("finding", name, sorted(CATALOGUE), command="workbench rebase findings")
    shown = {key: described(key) for key in CATALOGUE if name in (None, key)}
    json_answer(shown)
    for key, entry in shown.items():
        say(click.style(f"{key}  ({entry['level']})", bold=True))
        say(f"  {entry['explanation']}\n  {entry['advice']}")


rebase.add_command(selftest)
