"""Write docs/simulation.md, docs/published.md and docs/selftest.md: what three commands print, as they print it.

python benchmarks/make_tables.py [simulation] [published] [selftest]     all three (or: make tables)
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    "simulation": (
        "How often the rule errs",
        "benchmarks.simulate",
        "2,000 synthetic test sets per true state and size, judged by the rule and by the same rule on point estimates. The lines at\n"
        "the end are what matters: how often *works* is given to an adapter that is truly lost or does harm, and how often an alarm\n"
        "is raised over one that works or is not needed.",
    ),
    "published": (
        "The rule beside published numbers",
        "benchmarks.published",
        "Recovered lift R and verdicts computed from published scores, with what their sources print. Further cells can be added:\n"
        "`python -m benchmarks.published --cells FILE`, in the form of `benchmarks/published.yaml`.",
    ),
    "selftest": (
        "The check on cases whose answer is known",
        "workbench rebase selftest",
        "Controls on a real open model of 135 million parameters, with an adapter trained on it. *Expected* is what must come out.",
    ),
}


def main(wanted: list[str]) -> int:
    for name in wanted or PAGES:
        title, command, about = PAGES[name]
        done = subprocess.run(
            [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "400"}
        )
        if done.returncode not in (0, 3):
            sys.stderr.write(done.stderr)
            return 1
        shown = command if command.startswith("workbench") else f"python -m {command}"
        where = f"Printed by `{shown}` (`make tables`) on {os.cpu_count()} cores, Python {platform.python_version()}."
        text = f"# {title}\n\n{about}\n\n{where}\n\n```text\n{done.stdout.strip()}\n```\n"
        (DOCS / f"{name}.md").write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}.md\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
