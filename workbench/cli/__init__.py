"""The command `workbench`: parse, call `Workbench`, print. No logic.

    groups.py    command groups that load lazily and answer wrong words
    output.py    tables, JSON, sizes and times
    follow.py    watch a job, and let go of it
    base.py data.py train.py jobs.py adapter.py rebase*.py serve.py about.py demo.py    the commands

A command's module is imported when the command is used, so that a listing starts at once.
"""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Sequence

import click

from workbench import __version__
from workbench.cli.groups import LazyGroup
from workbench.cli.output import note, print_error
from workbench.errors import WorkbenchError

__all__ = ["main", "root"]

_COMMANDS = {
    "demo": ("workbench.cli.demo:demo", "Train a first adapter on the bundled rows and show what it learned."),
    "base": ("workbench.cli.base:base", "The open-weight models you start from: add, list, show, diff, remove."),
    "data": ("workbench.cli.data:data", "The rows you teach: add, list, check, preview, show, remove."),
    "train": ("workbench.cli.train:train", "Fine-tune a base on a dataset and publish the adapter."),
    "jobs": ("workbench.cli.jobs:jobs", "What runs and what ran: list, show, logs, follow, cancel, resume."),
    "adapter": ("workbench.cli.adapter:adapter", "What came out: list, show, alias, evaluate, export, import, merge, …"),
    "rebase": ("workbench.cli.rebase:rebase", "Does an adapter still work on another base? check, matrix, selftest, …"),
    "ui": ("workbench.cli.serve:ui", "Open the workbench in the browser."),
    "worker": ("workbench.cli.serve:worker", "Run queued jobs here, in the foreground."),
    "info": ("workbench.cli.about:info", "Where things are kept, versions, and this machine."),
    "prune": ("workbench.cli.about:prune", "Make room: empty the trash, drop second copies and what old jobs left."),
    "doctor": ("workbench.cli.about:doctor", "Check this installation and say what to mend."),
    "help": ("workbench.cli.about:help_command", "Help on a command: workbench help train."),
}

_SETTINGS = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    # --learning-rate and --learning_rate are the same option
    "token_normalize_func": lambda word: word.replace("_", "-"),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings=_SETTINGS,
    epilog="""\b
Start here:
  workbench demo                               the whole way, in a few minutes
  workbench base add smollm2-135m-instruct@1   fetch a small open model
  workbench data add questions.csv             add your rows
  workbench train --base smollm2-135m-instruct@1 --dataset questions""",
)
@click.version_option(__version__, "-V", "--version", prog_name="workbench")
def root() -> None:
    """Fine-tune open-weight language models, and keep what you made of them."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 it failed, 2 wrongly called, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a character shows another, rather than a traceback
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Expected errors are printed; a bug shows its traceback."""
    try:
        status = root.main(args=None if argv is None else list(argv), prog_name="workbench", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except WorkbenchError as error:
        print_error(error)
        return 1
    except (click.Abort, KeyboardInterrupt):
        note("Stopped.")
        return 130
    except OSError as error:
        if error.errno == errno.EPIPE:  # `workbench jobs list | head`
            sys.stderr.close()  # else Python complains about the closed pipe at exit
            return 0
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR):
            raise
        hint = "Give the home another place with WORKBENCH_HOME, or mend it; see: workbench doctor"
        print_error(WorkbenchError(f"{error.strerror}: {error.filename or 'the home folder'}.", hint=hint))
        return 1
