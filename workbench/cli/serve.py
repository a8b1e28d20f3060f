"""`workbench ui` and `workbench worker`: the two commands that stay in the foreground."""

from __future__ import annotations

import click

from workbench.cli.groups import bench
from workbench.cli.output import note

__all__ = ["ui", "worker"]


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", default=7860, show_default=True, help="0 takes a free one.")
@click.option("--open/--no-open", "open_browser", default=False, help="Open a browser window.")
def ui(port: int, open_browser: bool) -> None:
    """Open the workbench in the browser, on this machine only (127.0.0.1). Jobs go on when it is stopped."""
    from workbench_ui.app import launch

    launch(bench(), port=port, open_browser=open_browser)


@click.command()
def worker() -> None:
    """Run queued jobs here, in the foreground, until Ctrl-C. Only needed on machines where nobody runs train or ui."""
    from workbench.jobs.dispatcher import run_forever

    note("Waiting for jobs. Ctrl-C stops this worker; running jobs go on.")
    run_forever()
