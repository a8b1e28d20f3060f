"""Run the lineage lab: pre-train, adapt, copy, judge, and print what was found.

    python -m benchmarks.lab                 the whole lab: within an hour on two quiet cores, minutes on a GPU
    python -m benchmarks.lab --publish       the same, written to docs/ (make lab)
    python -m benchmarks.lab --quick         a smaller one, to see that it works; --tiny is for the tests
    python -m benchmarks.lab --help

Stopped at any point, it goes on where it was: finished pieces are folders in --folder. Progress goes to standard error, the page
to standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.lab.sizes import FULL, QUICK, TINY, Adapters, Bases, Piece, Sizes, seconds_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parse(arguments)
    sizes = _sizes(given)
    from benchmarks.lab.adapters import make_adapters
    from benchmarks.lab.cells import make_cells
    from benchmarks.lab.contest import contest, counted
    from benchmarks.lab.page import page
    from benchmarks.lab.pictures import matrix, scatter
    from benchmarks.lab.pretrain import make_bases
    from benchmarks.lab.text import make_text
    from workbench import paths
    from workbench.hf.load import set_threads

    _quieten()
    threads = set_threads(given.threads)
    root = given.folder or paths.home() / "cache" / "lab"
    text = make_text(root, sizes, given.text)
    _say(f"Pre-training, with {text.facts['train_tokens']:,} tokens of text")
    bases = make_bases(root, sizes, text, _say)
    _say("Adapters")
    adapters = make_adapters(root, sizes, text, bases, _say)
    cells, measured = make_cells(root, sizes, text, bases, adapters, _say)

    compared = counted(cells)
    entries = contest(compared)
    stages = {"text": [text], "pre-training": list(bases.values()), "adapters": list(adapters.values()), "the check": measured}
    printed = page(sizes, bases, cells, compared, entries, _machine(threads, stages, bases, adapters, text))

    out = REPOSITORY / "docs" if given.publish else given.out or root / "out"
    images = out / "images"
    images.mkdir(parents=True, exist_ok=True)
    _write(out / "lab.md", printed)
    _write(images / "lab-matrix.svg", matrix(cells))
    if best := next((entry.name for entry in entries if entry.stage == 1), None):
        _write(images / "lab-signal.svg", scatter(compared, best))
    sys.stdout.write(printed)
    _say(f"Written: {out / 'lab.md'}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=(__doc__ or "").splitlines()[0])
    preset = parser.add_mutually_exclusive_group()
    preset.add_argument("--quick", action="store_const", const=QUICK, dest="preset", help="some minutes")
    preset.add_argument("--tiny", action="store_const", const=TINY, dest="preset", help="seconds: only to see that it works")
    parser.add_argument("--folder", type=Path, help="where finished pieces are kept (default: cache/lab in the workbench's home)")
    parser.add_argument("--out", type=Path, help="where the page and its pictures go (default: out in --folder)")
    parser.add_argument("--publish", action="store_true", help="write docs/lab.md instead of --out")
    parser.add_argument("--text", type=Path, help="a folder with text to pre-train on (default: Python's standard library)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--tokens", type=int, help="tokens a run reads, instead of --steps")
    for field in dataclasses.fields(Sizes):
        kind = str if isinstance(field.default, tuple) else type(field.default)
        shown = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default: {shown}")
    return parser.parse_args(arguments)


def _sizes(given: argparse.Namespace) -> Sizes:
    """The preset with what was given on the command line."""
    sizes: Sizes = given.preset or FULL
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(Sizes):
        value = getattr(given, field.name)
        if value is None:
            continue
        if isinstance(field.default, tuple):
            value = tuple(type(field.default[0])(part) for part in value.split(","))
        changed[field.name] = value
    sizes = dataclasses.replace(sizes, **changed)
    if given.tokens:
        sizes = dataclasses.replace(sizes, steps=max(1, given.tokens // (sizes.batch * sizes.context)))
    return sizes


def _machine(threads: int, stages: dict[str, list[Piece]], bases: Bases, adapters: Adapters, text: Piece) -> list[str]:
    """What was computed with what, in how long: sums over the pieces, however often the lab was interrupted."""
    import torch

    from workbench.hf.load import device

    on = device()
    where = (
        torch.cuda.get_device_name(on)
        if on.type == "cuda"
        else f"{os.cpu_count()} cores, {threads} thread{'s' * (threads != 1)}, {on.type}"
    )
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    spent = {name: seconds_of(pieces) for name, pieces in stages.items()}
    pre = sum(p.facts["seconds_per_step"] for p in bases.values()) / len(bases)
    fit = sum(p.facts["seconds_per_step"] for p in adapters.values()) / len(adapters)
    return [
        f"{where}, float32, {names}, Python {platform.python_version()}",
        f"text: {text.facts['characters']:,} characters in {text.facts['documents']:,} documents",
        f"{sum(spent.values()) / 60:.1f} minutes in all: " + ", ".join(f"{name} {s / 60:.1f}" for name, s in spent.items()),
        f"{pre:.3f} s a step of pre-training, {fit:.3f} s a step of an adapter",
    ]


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")


def _quieten() -> None:
    """No line per file written, and no warning that an adapter meets another base: that is what the lab is about."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*base_model_name_or_path` was renamed.*")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
