"""How fast the rebase check is, beside the same done by hand, in one alternating run. Run nothing else meanwhile.

python -m benchmarks.rebase drift FOLDER_A FOLDER_B [--repeats 5]
    the pass over two bases' weights, beside reading the same files and doing nothing
python -m benchmarks.rebase check ADAPTER --onto BASE [--rows 100] [--many 16] [--repeats 3]
    stages 0, 1 and 3 of one adapter and of many, beside the four arms scored with plain transformers and peft: both bases
    loaded, each bare and with the adapter, rows of like length in padded batches of eight, teacher-forced log-likelihood and
    whether greedy decoding says the answer (what lm-evaluation-harness calls loglikelihood). Libraries are imported before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bases.lock import Lock
from workbench.bases.stream import distance, in_file_order
from workbench.bases.tensors import folder_tensors, weight_files
from workbench.evidence import Evidence
from workbench.rebase import structure, verdict, weights

if TYPE_CHECKING:
    from workbench.hf.evaluate import Test


def forget(files: list[Path]) -> None:
    """Drop the files from the system's cache, so that the disk is read."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(files: list[Path]) -> None:
    """Read the files one after the other, 8 MB at a time, into memory that is there already."""
    buffer = bytearray(8 << 20)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def drift(arguments: argparse.Namespace) -> None:
    """Alternate both passes, cold each time, and print medians. Whatever shares the disk is in both."""
    a, b = arguments.a, arguments.b
    files = [*weight_files(a), *weight_files(b)]
    size = sum(file.stat().st_size for file in files)
    tensors = folder_tensors(a)
    other = folder_tensors(b)
    names = [name for name, info in tensors.items() if name in other and other[name].shape == info.shape]

    def measure() -> None:
        first, second = folder_tensors(a), folder_tensors(b)
        for name in in_file_order(names, first):
            distance(first[name], second[name])

    seconds: dict[str, list[float]] = {"plain": [], "drift": []}
    processor = []
    for _ in range(arguments.repeats):
        for kind, run in (("plain", lambda: read_through(files)), ("drift", measure)):
            forget(files)
            started, worked = time.perf_counter(), time.process_time()
            run()
            seconds[kind].append(time.perf_counter() - started)
            if kind == "drift":
                processor.append(time.process_time() - worked)
    tracemalloc.start()
    measure()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plain, ours = (statistics.median(seconds[kind]) for kind in ("plain", "drift"))
    largest = max(info.elements for info in tensors.values()) * 4
    print(f"{len(files)} files, {size / 1e9:.2f} GB, {len(names)} tensors, {arguments.repeats} alternating repeats, cold")
    print(f"plain sequential read  {plain:6.2f} s  {size / plain / 1e9:5.2f} GB/s")
    print(f"drift pass             {ours:6.2f} s  {size / ours / 1e9:5.2f} GB/s  = {plain / ours:.0%} of the plain read")
    print(f"its processor time     {statistics.median(processor):6.2f} s")
    print(f"peak memory            {peak / 1e6:6.1f} MB  = {peak / largest:.2f} of the largest tensor in float32 ({largest / 1e6:.0f} MB)")


def check(arguments: argparse.Namespace) -> None:
    """Alternate one check, many checks and the four arms by hand, and print medians and ratios."""
    import torch

    from workbench import Workbench
    from workbench.hf.evaluate import Test

    bench = Workbench()
    adapter, base = bench.adapters.get(arguments.adapter), bench.bases.get(arguments.onto)
    home = bench.bases.get(adapter.base)
    lines = (adapter.path / "evidence" / "test.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line][: arguments.rows]
    test = Test(rows, adapter.scores.get("scorer"), 1024, torch.float32)
    locks = bench.bases.lock(home.ref), bench.bases.lock(base.ref)
    stored = bench.adapters.evidence(adapter.ref)
    at_home = Evidence(stored.base[: len(rows)], stored.adapter[: len(rows)])
    load = os.getloadavg()[0]
    print(f"{adapter.ref} on {base.ref}, {len(rows)} test rows, {torch.get_num_threads()} threads, load {load:.2f}, float32")
    if load > 0.5:
        print("Something else is running: the times below are not to be trusted.")
    runs: dict[str, Callable[[], list[float]]] = {
        "one": lambda: ours(adapter.path, home.path, base.path, locks, test, at_home, 1),
        "hand": lambda: by_hand(adapter.path, home.path, base.path, test),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in runs}
    sums: dict[str, list[float]] = {}
    for repeat in range(arguments.repeats):
        for kind in runs if repeat % 2 == 0 else reversed(runs):
            started = time.perf_counter()
            sums[kind] = runs[kind]()
            seconds[kind].append(time.perf_counter() - started)
    started = time.perf_counter()
    ours(adapter.path, home.path, base.path, locks, test, at_home, arguments.many)
    many = time.perf_counter() - started
    gap = max(abs(x - y) / max(1.0, abs(y)) for x, y in zip(sums["one"], sums["hand"][2:], strict=True))
    one, hand = (statistics.median(seconds[kind]) for kind in ("one", "hand"))
    print(f"one check              {one:7.1f} s  ({min(seconds['one']):.1f}-{max(seconds['one']):.1f})")
    print(
        f"four arms by hand      {hand:7.1f} s  ({min(seconds['hand']):.1f}-{max(seconds['hand']):.1f})  = {hand / one:.2f} times one check"
    )
    print(f"{arguments.many} adapters, one base   {many:7.1f} s  = {many / one:.2f} times one check")
    print(f"both score the new arms the same to {gap:.1e} of their summed loss")
    trained = bench.jobs.get(adapter.job_id).result if adapter.job_id else None
    if trained and "training" in trained:
        again = trained["training"]["seconds"]
        print(f"training it took {again:.0f} s (then, with whatever ran beside it): one check is {one / again:.0%} of that")


def ours(adapter: Path, home: Path, base: Path, locks: tuple[Lock, Lock], test: Test, at_home: Evidence, many: int) -> list[float]:
    """Structure, weights, both new arms and the verdict for `many` adapters; the summed losses of B and B + adapter."""
    from workbench.hf.evaluate import Evaluator

    arms = Evaluator(base)
    found: Evidence | None = None
    for _ in range(many):
        structure.examine(adapter, *locks, home_folder=home, new_folder=base)
        weights.examine(adapter, *locks, home_folder=home, new_folder=base)
        found = arms.score(test, adapter)
        verdict.judge(at_home, found, scorer=test.scorer, same_tokenizer=True)
    assert found is not None
    return [sum(score.nll for score in arm) for arm in (found.base, found.adapter)]


def by_hand(adapter: Path, home: Path, base: Path, test: Test) -> list[float]:
    """The summed losses of A, A + adapter, B and B + adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from workbench.hf.load import load_tokenizer
    from workbench.hf.render import IGNORED, render

    sums = []
    for folder in (home, base):
        tokenizer = load_tokenizer(folder)
        shown = sorted((render(tokenizer, row, max_length=1024) for row in test.rows), key=lambda one: -len(one.input_ids))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for kind in ("bare", "adapted"):
            if kind == "adapted":
                model = PeftModel.from_pretrained(model, adapter).eval()
            total = 0.0
            for start in range(0, len(shown), 8):
                batch = shown[start : start + 8]
                width = len(batch[0].input_ids)
                ids = torch.tensor([one.input_ids + [0] * (width - len(one.input_ids)) for one in batch])
                labels = torch.tensor([one.labels + [IGNORED] * (width - len(one.labels)) for one in batch])[:, 1:]
                with torch.no_grad():
                    log_probs = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
                asked = labels != IGNORED
                picked = log_probs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
                total -= float(picked[asked].sum())
                _greedy = ((log_probs.argmax(-1) == labels) | ~asked).all(-1)
            sums.append(total)
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("drift", help="the pass over two bases' weights, beside a plain read")
    command.add_argument("a", type=Path, help="a model folder")
    command.add_argument("b", type=Path, help="another of the same shapes")
    command.add_argument("--repeats", type=int, default=5)
    command.set_defaults(run=drift)
    command = commands.add_parser("check", help="one check and many, beside the four arms by hand")
    command.add_argument("adapter", help="an adapter with evidence, such as order-codes")
    command.add_argument("--onto", required=True, help="the new base")
    command.add_argument("--rows", type=int, default=100)
    command.add_argument("--many", type=int, default=16)
    command.add_argument("--repeats", type=int, default=3)
    command.set_defaults(run=check)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
