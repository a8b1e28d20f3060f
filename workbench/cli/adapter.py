"""`workbench adapter`: what came out of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from workbench.cli.follow import carried_out, print_result
from workbench.cli.groups import CommandGroup, bench, json_option
from workbench.cli.output import ago, fields, json_answer, say, short, table
from workbench.records import DTYPES, Adapter, AdapterRef

__all__ = ["adapter", "print_samples", "print_scores"]

FOLDER = click.Path(path_type=Path)


@click.group(cls=CommandGroup)
def adapter() -> None:
    """What came out of training. NAME is the newest version, NAME@3 one version, NAME@champion an alias."""


@adapter.command("list")
@click.argument("name", required=False)
@click.option("--trashed", is_flag=True, help="What is in the trash instead.")
@json_option
def list_adapters(name: str | None, trashed: bool) -> None:
    """List adapters, the newest first; with NAME all versions of one."""
    listed = bench().adapters.list(name, trashed=trashed)
    json_answer(listed)
    rows = [(a.ref, ", ".join(a.aliases), a.base, a.dataset or "", a.method, _gain(a), ago(a.created_at)) for a in listed]
    empty = "The trash is empty." if trashed else "No adapters yet. Make one: workbench train --base … --dataset …, or: workbench demo"
    table(("adapter", "aliases", "base", "dataset", "method", "gain", "made"), rows, empty=empty, right=("gain",))


@adapter.command()
@click.argument("ref", metavar="ADAPTER")
@click.option("--samples", type=click.IntRange(0, 100), metavar="N", default=3, show_default=True, help="How many answers to show.")
@json_option
def show(ref: str, samples: int) -> None:
    """Show one adapter: what it learned, how well, from what, and some of its answers."""
    version = bench().adapters.get(ref)
    answers = bench().samples(ref, n=samples)
    json_answer({"adapter": version, "samples": answers, "lineage": bench().adapters.lineage(ref)})
    fields(
        [
            ("adapter", version.ref),
            ("aliases", ", ".join(version.aliases)),
            ("method", version.method),
            ("base", f"{version.base}  (lock {version.base_lock_sha256[:12]})"),
            ("dataset", f"{version.dataset}  (sha256 {(version.dataset_sha256 or '')[:12]})" if version.dataset else ""),
            ("parents", ", ".join(version.parents)),
            ("made", f"{ago(version.created_at)}{f' by job {version.job_id}' if version.job_id else ''}"),
            ("folder", version.path),
        ]
    )
    say()
    print_scores(version)
    print_samples(answers)


@adapter.command()
@click.argument("ref", metavar="ADAPTER")
@click.argument("alias")
@click.option("--expect", metavar="VERSION", help="Move the alias only if it points to this version now; none: only if it is new.")
@click.option("--drop", is_flag=True, help="Remove the alias instead; the version stays.")
@json_option
def alias(ref: str, alias: str, expect: str | None, drop: bool) -> None:
    """Point an alias, such as champion, to a version."""
    if drop:
        name = AdapterRef.parse(ref).name
        bench().adapters.drop_alias(f"{name}@{alias}")
        say(f"{name} has no alias {alias} any more.")
        return
    version = bench().adapters.alias(ref, alias, expect=expect)
    json_answer(version)
    say(f"{version.name}@{alias} is now {version.ref}.")


@adapter.command()
@click.argument("ref", metavar="ADAPTER")
@click.option("--dataset", help="Score on this dataset's test part. Default: the one it was trained on.")
@click.option("--detach", "-d", is_flag=True, help="Submit the job and return at once.")
def evaluate(ref: str, dataset: str | None, detach: bool) -> None:
    """Score an adapter against its base on a frozen test part, and publish a version with that evidence."""
    print_result(carried_out(bench().evaluate(ref, dataset=dataset), detach=detach))


@adapter.command()
@click.argument("ref", metavar="ADAPTER")
@click.argument("out", type=FOLDER)
@click.option("--zip", "zipped", is_flag=True, help="Write one zip file.")
def export(ref: str, out: Path, zipped: bool) -> None:
    """Copy an adapter to OUT: a plain PEFT folder that needs nothing of the workbench. Full weights: workbench adapter merge."""
    say(f"Written to {bench().adapters.export(ref, out, zip=zipped)}.")


@adapter.command("import")
@click.argument("path", type=FOLDER)
@click.option("--name", required=True, help="What to call it here.")
@click.option("--base", metavar="BASE", help="The base it was made for, where it does not say so itself.")
@json_option
def import_(path: Path, name: str, base: str | None) -> None:
    """Take in a PEFT folder or zip made by any tool. Only safetensors; nothing in it is run."""
    version = bench().import_adapter(path, name=name, base=base)
    json_answer(version)
    say(f"Imported {version.ref} for {version.base}.")
    say(f"It has no evidence yet. Score it: workbench adapter evaluate {version.ref} --dataset NAME")


@adapter.command()
@click.argument("ref", metavar="ADAPTER")
@click.argument("out", type=FOLDER)
@click.option("--base", metavar="BASE", help="Merge into this base instead of its own.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the written weights. Default: the base's own.")
@click.option("--detach", "-d", is_flag=True, help="Submit the job and return at once.")
def merge(ref: str, out: Path, base: str | None, dtype: str | None, detach: bool) -> None:
    """Write full merged weights to the new folder OUT, with the logits compared before and after."""
    print_result(carried_out(bench().merge(ref, out, base=base, dtype=dtype), detach=detach))


@adapter.command()
@click.argument("ref", metavar="ADAPTER@VERSION")
@click.option("--force", is_flag=True, help="Also while aliases point to it; they are dropped.")
def remove(ref: str, force: bool) -> None:
    """Move one version to the trash; restore brings it back."""
    version = bench().adapters.remove(ref, force=force)
    say(f"Removed {version.ref}. Bring it back: workbench adapter restore {version.ref}")


@adapter.command()
@click.argument("ref", metavar="ADAPTER@VERSION")
def restore(ref: str) -> None:
    """Bring a version back from the trash."""
    say(f"{bench().adapters.restore(ref).ref} is back.")


@adapter.command()
def recover() -> None:
    """Enter finished adapter folders that the database does not know, such as after the database was lost."""
    entered = bench().adapters.recover()
    for version in entered:
        say(f"Entered {version.ref}.")
    if not entered:
        say("Every adapter folder is known already.")


def print_scores(adapter: Adapter) -> None:
    """The headline and a small table: base, with the adapter, gain and its 95 % interval."""
    if not adapter.scores:
        say(f"No evidence. Score it: workbench adapter evaluate {adapter.ref} --dataset NAME")
        return
    from workbench.evidence import Summary
    from workbench.words import words
    from workbench.worth import gain_rows, headline

    summary, t = Summary.from_dict(adapter.scores), words("en")
    say(t.say(headline(summary)))
    say()
    rows = [[t.say(cell) for cell in row] for row in gain_rows(summary)]
    table((f"{summary.n} test rows", "base", "with adapter", "gain"), rows, right=("base", "with adapter"))


def print_samples(answers: list[dict[str, Any]]) -> None:
    """Test questions with the expected answer, the base's and the adapter's."""
    for sample in answers:
        say()
        fields([(key, short(str(sample.get(key) or "(nothing)"), 100)) for key in ("prompt", "expected", "base", "adapter")])


def _gain(adapter: Adapter) -> str:
    """The gain in the score to speak of, without its interval."""
    if not adapter.scores:
        return ""
    from workbench.evidence import Summary
    from workbench.words import words
    from workbench.worth import gain, metric_of

    summary = Summary.from_dict(adapter.scores)
    return words("en").say(gain(metric_of(summary), summary))
