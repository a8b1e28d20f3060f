"""Start the pages from a checkout: python ui/app.py. The same as `workbench ui`."""

import click

from workbench import Workbench
from workbench_ui.app import serve

if __name__ == "__main__":
    serve(Workbench(), announce=lambda url: click.echo(f"Open {url}"))
