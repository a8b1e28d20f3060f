"""The study on real releases, for those who can reach a model hub: an adapter trained on the first checkpoint of a published
run, checked on the later ones.

    python benchmarks/releases.py smollm2-135m            SmolLM2's own intermediate checkpoints, 240,000 steps apart
    python benchmarks/releases.py pythia-160m olmo2-1b    others; --list names them all
    python benchmarks/releases.py smollm2-135m --dry-run  what would be fetched, and nothing else

Everything is an ordinary base, job and check of the workbench's home, so a run that was stopped goes on, and the browser shows it.
The revisions below are as their publishers' model cards name them; nobody has run this script where it was written.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from workbench import Workbench
from workbench.errors import WorkbenchError


@dataclass(frozen=True)
class Run:
    """Checkpoints of one training run, the oldest first."""

    repo: str
    revisions: tuple[str, ...]


RUNS = {
    "smollm2-135m": Run(
        "HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", ("step-480000", "step-960000", "step-1440000", "step-1920000")
    ),
    "pythia-160m": Run("EleutherAI/pythia-160m", ("step36000", "step72000", "step108000", "step143000")),
    "olmo2-1b": Run(
        "allenai/OLMo-2-0425-1B",
        ("stage1-step300000-tokens630B", "stage1-step600000-tokens1259B", "stage1-step900000-tokens1888B", "main"),
    ),
}
RECIPE = {"max_steps": 60, "learning_rate": 2e-3, "lora_r": 16, "lora_alpha": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"any of: {', '.join(RUNS)}")
    parser.add_argument("--dataset", default="order-codes", help="what the adapter learns, by name")
    parser.add_argument("--list", action="store_true", help="name the runs and their checkpoints")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.runs if name not in RUNS]
    if unknown:
        parser.error(f"There is no run '{unknown[0]}'. There are: {', '.join(RUNS)}.")
    if chosen.list or not chosen.runs:
        for name, run in RUNS.items():
            print(f"{name}: {run.repo} at {', '.join(run.revisions)}")
        return
    for name in chosen.runs:
        if chosen.dry_run:
            print("\n".join(f"{ref} from {source}" for ref, source in bases(name)))
        else:
            follow(Workbench(), name, chosen.dataset)


def bases(name: str) -> list[tuple[str, str]]:
    """(reference, source) of each checkpoint."""
    run = RUNS[name]
    return [(f"{name}@{number}", f"hub:{run.repo}@{revision}") for number, revision in enumerate(run.revisions, start=1)]


def follow(bench: Workbench, name: str, dataset: str) -> None:
    """Fetch, train on the first, check on the others, print a line for each."""
    fetched: list[str] = []
    for ref, source in bases(name):
        if not bench.bases.has(ref):
            bench.bases.add(ref, source=source, continues=fetched[-1] if fetched else None, on_progress=print)
        fetched.append(ref)
    adapter = f"{name}-{dataset}"
    if not any(a.name == adapter for a in bench.adapters.list()):
        bench.jobs.wait(bench.train({"base": fetched[0], "dataset": dataset, "name": adapter, **RECIPE}).id)
    for ref in fetched[1:]:
        if bench.rebase.find(adapter, ref) is None:
            bench.jobs.wait(bench.rebase.check(adapter, onto=ref, probes=True).id)
        from workbench.rebase.telling import tell
        from workbench.words import words

        telling = tell(bench.rebase.get(adapter, ref))
        print(words("en").say(telling.headline), words("en").say(telling.figures))


if __name__ == "__main__":
    try:
        main()
    except WorkbenchError as error:
        raise SystemExit(f"Error: {error}") from None
