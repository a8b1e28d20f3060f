"""`workbench rebase selftest`: the check tried on cases whose answer is known, on a real open model."""

from __future__ import annotations

import time

import click

from workbench.cli.base import fetch
from workbench.cli.follow import watch
from workbench.cli.groups import bench, json_option
from workbench.cli.output import duration, note, print_json, say, table
from workbench.errors import NotFound
from workbench.records import Adapter

__all__ = ["selftest"]

BASE = "smollm2-135m-instruct@1"
STRANGER = "gemma-3-270m@1"
NAME = "rebase-selftest"
DATASET = "order-codes"
SEEDS = (42, 43)


@click.command()
@click.option("--base", "ref", metavar="BASE", default=BASE, show_default=True, help="The base to try it on.")
@click.option("--stranger", metavar="BASE", default=STRANGER, show_default=True, help="A base of another family, fetched if need be; "
              "none leaves it out.")  # fmt: skip
@json_option
def selftest(ref: str, stranger: str, as_json: bool) -> int:
    """Try the check on controls: the same base, permuted, rounded, noisy and fresh weights, random adapters, another family.

    The first run fetches the bases and trains two small adapters on bundled rows; they are kept for the next one.
    Exit status: 0 when every control came out as it must, 3 when one did not.
    """
    started = time.monotonic()
    work = bench()
    _have_base(ref)
    strangers = [] if stranger == "none" else [stranger]
    for other in strangers:
        _have_base(other)
    adapters = [_trained(ref, seed) for seed in SEEDS]
    prepared = time.monotonic() - started
    job = watch(work.rebase.selftest(ref, [a.ref for a in adapters], strangers=strangers).id)
    result = job.result or {}
    if as_json:
        print_json(result)
    else:
        _print(result)
        took, whole = duration(result["seconds"]), duration(time.monotonic() - started)
        say(f"\n{result['passed']} of {len(result['outcomes'])} controls came out as they must, in {took}.")
        say(f"The whole command took {whole}, {duration(prepared)} of it to fetch and train what is needed once.")
    return 3 if result["failed"] else 0


def _have_base(ref: str) -> None:
    try:
        bench().bases.get(ref)
    except NotFound:
        note(f"Fetching {ref}, once.")
        fetch(ref)


def _trained(ref: str, seed: int) -> Adapter:
    """The adapter of this base and seed; trained now if it is not there."""
    work, name = bench(), f"{NAME}-{seed}"
    there = [a for a in work.adapters.list() if a.name == name and str(a.base) == ref and a.scores]
    if there:
        return there[0]
    note(f"Training the adapter {name} on {DATASET}, once.")
    plan = work.resolve({"base": ref, "dataset": DATASET, "name": name, "max_steps": 40, "seed": seed}, preset="quick")
    result = watch(work.train(plan).id).result or {}
    return work.adapters.get(result["adapter"])


def _print(result: dict[str, object]) -> None:
    rows = []
    outcomes = result["outcomes"]
    assert isinstance(outcomes, list)
    for one in outcomes:
        drift = "" if one["drift"] is None else f"{one['drift']:.4f}"
        stage1 = "" if one["stage1_seconds"] is None else f"{one['stage1_seconds']:.1f}"
        verdict = one["word"] or "-"
        mark = "ok" if one["passed"] else "FAILED"
        rows.append((mark, one["control"], one["change"], drift, stage1, verdict, one["numbers"] or one["note"], f"{one['seconds']:.0f}"))
    table(("", "control", "weights", "drift", "stage 1 s", "verdict", "scores", "s"), rows, right=("drift", "stage 1 s", "s"))
    for one in outcomes:
        if one["note"] and one["numbers"]:
            say(f"  {one['control']}: {one['note']}.")
        if not one["passed"]:
            say(f"  {one['control']}: expected {one['expected']}.")
