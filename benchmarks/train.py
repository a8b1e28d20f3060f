"""Training speed beside plain TRL: same rows, base, LoRA configuration, batch size and steps, in one alternating run.

    python -m benchmarks.train                       three repeats of six steps on each base, a quarter of an hour on two cores
    python -m benchmarks.train --base gemma-2-50m    on one base only
    python -m benchmarks.train --quick               one repeat of three steps, to see that it works

Three bases, unless others are named: a real small Llama, and with random weights a mixture of experts (balanced by its auxiliary
loss) and a Gemma 2 (soft capping, sliding window), each of some fifty million parameters and with the first one's tokenizer.
Three arms, each run in a process of its own:

    trl            `SFTTrainer` with `SFTConfig` at its own defaults (bfloat16 autocast, gradient checkpointing, padding)
    trl bf16=False the same with bfloat16 off: the fair opponent on a CPU without bfloat16 units, where emulating them
                   is some thirty times slower; there the first arm is run once, for two steps
    workbench      `workbench.hf.train`, what `workbench train` runs

Both get the same tokens and labels, so the loss means the same. Tokens are real ones, padding not counted; the first
step of a run warms up and is not timed. The loss is that of rows not trained on, scored by the same plain forward pass
before and after. Run nothing else meanwhile: a second busy process slows steps several times over.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.zoo import timed
from workbench import Workbench, paths
from workbench.errors import NotFound

ROOT = Path(__file__).parents[1]
REAL = "smollm2-135m-instruct@1"
BASES = (REAL, *timed())
ARMS = {"trl": "trl", "trl-fp32": "trl bf16=False", "workbench": "workbench"}
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}  # on all linear layers
LEARNING_RATE = 1e-3
SCORED = 16  # rows of the test part for the loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", nargs="+", default=BASES, help=f"{', '.join(timed())}, family@version (added when not here), or a folder")
    parser.add_argument("--dataset", default="plain-replies", help="a dataset by name; order-codes has shorter rows and answers")
    parser.add_argument("--steps", type=int, default=6, help="optimiser steps a run, the first one not timed")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each arm")
    parser.add_argument("--rows", type=int, default=8, help="rows a step (the batch size)")
    parser.add_argument("--quick", action="store_true", help="one repeat of three steps")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--spec", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        spec = json.loads(given.spec.read_text(encoding="utf-8"))
        result = run_workbench(spec) if given.arm == "workbench" else run_trl(spec, bf16=given.arm == "trl")
        Path(spec["result"]).write_text(json.dumps(result), encoding="utf-8")
        return
    if given.quick:
        given.steps, given.repeats = 3, 1
    compare(given)


# ---------------------------------------------------------------- the parent: no torch


def compare(given: argparse.Namespace) -> None:
    """Run all arms on each base, alternating, and print a table for each."""
    units = _child("-c", "import sys; from workbench.hf.load import has_bf16_units; sys.exit(0 if has_bf16_units() else 3)") == 0
    load = os.getloadavg()[0]
    print(f"{_processor()}, {os.cpu_count()} cores, bfloat16 units: {'yes' if units else 'no'}, load {load:.2f}, {_libraries()}")
    print(f"{given.dataset}: {given.rows} rows a step, {given.steps} steps, {given.repeats} repeats, LoRA r=16 everywhere")
    if load > 0.5:
        print("Something else is running: the times below are not to be trusted.")
    alternating = [arm for arm in ARMS if units or arm != "trl"]
    bench = Workbench()
    with tempfile.TemporaryDirectory() as room:
        for base in given.base:
            print(f"\n{base}", flush=True)
            spec = _spec(given, bench, _folder(bench, base, Path(room)))
            runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
            if not units:
                runs["trl"].append(_run("trl", {**spec, "steps": 2}))
            for repeat in range(given.repeats):
                for arm in alternating if repeat % 2 == 0 else reversed(alternating):
                    runs[arm].append(_run(arm, spec))
            _table(runs)


def _folder(bench: Workbench, base: str, room: Path) -> Path:
    """Where `base` lies, after it was fetched or, in `room`, built with the tokenizer of the real one."""
    if base in timed():
        built = room / base
        if code := _child("-m", "benchmarks.zoo", base, str(built), "--tokenizer", str(_folder(bench, REAL, room))):
            raise SystemExit(f"Building {base} ended with exit status {code}.")
        return built
    if (folder := Path(base)).is_dir():
        return folder
    try:
        return bench.bases.get(base).path
    except NotFound:
        print(f"Adding {base} …", flush=True)
        return bench.bases.add(base).path


def _spec(given: argparse.Namespace, bench: Workbench, base: Path) -> dict[str, Any]:
    train = bench.datasets.rows(given.dataset, split="train")
    wanted = given.rows * given.steps
    rows = (train * (1 + wanted // len(train)))[:wanted]
    scored = bench.datasets.rows(given.dataset, split="test")[:SCORED]
    return {"base": str(base), "rows": rows, "scored": scored, "steps": given.steps, "batch": given.rows}


def _run(arm: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One run of one arm in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        spec = {**spec, "out": f"{folder}/out", "result": f"{folder}/result.json"}
        (Path(folder) / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        log = Path(folder) / "log"
        with log.open("wb") as file:
            code = _child("-m", "benchmarks.train", "--arm", arm, "--spec", f"{folder}/spec.json", output=file)
        if code:
            raise SystemExit(f"The arm {ARMS[arm]} failed:\n" + log.read_text(encoding="utf-8", errors="replace")[-4000:])
        result: dict[str, Any] = json.loads(Path(spec["result"]).read_text(encoding="utf-8"))
    print(f"  {ARMS[arm]:<15} {result['tokens'] / result['seconds']:7.1f} tokens/s", flush=True)
    return result


def _table(found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{found['workbench'][0]['parameters'] / 1e6:.0f} million parameters")
    print(f"{'':<15} {'real tokens/s':>16} {'s/step':>8} {'peak memory':>12} {'loss before -> after':>22} {'runs':>5}")
    speed: dict[str, float] = {}
    for arm, runs in found.items():
        rates = sorted(run["tokens"] / run["seconds"] for run in runs)
        speed[arm] = statistics.median(rates)
        step = statistics.median(run["seconds"] / run["timed_steps"] for run in runs)
        peak = max(run["peak_bytes"] for run in runs)
        after = statistics.median(run["after"] for run in runs)
        spread = f"{speed[arm]:.0f} ({rates[0]:.0f}-{rates[-1]:.0f})"
        losses = f"{runs[0]['before']:.3f} -> {after:.3f}"
        print(f"{ARMS[arm]:<15} {spread:>16} {step:>8.2f} {peak / 1e9:>9.2f} GB {losses:>22} {len(runs):>5}")
    for arm in ("trl", "trl-fp32"):
        steps = {run["timed_steps"] for run in found[arm]}
        few = " (one timed step)" if steps == {1} else ""
        print(f"workbench : {ARMS[arm]} = {speed['workbench'] / speed[arm]:.2f}{few}")
    if {run["timed_steps"] for run in found["trl"]} != {run["timed_steps"] for run in found["workbench"]}:
        print("The arm trl trained for fewer steps than the others, so its loss is not to be compared.")


def _environment() -> dict[str, str]:
    return paths.child_environment(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")


def _child(*arguments: str, output: Any = None) -> int:
    """The exit status of a fresh Python process."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, stdout=output, stderr=output, env=_environment(), cwd=ROOT, check=False).returncode


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _libraries() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "peft"))


# ---------------------------------------------------------------- the arms


def run_trl(spec: dict[str, Any], *, bf16: bool) -> dict[str, Any]:
    """TRL's trainer, told nothing but what is to be trained."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = _rendered(spec, spec["rows"])
    seconds: list[float] = []
    seen: list[int] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.began)
            seen.append(trainer._total_train_tokens)

    args = SFTConfig(
        spec["out"],
        max_steps=spec["steps"],
        per_device_train_batch_size=spec["batch"],
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        report_to="none",
        use_cpu=not _gpu(),
        **({} if bf16 else {"bf16": False}),
    )
    data = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **LORA)
    trainer = SFTTrainer(spec["base"], args, train_dataset=data, peft_config=config, callbacks=[Clock()])
    trainer.train()
    peak = _peak()
    trainer.save_model(spec["out"])
    return _result(spec, Path(spec["out"]), seen[-1] - seen[0], sum(seconds[1:]), len(seconds) - 1, peak)


def run_workbench(spec: dict[str, Any]) -> dict[str, Any]:
    """What a training job runs."""
    from workbench.hf.train import train
    from workbench.recipe import Recipe

    recipe = Recipe.load(
        {
            "base": REAL,
            "dataset": "benchmark",
            "max_steps": spec["steps"],
            "per_device_train_batch_size": spec["batch"],
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "lora_r": LORA["r"],
            "lora_alpha": LORA["lora_alpha"],
            "eval_rows": 0,
        }
    )
    lines: list[Any] = []
    result = train(recipe, Path(spec["base"]), spec["rows"], Path(spec["out"]), report=lines.append)
    seen = [line.tokens for line in lines if line.loss is not None]
    tokens = seen[-1] - seen[0]
    return _result(spec, result.folder, tokens, tokens / result.tokens_per_second, spec["steps"] - 1, result.peak_bytes)


def _result(spec: dict[str, Any], adapter: Path, tokens: int, seconds: float, timed_steps: int, peak: int) -> dict[str, Any]:
    """The figures of a run, with the loss on rows not trained on: plain transformers and PEFT, float32, row by row."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32, local_files_only=True)
    parameters = base.num_parameters()
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    rows = _rendered(spec, spec["scored"])

    def loss() -> float:
        total = count = 0.0
        for ids, labels in rows:
            target = torch.tensor([labels])
            learned = int((target[:, 1:] != -100).sum())
            total += float(model(input_ids=torch.tensor([ids]), labels=target).loss) * learned
            count += learned
        return total / count

    with torch.no_grad():
        after = loss()
        with model.disable_adapter():
            before = loss()
    measured = {"tokens": tokens, "seconds": seconds, "timed_steps": timed_steps, "peak_bytes": peak}
    return {**measured, "before": before, "after": after, "parameters": parameters}


def _rendered(spec: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    from workbench.hf.load import load_tokenizer
    from workbench.hf.render import render

    tokenizer = load_tokenizer(Path(spec["base"]))
    return [(one.input_ids, one.labels) for one in (render(tokenizer, row, max_length=1024) for row in rows)]


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _peak() -> int:
    from workbench.hf.machine import peak_bytes

    return peak_bytes()


if __name__ == "__main__":
    main()
