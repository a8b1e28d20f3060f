"""`workbench train`: every option comes from the recipe model; the job goes on when the terminal is closed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from workbench.cli.base import whole_ref
from workbench.cli.follow import carried_out, print_result
from workbench.cli.groups import bench, json_option
from workbench.cli.output import bytes_text, count, duration, json_answer, note, print_json, say, table, wants_json
from workbench.cli.recipe_options import RecipeCommand, given_values, recipe_options, surplus
from workbench.errors import UsageError
from workbench.recipe import GROUPS, KEYS, PRESETS

if TYPE_CHECKING:
    from workbench.planning import Plan

__all__ = ["train"]

_PRESETS = "\n".join(f"  {name:<10} {preset.title}: {preset.when}" for name, preset in PRESETS.items())


@click.command(
    cls=RecipeCommand,
    epilog=f"""\b
Presets:
{_PRESETS}

\b
Examples:
  workbench train --base smollm2-135m-instruct@1 --dataset order-codes --preset quick
  workbench train --base smollm2-135m-instruct@1 --dataset order-codes --dry-run > recipe.yaml
  workbench train --config recipe.yaml --learning_rate 5e-4 --detach

What is given here goes over the file, the file over the preset, the preset over the defaults. Ctrl-C lets go of the
job, which goes on; the exit status is 0 only when the job succeeded.""",
)
@click.argument("words", nargs=-1, metavar="[RECIPE.yaml]")
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recipe in YAML.")
@click.option("--preset", metavar="|".join(PRESETS), help="A named set of values to start from.")
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe, where each value came from and what it costs.")
@click.option("--presets", is_flag=True, help="Print what each preset would take on this machine. Trains nothing.")
@click.option("--no-publish", is_flag=True, help="A trial: train and score, and leave the result in the job's folder.")
@click.option("--export", type=click.Choice(["trl"]), help="Write the recipe and its rows for plain TRL to NAME-trl. Trains nothing.")
@click.option("--detach", "-d", is_flag=True, help="Submit the job and return at once.")
@click.option("--key", help="Submitting twice with one key gives one job.")
@json_option
@recipe_options
def train(
    words: tuple[str, ...],
    config: Path | None,
    preset: str | None,
    dry_run: bool,
    presets: bool,
    no_publish: bool,
    export: str | None,
    detach: bool,
    key: str | None,
    **values: Any,
) -> None:
    """Fine-tune a base on a dataset and publish the adapter.

    Runs as a job in its own process; this command follows it.
    """
    if export and (dry_run or presets or no_publish or detach or key):
        raise click.UsageError(
            "--export trains nothing and stands alone: leave out --dry-run, --presets, --no-publish, --detach and --key."
        )
    lone = surplus(words)
    if lone and config:
        raise click.UsageError(f"Two recipe files: {config} and {lone}.")
    given = given_values(values)
    _check_names(given)
    if presets:
        print_presets(given, config or lone)
        return
    plan = bench().plan(bench().resolve(given, preset=preset, file=config or lone))
    if dry_run:
        if wants_json():
            print_json(plan.as_dict())
        else:
            print_plan(plan)
        plan.sound()
        return
    if export:
        out = bench().export_trl(plan, Path(f"{plan.recipe.adapter_name}-{export}"))
        say(f"Written to {out}. There: python train.py, for the losses of the workbench; or trl sft --config sft.yaml.")
        return
    for text in plan.warnings:
        note(f"Note: {text}")
    note(f"{count(plan.estimate.steps)} steps, about {duration(plan.estimate.seconds)} here ({plan.estimate.basis}).")
    print_result(carried_out(bench().train(plan, publish=not no_publish, key=key), detach=detach))


def _check_names(given: dict[str, Any]) -> None:
    """People put a file where a dataset's name belongs, and a hub id where a base's does: say what comes first."""
    dataset, base = str(given.get("dataset", "")), str(given.get("base", ""))
    if dataset and ("/" in dataset or Path(dataset).is_file()):
        raise UsageError(
            f"--dataset takes the name of a dataset, not the file {dataset}.",
            hint=f"Add the file first, it gets a name and a test part: workbench data add {dataset}",
        )
    if "/" in base:
        raise UsageError(
            f"--base takes family@version, not {base}.",
            hint=f"Add it first under a name of yours: workbench base add {base} --name my-model@1",
        )
    if base and "@" not in base:
        whole_ref(base)


def print_plan(plan: Plan) -> None:
    """The plan as a YAML recipe whose comments say where each value came from and what the run will cost."""
    values = plan.recipe.model_dump(mode="json")
    for group in GROUPS:
        say(f"# {group}")
        for name, key in KEYS.items():
            if key.group == group:
                say(f"{_yaml_line(name, values[name]):<50}  # {plan.origin[name]}")
        say()
    for name, text in _costs(plan):
        say(f"# {name:<10} {text}")


def _yaml_line(name: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{name}: {yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)}".strip()
    return yaml.safe_dump({name: value}, allow_unicode=True, width=1000).strip()


def print_presets(given: dict[str, Any], file: Path | None) -> None:
    """The presets with their steps, time and memory for this base and dataset on this machine."""
    plans = {name: bench().plan(bench().resolve(given, preset=name, file=file)) for name in PRESETS}
    json_answer({name: plan.as_dict()["estimate"] for name, plan in plans.items()})
    rows = []
    for name, plan in plans.items():
        cost = plan.estimate
        rows.append((name, count(cost.steps), duration(cost.seconds), bytes_text(cost.peak_bytes), PRESETS[name].when))
    table(("preset", "steps", "time", "memory", "when"), rows, right=("steps", "time", "memory"))
    note(f"Times are {next(iter(plans.values())).estimate.basis}.")


def _costs(plan: Plan) -> list[tuple[str, str]]:
    lengths, estimate = plan.lengths, plan.estimate
    rows = f"{count(lengths['rows'])} to train on, {count(plan.dataset.test_rows)} kept for the test"
    tokens = f"{count(lengths['tokens'])} in the rows, {count(lengths['supervised'])} of them learned; longest row {lengths['longest']}"
    lines = [
        ("publishes", plan.publishes),
        ("rows", rows),
        ("tokens", tokens),
        ("steps", f"{count(estimate.steps)}, {count(estimate.tokens)} tokens"),
        ("time", f"about {duration(estimate.seconds)} ({estimate.basis})"),
        ("memory", f"about {bytes_text(estimate.peak_bytes)} at the peak"),
    ]
    return lines + [("warning", text) for text in plan.warnings] + [("PROBLEM", text) for text in plan.problems]
