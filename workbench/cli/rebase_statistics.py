"""`workbench rebase simulate` and `workbench rebase published`: how often the rule errs, and what it says of published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from workbench.cli.groups import json_option
from workbench.cli.output import print_json, say, table

if TYPE_CHECKING:
    from workbench.rebase.published import Compared
    from workbench.rebase.result import Verdict
    from workbench.rebase.simulate import Outcome, Table

__all__ = ["published", "simulate"]

_RULES = {"guarded": "the rule in use", "first": "as first written", "points": "on point estimates"}


@click.command()
@click.option("--sets", type=click.IntRange(10), default=2000, show_default=True, help="Synthetic test sets per true state and size.")
@click.option("--quick", is_flag=True, help="200 sets of 50 and 400 rows: a look, no figures to quote.")
@json_option
def simulate(sets: int, quick: bool, as_json: bool) -> None:
    """How often each verdict is given when the truth is known, by three rules. A minute or two on one core; no model is run."""
    from workbench.rebase.simulate import SIZES
    from workbench.rebase.simulate import simulate as run

    result = run(200 if quick else sets, (50, 400) if quick else SIZES)
    if as_json:
        print_json(result.as_dict())
        return
    say(f"{result.sets:,} synthetic test sets per line. Shares in per cent; 'absorbed' is counted with 'works'.")
    say()
    rows = [(o.state, _true(o), f"{o.n:,}", *(_said(o, rule) for rule in _RULES)) for o in result.outcomes]
    table(("true state", "truth", "rows", *_RULES.values()), rows, right=("rows",))
    say()
    _errors(result)
    say()
    say(f"{result.seconds:.0f} s. On a limit no word is plainly true; there 'works' and 'weaker' are each allowed 2.5 %.")


def _true(outcome: Outcome) -> str:
    return "on a limit" if outcome.limit else outcome.true + (" (absorbed)" if outcome.absorbed else "")


def _said(outcome: Outcome, rule: str) -> str:
    return " · ".join(f"{word} {100 * share:.1f}" for word, share in outcome.words[rule].items())


def _errors(result: Table) -> None:
    rows = []
    for title, error in (
        ("'works' given to one truly lost or harmful", result.false_works),
        ("'weaker', 'lost' or 'does harm' given to one that truly works or is not needed", result.false_alarm),
    ):
        for rule, name in _RULES.items():
            found = error(rule)
            rows.append((title, name, f"{100 * found.mean:.2f} %", f"{100 * found.worst:.1f} %", found.where))
            title = ""
    table(("error", "rule", "mean", "worst", "where"), rows, right=("mean", "worst"))


@click.command()
@click.option(
    "--cells", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Cells of your own, in the form of published.yaml."
)
@json_option
def published(cells: Path | None, as_json: bool) -> None:
    """Published scores of copied adapters, and ours beside them: the recovered lift, and the verdict of the rule."""
    from workbench.rebase.published import compare, read_cells

    found = compare(read_cells(cells))
    if as_json:
        from workbench.records import as_json as plain

        print_json([{"cell": one.cell.model_dump(), **{k: plain(getattr(one, k)) for k in _OURS}} for one in found])
        return
    papers = {one.cell.paper: f", arXiv {one.cell.arxiv}" if one.cell.arxiv else "" for one in found}
    for paper, where in papers.items():
        say(f"{paper}{where}")
        table(_HEAD, [_row(one) for one in found if one.cell.paper == paper], right=_HEAD[1:7])
        say()
    say("Shares in per cent; old and new: bare base -> with the adapter. R, recovered lift: the share of the gain of retraining.")
    say(
        "Published cells are means: the arms count as independent, which widens the intervals. No verdict where a source lacks an arm or n."
    )
    for one in found:
        if one.agrees is False:
            say(f"Not as published or expected: {one.cell.name}.")


_OURS = ("recovered", "verdict", "as_written", "agrees")
_HEAD = ("copy", "n", "old", "new", "retrained", "R ours", "R theirs", "verdict", "as first written", "expected")


def _row(one: Compared) -> tuple[str, ...]:
    cell = one.cell
    expected = cell.expected or ""
    return (
        cell.name,
        f"{cell.n:,}" if cell.n else "",
        _arrow(cell.home, cell.home_adapter),
        _arrow(cell.new, cell.new_adapter),
        "" if cell.reference is None else f"{100 * cell.reference:.1f}",
        "" if one.recovered is None else f"{one.recovered:+.3f}",
        "" if cell.recovered is None else f"{cell.recovered:+.3f}",
        _word(one.verdict),
        _word(one.as_written),
        f"{expected} (absorbed)" if expected and cell.absorbed else expected,
    )


def _arrow(bare: float | None, adapter: float | None) -> str:
    if adapter is None:
        return ""
    return f"{'?' if bare is None else f'{100 * bare:.1f}'} -> {100 * adapter:.1f}"


def _word(verdict: Verdict | None) -> str:
    return "" if verdict is None else verdict.word + (" (absorbed)" if verdict.absorbed else "")
