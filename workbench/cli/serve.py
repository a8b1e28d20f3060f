"""`workbench ui` and `workbench worker`: the two commands that stay in the foreground."""

from __future__ import annotations

import signal

import click

from workbench.cli.groups import bench
from workbench.cli.output import note

__all__ = ["ui", "worker"]


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    default=7860,
    show_default=True,
    help="The next free one is taken when it is in use.",
)
@click.option("--open/--no-open", "open_browser", default=False, help="Open a browser window.")
def ui(port: int, open_browser: bool) -> None:
    """Open the workbench in the browser, on this machine only (127.0.0.1). Jobs go on when it is stopped."""
    from workbench_ui.app import serve

    serve(bench(), port=port, open_browser=open_browser, announce=lambda url: note(f"The workbench is at {url}  Ctrl-C stops it."))


@click.command()
@click.option("--slots", type=click.IntRange(1), metavar="N", help="Jobs at the same time. Default: one for each GPU, else one.")
def worker(slots: int | None) -> None:
    """Run queued jobs here, in the foreground, until Ctrl-C. Only needed on machines where nobody runs train or ui."""
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: told.append(n))
    note("Waiting for jobs. Ctrl-C stops this worker; running jobs go on.")
    bench().jobs.work(slots=slots, say=note, stopping=lambda: bool(told))
