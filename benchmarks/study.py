"""`make study`: adapters of a real 135M model on later versions of it, made by continued training on real text, and on controls.

Everything goes through the workbench: the adapters and the later versions are ordinary jobs, the versions are published as
`smollm2-135m-instruct@2…`, the checks are `bench.rebase.check`. Whatever is there already is used again, so a run that was
stopped goes on; `--live` checks the newest stored version and two quick controls only, in about three minutes.

    python benchmarks/study.py --text ~/corpus --banking77 ~/data     hours on two cores, minutes on a GPU
    python benchmarks/study.py --live                                 minutes, with what is stored
    python benchmarks/study.py --collect --write docs                 the table and the picture, from the checks that are there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import controls
from workbench import Workbench
from workbench.errors import NotFound
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.result import Check
from workbench.records import BaseRef

FAMILY = "smollm2-135m-instruct"
BASE = f"{FAMILY}@1"
# (optimiser steps in all, learning rate, schedule) of each later version: first far at a high rate, then healed at falling ones
LADDER = (
    (20, 5e-4, "constant_with_warmup"),
    (60, 5e-4, "constant_with_warmup"),
    (120, 2e-4, "cosine"),
    (200, 2e-4, "cosine"),
)
BATCH, TOKENS = 2, 256  # rows a step, tokens a row
PASSAGE = 950  # characters: about TOKENS tokens of code and prose
PASSAGES = 4000
LIVE_ROWS = 48
ROWS = 190  # test rows of each adapter that are scored: 183 without a flip prove a loss below two points
QUICK = {"max_steps": 60, "learning_rate": 2e-3, "lora_r": 16, "lora_alpha": 32}
ADAPTERS: dict[str, dict[str, Any]] = {
    "order-codes": {"dataset": "order-codes", **QUICK},
    "order-codes-attention": {"dataset": "order-codes", **QUICK, "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "plain-replies": {"dataset": "plain-replies", **QUICK},
    "banking77": {"dataset": "banking77", "max_steps": 100, "learning_rate": 2e-3, "per_device_train_batch_size": 16},
}
SUFFIXES = {".py", ".txt", ".md", ".rst"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=Path(sysconfig.get_path("stdlib")), help="file or folder to continue the training on")
    parser.add_argument(
        "--banking77", type=Path, help="folder with banking77-train.csv and banking77-test.csv; without it that adapter is left out"
    )
    parser.add_argument("--rungs", type=int, default=len(LADDER), help="how many later versions")
    parser.add_argument("--base-source", help="where to take the base from, as in `workbench base add --source`")
    parser.add_argument("--live", action="store_true", help="only the newest stored version and two controls, in minutes")
    parser.add_argument("--collect", action="store_true", help="run nothing: only the checks that are there")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write study.md and images/study.svg there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the checks behind the table")
    parser.add_argument("--from", dest="stored", type=Path, metavar="FILE", help="take the checks from such a file instead of the home")
    chosen = parser.parse_args()
    bench, started = Workbench(), time.monotonic()
    if chosen.stored:
        checks = [Check.from_dict(one) for one in json.loads(chosen.stored.read_text(encoding="utf-8"))]
    elif chosen.live:
        checks = live(bench)
    else:
        checks = list(collect(bench)) if chosen.collect else study(bench, chosen)
    say = print_study(checks)
    print(say)
    print(f"\n{time.monotonic() - started:.0f} s in this run.")
    if chosen.json:
        chosen.json.write_text(json.dumps([one.as_dict() for one in checks]), encoding="utf-8")
    if chosen.write:
        from study_page import write_page

        write_page(chosen.write, checks)


def study(bench: Workbench, chosen: argparse.Namespace) -> list[Check]:
    """The whole of it: base, adapters, later versions, controls, checks."""
    have(bench.bases.has(BASE), f"the base {BASE}", lambda: bench.bases.add(BASE, source=chosen.base_source))
    adapters = [name for name in ADAPTERS if train(bench, name, chosen.banking77)]
    versions = list(ladder(bench, chosen.text, chosen.rungs))
    versions += list(make_controls(bench, versions[-1]))
    for version in versions:
        check(bench, adapters, version)
    return list(collect(bench))


def live(bench: Workbench) -> list[Check]:
    """Check what is stored again, from scratch: the newest later version, int4 and the permuted copy, with two adapters."""
    stored = [base.ref for base in bench.bases.list() if base.ref.family == FAMILY and base.continues and base.ref.version.isdigit()]
    adapters = [name for name in ("order-codes", "banking77") if any(a.name == name for a in bench.adapters.list())]
    if not stored or not adapters:
        raise NotFound("Nothing is stored yet.", hint="Run the study once: make study")
    newest = max(stored, key=lambda ref: int(ref.version))
    found = []
    for version in [str(newest), *make_controls(bench, str(newest), ("int4", "permuted"))]:
        job = bench.rebase.check(adapters, onto=version, rows=LIVE_ROWS)
        bench.jobs.wait(job.id)
        found += [bench.rebase.get(name, version) for name in adapters]
    return found


def have(there: bool, what: str, make: Callable[[], Any]) -> None:
    if there:
        print(f"There already: {what}", flush=True)
        return
    started = time.monotonic()
    make()
    print(f"Made in {time.monotonic() - started:.0f} s: {what}", flush=True)


def submit(bench: Workbench, recipe: dict[str, Any]) -> None:
    """Train, or wait for the job that an earlier run of the study left behind."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    bench.jobs.wait(bench.train(recipe, key=f"study-{digest[:16]}").id)


def train(bench: Workbench, name: str, banking77: Path | None) -> bool:
    """Train one adapter unless it is there; False when its rows are not."""
    recipe = {"base": BASE, "name": name, **ADAPTERS[name]}
    if recipe["dataset"] == "banking77" and not any(d.name == "banking77" for d in bench.datasets.list()):
        if banking77 is None:
            print("Left out: banking77 (give its folder with --banking77)", flush=True)
            return False
        rows, test = banking77 / "banking77-train.csv", banking77 / "banking77-test.csv"
        bench.datasets.add(rows, name="banking77", test_file=test, test_rows=400, drop=["overlap"])
    there = any(a.name == name for a in bench.adapters.list())
    have(there, f"the adapter {name}", lambda: submit(bench, recipe))
    return True


def ladder(bench: Workbench, text: Path, rungs: int) -> Iterator[str]:
    """Later versions @2, @3, …: each continues the one before by the steps that are missing. Yields their references."""
    have(any(d.name == "later-text" for d in bench.datasets.list()), f"passages of {text.name}", lambda: add_text(bench, text))
    before, done = BASE, 0
    for number, (steps, rate, schedule) in enumerate(LADDER[:rungs], start=2):
        version = f"{FAMILY}@{number}"
        recipe = {
            "base": before,
            "dataset": "later-text",
            "method": "sft",
            "publish_as": version,
            "max_steps": steps - done,
            "learning_rate": rate,
            "lr_scheduler_type": schedule,
            "per_device_train_batch_size": BATCH,
            "max_length": TOKENS,
            "weight_decay": 0.01,
            "eval_rows": 0,
            "save_steps": steps - done,
            "seed": number,
        }
        have(bench.bases.has(version), f"{version}: {steps} steps of {BATCH} x {TOKENS} tokens", lambda r=recipe: submit(bench, r))  # type: ignore[misc]
        before, done = version, steps
        yield version


def add_text(bench: Workbench, source: Path) -> None:
    """Cut every text under `source` into passages and keep them as a dataset, 32 of them as its test part."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    skipped = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages"}
    rows: list[str] = []
    for file in files:
        if source.is_dir() and skipped & set(file.relative_to(source).parts):
            continue
        content = file.read_text(encoding="utf-8", errors="ignore").replace("\0", "")
        rows += [part for i in range(0, len(content), PASSAGE) if len((part := content[i : i + PASSAGE]).strip()) > PASSAGE // 4]
    rows = list(dict.fromkeys(rows))[:PASSAGES]
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "later-text.jsonl"
        lines.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
        bench.datasets.add(lines, name="later-text", test_rows=32, drop=["overlap", "duplicate"])


def make_controls(bench: Workbench, newest: str, wanted: tuple[str, ...] = ("int4", "int3", "noise", "permuted")) -> Iterator[str]:
    """Bases whose verdict is known or instructive, published beside the ladder. Yields their references."""
    base, last = bench.bases.get(BASE).path, bench.bases.get(newest).path
    makers: dict[str, Callable[[Path], Any]] = {
        "int4": lambda out: controls.requantise(base, out, bits=4),
        "int3": lambda out: controls.requantise(base, out, bits=3),
        "noise": lambda out: controls.add_noise(base, out, like=last),
        "permuted": lambda out: Coordinates.draw(base, seed=1).write_base(base, out),
    }
    for name in wanted:
        version = f"{FAMILY}@{name}"

        def publish(name: str = name, version: str = version) -> None:
            with tempfile.TemporaryDirectory() as folder:
                makers[name](Path(folder) / name)
                bench.bases.publish(Path(folder) / name, version, continues=None, source={"kind": "control", "method": name})

        have(bench.bases.has(BaseRef.parse(version)), f"the control {version}", publish)
        yield version


def check(bench: Workbench, adapters: list[str], version: str) -> None:
    """Check what was not checked on this version, in one load of it."""
    missing = [name for name in adapters if (found := bench.rebase.find(name, version)) is None or bench.rebase.stale(found)]
    have(not missing, f"checks on {version}", lambda: bench.jobs.wait(bench.rebase.check(missing, onto=version, rows=ROWS).id))


def collect(bench: Workbench) -> Iterator[Check]:
    """The study's checks, by adapter, the ladder first."""
    found = [c for c in bench.rebase.list() if c.base.startswith(f"{FAMILY}@") and c.adapter.split("@")[0] in ADAPTERS and c.verdict]

    def place(one: Check) -> tuple[int, int, str]:
        version = one.base.split("@")[1]
        return list(ADAPTERS).index(one.adapter.split("@")[0]), int(version) if version.isdigit() else 1000, version

    return iter(sorted(found, key=place))


def print_study(checks: list[Check]) -> str:
    """One line per adapter and version: where the weights went, all four arms, and the verdict."""
    lines = [
        "| adapter | on | change | drift | drift/update | base health, bits/byte | A → A+a | B → B+a | n | served (95 %) | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in checks:
        verdict, moved = one.verdict, one.weights
        if verdict is None or not verdict.contrasts:
            lines.append(f"| {one.adapter} | {one.base} | | | | | | | | | {one.word} |")
            continue
        metric = verdict.metric
        arms = {arm: scores[metric] for arm, scores in verdict.arms.items()}
        served = verdict.contrasts[metric].served
        health = f"{one.health.home:.2f} → {one.health.new:.2f}" if one.health and one.health.home is not None else ""
        drift = [f"{v:.4f}" if v is not None else "" for v in ((moved.drift, moved.ratio) if moved else (None, None))]
        kind = moved.change if moved else ""
        lines.append(
            f"| {one.adapter} | {one.base} | {kind} | {drift[0]} | {drift[1]} | {health} "
            f"| {arms['home']:.3f} → {arms['home_adapter']:.3f} | {arms['new']:.3f} → {arms['new_adapter']:.3f} | {verdict.n} "
            f"| {served.value:+.3f} ({_bound(served.low)} to {_bound(served.high)}) {metric} "
            f"| {one.word}{' (absorbed)' if verdict.absorbed else ''} |"
        )
    return "\n".join(lines)


def _bound(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


if __name__ == "__main__":
    main()
