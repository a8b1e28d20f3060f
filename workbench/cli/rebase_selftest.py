"""`workbench rebase selftest`: the check tried on cases whose answer is known, on a real open model."""

from __future__ import annotations

import time
from typing import Any

import click

from workbench.cli.base import at_hand
from workbench.cli.follow import carried_out
from workbench.cli.groups import bench, json_option
from workbench.cli.output import duration, json_answer, note, say, table
from workbench.records import Adapter

__all__ = ["selftest"]

BASE = "smollm2-135m-instruct@1"
STRANGER = "gemma-3-270m@1"
NAME = "rebase-selftest"
DATASET = "order-codes"


@click.command()
@click.option("--base", "ref", metavar="BASE", default=BASE, show_default=True, help="The base to try it on.")
@click.option("--stranger", metavar="BASE", default=STRANGER, show_default=True, help="A base of another family, fetched if need be; "
              "none leaves it out.")  # fmt: skip
@json_option
def selftest(ref: str, stranger: str) -> int:
    """Try the check on controls: the same base, the same in permuted coordinates, a base of another family.

    The first run fetches the bases and trains a small adapter on bundled rows; they are kept for the next one.
    Exit status: 0 when every control came out as it must, 3 when one did not.
    """
    started = time.monotonic()
    work = bench()
    strangers = [] if stranger == "none" else [stranger]
    for needed in (ref, *strangers):
        at_hand(needed)
    adapter = _trained(ref)
    prepared = time.monotonic() - started
    result = carried_out(work.rebase.selftest(ref, adapter.ref, strangers=strangers)).result or {}
    status = 3 if result["failed"] else 0
    json_answer(result, status=status)
    _print(result["outcomes"])
    took, whole = duration(result["seconds"]), duration(time.monotonic() - started)
    say(f"\n{result['passed']} of {len(result['outcomes'])} controls came out as they must, in {took}.")
    say(f"The whole command took {whole}, {duration(prepared)} of it to fetch and train what is needed once.")
    return status


def _trained(ref: str) -> Adapter:
    """The adapter of this base; trained now if it is not there."""
    work = bench()
    there = [a for a in work.adapters.list() if a.name == NAME and str(a.base) == ref and a.scores]
    if there:
        return there[0]
    note(f"Training the adapter {NAME} on {DATASET}, once.")
    plan = work.resolve({"base": ref, "dataset": DATASET, "name": NAME, "max_steps": 40}, preset="quick")
    result = carried_out(work.train(plan)).result or {}
    return work.adapters.get(result["adapter"])


def _print(outcomes: list[dict[str, Any]]) -> None:
    head = ("", "control", "weights", "drift", "stage 1 s", "verdict", "scores", "s")
    table(head, [_row(outcome) for outcome in outcomes], right=("drift", "stage 1 s", "s"))
    for outcome in outcomes:
        if outcome["note"] and outcome["numbers"]:
            say(f"  {outcome['control']}: {outcome['note']}.")
        if not outcome["passed"]:
            say(f"  {outcome['control']}: expected {outcome['expected']}.")


def _row(outcome: dict[str, Any]) -> tuple[str, ...]:
    return (
        "ok" if outcome["passed"] else "FAILED",
        outcome["control"],
        outcome["change"],
        "" if outcome["drift"] is None else f"{outcome['drift']:.4f}",
        "" if outcome["stage1_seconds"] is None else f"{outcome['stage1_seconds']:.1f}",
        outcome["word"] or "-",
        outcome["numbers"] or outcome["note"],
        f"{outcome['seconds']:.0f}",
    )
