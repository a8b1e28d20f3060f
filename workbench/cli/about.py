"""`workbench info`, `doctor` and `help`: what is installed, whether it is sound, how to go on."""

from __future__ import annotations

import click

from workbench.cli.groups import bench, json_option
from workbench.cli.output import ago, bytes_text, fields, json_answer, say, table
from workbench.prune import KEEP_DAYS

__all__ = ["doctor", "help_command", "info", "prune"]

_COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


@click.command()
@json_option
def info() -> None:
    """Print where things are kept, the versions in use, and this machine's facts."""
    facts = bench().info()
    json_answer(facts)
    libraries = facts.pop("libraries")
    for key in [key for key in facts if key.endswith("_bytes")]:
        facts[key.removesuffix("_bytes")] = bytes_text(facts.pop(key))
    fields([(key.replace("_", " "), value) for key, value in facts.items()])
    fields([("libraries", ", ".join(f"{name} {version}" for name, version in libraries.items()))])


@click.command()
@click.option("--deep", is_flag=True, help="Also read every base, dataset and adapter and compare it with its hashes.")
@json_option
def doctor(deep: bool) -> int:
    """Check this installation and say what to mend. Exit status 1 when something is broken."""
    diagnoses = bench().doctor(deep=deep)
    status = int(any(diagnosis.state == "broken" for diagnosis in diagnoses))
    json_answer(diagnoses, status=status)
    for diagnosis in diagnoses:
        say(f"{click.style(f'{diagnosis.state:<7}', fg=_COLOURS[diagnosis.state])}  {diagnosis.name}: {diagnosis.found}")
        if diagnosis.hint:
            say(f"         {diagnosis.hint}")
    return status


@click.command()
@click.option(
    "--keep-days", type=click.FloatRange(min=0), default=KEEP_DAYS, show_default=True, help="Keep the trash and ended jobs so long."
)
@click.option("--yes", is_flag=True, help="Remove it for good; without this it is only listed.")
@json_option
def prune(keep_days: float, yes: bool) -> None:
    """List what only takes room: the trash, second copies of published results, what ended jobs keep to go on from."""
    found = bench().prune(keep_days=keep_days, apply=yes)
    json_answer(found)
    rows = [(one.kind, bytes_text(one.bytes), ago(one.since), one.path) for one in found]
    table(["what", "size", "since", "where"], rows, empty="There is nothing to prune.", right=["size"])
    if found:
        done = "Removed" if yes else "Nothing was removed. To remove this for good: workbench prune --yes\nIn all"
        say(f"{done}: {bytes_text(sum(one.bytes for one in found))}.")


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]…")
@click.pass_context
def help_command(context: click.Context, words: tuple[str, ...]) -> None:
    """Help on a command: workbench help train."""
    here = context.find_root()
    for word in words:
        if not isinstance(here.command, click.Group):
            break
        name, command, _ = here.command.resolve_command(here, [word])
        assert command is not None
        here = click.Context(command, info_name=name, parent=here, **command.context_settings)
    say(here.get_help())
