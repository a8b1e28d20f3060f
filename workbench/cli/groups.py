"""Command groups that load a command's code only when it is used, and that answer a wrong word with the right one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workbench.api import Workbench

__all__ = ["CommandGroup", "LazyGroup", "Words", "bench", "json_option"]

# What people type who come from other tools: accepted, but not shown.
_OTHER_WORDS = {
    "bases": "base",
    "model": "base",
    "models": "base",
    "dataset": "data",
    "datasets": "data",
    "adapters": "adapter",
    "job": "jobs",
    "finetune": "train",
    "fine-tune": "train",
    "ls": "list",
    "rm": "remove",
    "delete": "remove",
}


def bench() -> Workbench:
    """The one front door, opened when a command runs and not before."""
    from workbench.api import Workbench

    return Workbench()


class Words(click.Choice[str]):
    """A choice of words, shown as they are written in the files; `-` and `_` are the same."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:
        return str(choice).replace("-", "_")


def _keep(context: click.Context, _: click.Parameter, given: bool) -> None:
    context.meta["json"] = given


# What was chosen is asked by `output.json_answer`, not handed to the command.
json_option = click.option("--json", is_flag=True, expose_value=False, callback=_keep, help="Print JSON with stable keys (docs/json.md).")


class CommandGroup(click.Group):
    """A group that names the nearest command, wherever in the tree it is, when there is none of that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order they are written, not of the alphabet

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, _OTHER_WORDS.get(cmd_name, cmd_name))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if self.get_command(ctx, word) is None and not word.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"There is no command '{word}'. {self._suggest(ctx, word)}", ctx)
        return super().resolve_command(ctx, args)

    def _suggest(self, ctx: click.Context, word: str) -> str:
        names = self.list_commands(ctx)
        wanted = _OTHER_WORDS.get(word, word)
        root = ctx.find_root()
        deeper = [path for path in _paths(root) if path.split()[-1] == wanted]
        near = [f"{ctx.command_path} {name}" for name in difflib.get_close_matches(word, names, n=2)]
        found = near or [f"{root.command_path} {path}" for path in deeper]
        return f"Did you mean: {', or '.join(found)}?" if found else f"There are: {', '.join(names)}."


class LazyGroup(CommandGroup):
    """A group whose commands are named as `module:attribute` and imported on first use."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)  # name -> ("module:attribute", the line shown in the overview)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name if cmd_name in self.lazy else _OTHER_WORDS.get(cmd_name, cmd_name)
        if name not in self.lazy:
            return None
        module, _, attribute = self.lazy[name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.lazy.items()])


def _paths(root: click.Context) -> list[str]:
    """Every `group command` below the root. Loads all groups: only for the words of an error."""
    paths = []
    assert isinstance(root.command, click.Group)
    for name in root.command.list_commands(root):
        command = root.command.get_command(root, name)
        if isinstance(command, click.Group):
            paths += [f"{name} {sub}" for sub in command.list_commands(root)]
    return paths
