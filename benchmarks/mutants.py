"""Change the code in one place, see whether a test notices, put it back: the share of such mutants killed, and every survivor.

    make mutate                                       a sample, within twenty minutes on two quiet cores
    python benchmarks/mutants.py workbench.rebase.rule            all mutants of one module
    python benchmarks/mutants.py --report                         what the last run found, again

mutmut makes the mutants and runs, for each, the tests that reach it; its settings stand in pyproject.toml. Sentences are left
as they are: what is mutated is what the code does. A sample is every mutant whose number ends in one of so many digits, so the
same code gives the same sample. Ends with 1 where a module of `CORE` has fewer than four of five killed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = ROOT / "mutants"  # mutmut's own folder: a copy of the tree with every mutant in it
CORE = (
    "workbench.rebase.rule", "workbench.rebase.verdict", "workbench.rebase.contrasts", "workbench.stats", "workbench.evidence",
    "workbench.jobs.queue",
)  # fmt: skip
WANTED = 0.8
# Last digits of the mutants sampled: a third of what a verdict and the queue rest on, a tenth of the rest.
SAMPLE = {**dict.fromkeys(CORE, "147"), "workbench.registry.imports": "7", "workbench.peft_layout": "7", "workbench.rebase": "7"}
KILLED, UNTESTED = {1, 3}, {5, 33}  # exit codes in mutmut's records; a test run that took too long was killed by its limit
TIMEOUT = {24, -24, 36, 152, 255}


def patterns(modules: Sequence[str]) -> list[str]:
    """What to ask mutmut for: every mutant of `modules`, or the sample."""
    if modules:
        return [f"{module}.x*" for module in modules]
    return [f"{module}.*__mutmut_*{digit}" for module, digits in SAMPLE.items() for digit in digits]


def results() -> Iterator[tuple[str, str, int]]:
    """(module, mutant, exit code of its tests) of every mutant that was tried."""
    for record in sorted(MUTANTS.rglob("*.py.meta")):
        module = ".".join(record.relative_to(MUTANTS).with_name(record.name.removesuffix(".py.meta")).parts)
        for name, code in json.loads(record.read_text(encoding="utf-8"))["exit_code_by_key"].items():
            if code is not None:
                yield module, name, code


def report(*, diffs: bool) -> bool:
    """Print the table, and a diff of every survivor; true where each module of `CORE` that was tried has enough killed."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for module, name, code in results():
        what = "killed" if code in KILLED else "too slow" if code in TIMEOUT else "no test" if code in UNTESTED else "survived"
        counts[module][what] += 1
        if what in {"no test", "survived"}:
            survivors.append((name, what, ROOT / Path(*module.split(".")).with_suffix(".py")))
    if diffs and survivors:
        from mutmut.mutation.diff_apply import get_diff_for_mutant
    for name, what, file in survivors if diffs else ():
        diff = get_diff_for_mutant(name, path=file.relative_to(ROOT)).splitlines()[2:]
        print(f"{name}: {what}", *(line for line in diff if line[:1] in "+-@"), "", sep="\n")
    print("| module | mutants | killed | of them by time | survived | no test reaches it | killed % |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    enough = True
    for module, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        killed, total = count["killed"] + count["too slow"], count.total()
        cells = (total, killed, count["too slow"], count["survived"], count["no test"], f"{100 * killed / max(1, total):.0f}")
        print(f"| {module} |", " | ".join(map(str, cells)), "|")
        enough &= module not in CORE or killed >= WANTED * total
    return enough


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="every mutant of these, instead of the sample")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--no-diffs", action="store_true", help="the table alone")
    given = parser.parse_args()
    began = time.monotonic()
    if not given.report:
        shutil.rmtree(MUTANTS, ignore_errors=True)  # mutmut would keep old copies of what it does not mutate
        done = subprocess.run([sys.executable, "-m", "mutmut", "run", *patterns(given.modules)], cwd=ROOT)
        if done.returncode:
            return done.returncode
    enough = report(diffs=not given.no_diffs)
    if not given.report:
        print(f"\nIn {(time.monotonic() - began) / 60:.1f} minutes.")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
