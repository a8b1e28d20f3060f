"""How fast the rebase check is. `drift`: the pass over two bases' weights, beside reading the same files and doing nothing.

python -m benchmarks.rebase drift FOLDER_A FOLDER_B [--repeats 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from pathlib import Path

from workbench.bases.diff import exact_drift
from workbench.bases.tensors import folder_tensors, weight_files


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
    seconds: dict[str, list[float]] = {"plain": [], "drift": []}
    processor = []
    for _ in range(arguments.repeats):
        for kind, run in (("plain", lambda: read_through(files)), ("drift", lambda: exact_drift(a, b, names))):
            forget(files)
            started, worked = time.perf_counter(), time.process_time()
            run()
            seconds[kind].append(time.perf_counter() - started)
            if kind == "drift":
                processor.append(time.process_time() - worked)
    tracemalloc.start()
    exact_drift(a, b, names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plain, ours = (statistics.median(seconds[kind]) for kind in ("plain", "drift"))
    largest = max(info.elements for info in tensors.values()) * 4
    print(f"{len(files)} files, {size / 1e9:.2f} GB, {len(names)} tensors, {arguments.repeats} alternating repeats, cold")
    print(f"plain sequential read  {plain:6.2f} s  {size / plain / 1e9:5.2f} GB/s")
    print(f"drift pass             {ours:6.2f} s  {size / ours / 1e9:5.2f} GB/s  = {plain / ours:.0%} of the plain read")
    print(f"its processor time     {statistics.median(processor):6.2f} s")
    print(f"peak memory            {peak / 1e6:6.1f} MB  = {peak / largest:.2f} of the largest tensor in float32 ({largest / 1e6:.0f} MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("drift", help="the pass over two bases' weights, beside a plain read")
    command.add_argument("a", type=Path, help="a model folder")
    command.add_argument("b", type=Path, help="another of the same shapes")
    command.add_argument("--repeats", type=int, default=5)
    command.set_defaults(run=drift)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
