"""Write docs/simulation.md, docs/published.md and docs/selftest.md: what three commands print, as they print it.

python benchmarks/make_tables.py [simulation] [published] [selftest]     all three (or: make tables)
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {
    "simulation": (
        "How often the rule errs",
        ["rebase", "simulate"],
        "2,000 synthetic test sets per true state and size, judged by the rule in use, by the rule as it was first written, and by\n"
        "the same rule on point estimates. The lines at the end are what matters: how often *works* is given to an adapter that is\n"
        "truly lost or does harm, and how often an alarm is raised over one that works or is not needed.",
    ),
    "published": (
        "The rule beside published numbers",
        ["rebase", "published"],
        "Recovered lift R and verdicts computed from published scores, with what their sources print. Further cells can be added:\n"
        "`workbench rebase published --cells FILE`, in the form of `workbench/rebase/published.yaml`.",
    ),
    "selftest": (
        "The check on cases whose answer is known",
        ["rebase", "selftest"],
        "Controls on a real open model of 135 million parameters, with an adapter trained on it. *Expected* is what must come out.",
    ),
}


def main(wanted: list[str]) -> int:
    for name in wanted or PAGES:
        title, command, about = PAGES[name]
        done = subprocess.run(
            [sys.executable, "-m", "workbench", *command], capture_output=True, text=True, env={**os.environ, "COLUMNS": "400"}
        )
        if done.returncode not in (0, 3):
            sys.stderr.write(done.stderr)
            return 1
        where = f"Printed by `workbench {' '.join(command)}` (`make tables`) on {os.cpu_count()} cores, Python {platform.python_version()}."
        text = f"# {title}\n\n{about}\n\n{where}\n\n```text\n{done.stdout.strip()}\n```\n"
        (DOCS / f"{name}.md").write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}.md\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
