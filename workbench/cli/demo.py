"""`workbench demo`: the whole way of an adapter, on the bundled rows, with nothing but `Workbench`."""

from __future__ import annotations

import time

import click

from workbench.cli.adapter import print_samples, print_scores
from workbench.cli.base import at_hand
from workbench.cli.follow import carried_out
from workbench.cli.groups import bench
from workbench.cli.output import count, duration, fields, say

__all__ = ["demo"]

BASE = "smollm2-135m-instruct@1"
DATASET = "order-codes"
STEPS = 40  # enough for these rows, and done in three minutes or so on two cores without matrix units


@click.command()
@click.option("--base", "ref", metavar="BASE", default=BASE, show_default=True, help="The base to train on.")
@click.option("--max_steps", type=click.IntRange(1), metavar="N", default=STEPS, show_default=True, help="Train so many steps.")
def demo(ref: str, max_steps: int) -> None:
    """Train a first adapter on the bundled rows and show what it learned.

    Fetches a small open model (135 million parameters), trains a LoRA adapter on bundled orders, publishes it, and
    compares it with the bare base on rows neither has seen. Needs no GPU and no account.
    """
    phase = _Phases(4)
    work = bench()
    phase(f"The base {ref}")
    base = at_hand(ref)
    say(f"Here and locked: {count(base.parameters)} parameters, licence {base.license}.")

    phase(f"The rows of {DATASET}")
    plan = work.plan(work.resolve({"base": ref, "dataset": DATASET, "max_steps": max_steps}, preset="quick"))
    say(f"{count(plan.lengths['rows'])} to train on, {count(plan.dataset.test_rows)} kept for the test.")
    say(f"{plan.estimate.steps} steps will take about {duration(plan.estimate.seconds)} here ({plan.estimate.basis}).")

    phase("Train, score, publish")
    job = carried_out(work.train(plan))
    adapter = work.adapters.get((job.result or {})["adapter"])
    say(f"Published {adapter.ref}.")

    phase("Base against adapter, on rows that neither has seen")
    print_samples(work.samples(adapter.ref, n=5))
    say()
    print_scores(adapter)
    say(f"\nDone in {duration(phase.elapsed)}. What next:")
    fields(
        [
            (f"  workbench adapter show {adapter.ref}", "everything about it"),
            (f"  workbench adapter export {adapter.ref} my-adapter", "a plain PEFT folder"),
            ("  workbench data add questions.csv", "your own rows"),
            (f"  workbench train --base {ref} --dataset questions", "teach it those"),
            ("  workbench ui", "the same in the browser"),
        ]
    )


class _Phases:
    """Prints `[0:07] 2/4 The rows` and keeps the time."""

    def __init__(self, total: int) -> None:
        self.total, self.n, self.start = total, 0, time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def __call__(self, title: str) -> None:
        self.n += 1
        minutes, seconds = divmod(round(self.elapsed), 60)
        say(click.style(f"\n[{minutes}:{seconds:02}] {self.n}/{self.total} {title}", bold=True))
