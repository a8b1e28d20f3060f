"""Every family of the field through everything the workbench does with a base, and the table of what came out.

python -m benchmarks.families [--only llama-3,gpt-2] [--methods lora,qlora,sft] [--steps difference,train,…] [--kept FILE] [--write docs]

Each model of `families.yaml` is added, trained by each method (`experts`: LoRA on the parameters that hold all experts of a layer),
published, read again by plain `peft`, merged, and checked on three later versions: the same weights under the other names that
checkpoints use, every weight moved by 2 %, and the same model in other coordinates. A method's cell holds the packed batch against
row after row through plain transformers: the learned token that is furthest off (nats) and the gradient of all trained weights, in
float32, and the median learned token in bfloat16, as a multiple of what bfloat16 does to the plain model. What raises a
`WorkbenchError` is a refusal, and its sentence is printed; all else is a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.zoo import build, families

METHODS = ("lora", "experts", "qlora", "sft")
STEPS = ("difference", "train", "reload", "merge", "same", "perturbed", "permuted")
ALLOWED = 1e-4  # nats, float32: what a learned token may be off
ALLOWED_BF16 = 3.0  # times what bfloat16 does to the plain model
MOVED = 0.02  # of every weight's norm, in the perturbed version


@dataclass
class Line:
    """One family's row of the table."""

    family: str
    cells: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)  # refusals and failures, by step
    seconds: float = 0.0

    @property
    def failed(self) -> list[str]:
        return [step for step, text in self.said.items() if text.startswith("FAILED")]


@dataclass(frozen=True)
class Difference:
    """The packed batch beside row after row through plain transformers."""

    packed: str  # "yes", or why not
    nats: float  # the learned token that is furthest off, float32
    gradient: float  # |g - g'| / |g'| over all trained weights, float32
    bf16: float  # how far off from float32 the median learned token is, as a multiple of the plain model's own in bfloat16


def rows() -> list[dict[str, Any]]:
    """Rows of 20 to 70 tokens with a common beginning, so that windows, chunks and shared prefixes count."""
    from tests.hf.tiny_adapter import order_rows

    found = order_rows(24)
    for i, row in enumerate(found):
        if i % 5 == 4:
            row["messages"][1]["content"] += " and a b c d e f g h i j k l m n o p q r s t u v w x y z"
    return found


def recipe_for(method: str, base: str, **more: Any) -> Any:
    from workbench.recipe import Recipe

    values = {
        "base": base,
        "dataset": "orders",
        "max_steps": 6,
        "per_device_train_batch_size": 6,
        "eval_rows": 4,
        "bf16": False,
        "lora_r": 4,
    }
    values |= {"method": "lora" if method == "experts" else method, "learning_rate": 1e-3 if method == "sft" else 2e-2, **more}
    return Recipe.load(values)


# ---------------------------------------------------------------- packed beside plain


def difference(folder: Path, recipe: Any, room: Path) -> Difference:
    """Hold what the trainer computes against plain transformers, on the run's own model before its first step."""
    import torch

    from workbench.hf.load import load_tokenizer
    from workbench.hf.packed import split, trim
    from workbench.hf.prepare import prepare
    from workbench.hf.rope import length_kind
    from workbench.hf.train import _Run

    tokenizer = load_tokenizer(folder)
    run = _Run(recipe, folder, tokenizer, prepare(recipe, tokenizer, rows()), room)
    trainer, _ = run.trainer(lambda progress: None, lambda: False)
    model = run.model.eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:  # zero at first: nothing would reach lora_A
                weight.normal_(std=0.02, generator=torch.Generator().manual_seed(len(name)))
    few = [*run.data.train[:6], max(run.data.train, key=lambda row: len(row[0]))]
    parts = split([trim(row) for row in few], 10**6, kind=length_kind(model))  # as the trainer does
    few = [row for part in parts for row in part]
    ours = _ours(trainer, model, parts)
    bf16 = _ours(trainer, model, parts, torch.bfloat16, gradient=False)[0]
    own = model.config._attn_implementation
    if own == "workbench_packed":
        model.set_attn_implementation("eager" if _wants_eager(model) else "sdpa")
    plain = _plain(model, few)
    plain_bf16 = _plain(model, few, torch.bfloat16, gradient=False)[0]
    rounding = float((plain_bf16 - plain[0]).abs().median())  # not the worst token: a router that tips over is not off by rounding
    return Difference(
        "yes" if run.packs else next((n for n in run.report["notes"] if "padded" in n), "no").removeprefix("Rows are padded, not packed: "),
        float((ours[0] - plain[0]).abs().max()),
        float((ours[1] - plain[1]).norm() / plain[1].norm()),
        float((bf16 - plain[0]).abs().median()) / max(rounding, 1e-6),
    )


def _wants_eager(model: Any) -> bool:
    return not getattr(model.get_base_model() if hasattr(model, "get_base_model") else model, "_supports_sdpa", True)


def _ours(trainer: Any, model: Any, parts: Sequence[Any], dtype: Any = None, *, gradient: bool = True) -> tuple[Any, Any]:
    """(log-probabilities of all learned tokens, gradient of their sum) as the workbench computes them."""
    import torch

    from workbench.hf.packed import pack, pad, scored

    model.zero_grad()
    on, layout = next(model.parameters()).device, pack if trainer.packs else pad
    with torch.autocast(on.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None), torch.set_grad_enabled(gradient):
        found = torch.cat([scored(model, layout(part, device=on))[0] for part in parts])
    return found.detach(), _gradient(model, found.sum()) if gradient else None


def _plain(model: Any, few: Sequence[Any], dtype: Any = None, *, gradient: bool = True) -> tuple[Any, Any]:
    """The same row after row, by the model's own forward pass without anything of ours."""
    import torch

    model.zero_grad()
    parts = []
    for ids, labels in few:
        inputs = torch.tensor([ids], device=next(model.parameters()).device)
        with torch.autocast(inputs.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None), torch.set_grad_enabled(gradient):
            logits = model(input_ids=inputs, use_cache=False).logits[0, :-1].float()
        follows = torch.tensor(labels[1:])
        learned = follows != -100
        parts.append(logits[learned].log_softmax(-1).gather(1, follows[learned][:, None])[:, 0])
    found = torch.cat(parts)
    return found.detach(), _gradient(model, found.sum()) if gradient else None


def _gradient(model: Any, total: Any) -> Any:
    import torch

    total.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# ---------------------------------------------------------------- through the workbench


class Home:
    """A home folder of its own, in which one family after the other is tried."""

    def __init__(self, room: Path) -> None:
        from tests.hf.rebase_world import World
        from workbench import Workbench

        self.room, self.bench = room, Workbench()
        self._world = World
        file = room / "orders.jsonl"
        from workbench.data.rows import dumps

        file.write_text("".join(dumps({"messages": row["messages"]}) + "\n" for row in rows()), encoding="utf-8")
        self.bench.datasets.add(file, name="orders", test_rows=6)
        self.test = self.bench.datasets.rows("orders", split="test")

    def train(self, method: str, base: Any, recipe: Any, line: Line) -> Any:
        """Train, score and publish as a job does; the adapter, or the folder of fully trained weights."""
        import torch

        from tests.hf.rebase_world import publish
        from workbench.hf.evaluate import evaluate
        from workbench.hf.train import train

        result = train(recipe, base.path, self.bench.datasets.rows("orders", split="train"), self.room / f"run-{line.family}-{method}")
        how = {"max_length": recipe.max_length, "dtype": torch.float32, "quantized": recipe.quantization}
        found = evaluate(base.path, result.folder, self.test, **how)
        if method == "sft":
            return self.bench.bases.publish(result.folder, f"{line.family}@9", continues=base.ref, source={"kind": "trained"})
        name = f"{line.family}-{method}"
        return publish(self.bench, base, result.folder, found, self.room, name, rows=self.test, recipe=recipe)

    def reload(self, base: Any, adapter: Any) -> str:
        """What plain transformers and peft make of the published folder, beside what we make of it."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        from workbench.hf.load import load_adapter, load_base, load_tokenizer
        from workbench.hf.render import render

        tokenizer = load_tokenizer(base.path)
        inputs = [torch.tensor([render(tokenizer, row, max_length=512).input_ids]) for row in self.test]
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32), str(adapter.path)).eval()
        ours = load_adapter(load_base(base.path, dtype=torch.float32), adapter.path)
        bare = load_base(base.path, dtype=torch.float32)
        with torch.no_grad():
            pairs = [(plain(ids).logits, ours(ids).logits, bare(ids).logits) for ids in inputs]
        apart = max(float((a - b).abs().max()) for a, b, _ in pairs)
        moved = max(float((a - c).abs().max()) for a, _, c in pairs)
        if apart > 1e-4 or moved < 1e-4:
            raise AssertionError(f"plain peft is {apart:.2g} from ours, and {moved:.2g} from the bare base")
        return "same"

    def merge(self, base: Any, adapter: Any) -> str:
        from workbench.hf.merge import merge

        report = merge(base.path, adapter.path, self.room / f"merged-{adapter.name}", rows=self.test)
        return f"{report.merging.max_logit_difference:.0e}"

    def check(self, base: Any, adapter: Any, folder: Path, version: str) -> str:
        """The verdict and the kind of change on the model in `folder`."""
        from workbench.rebase.store import Checks

        world = self._world(self.bench, base, adapter, Path(tempfile.mkdtemp(dir=self.room)))
        onto = self.bench.bases.publish(folder, f"{base.ref.family}@{version}", continues=None, source={"kind": "control", "name": version})
        world.check(str(onto.ref), [adapter.ref])
        check = Checks().find(adapter.ref, str(onto.ref))
        assert check is not None
        return f"{check.verdict.word if check.verdict else '-'}, {check.weights.change if check.weights else '-'}"


def other_names(source: Path, out: Path) -> Path:
    """The same weights as a checkpoint without a head has them, where that is all of the model; else as they are."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors", "lock.json", "base.json"))
    whole = model.config.get_text_config().tie_word_embeddings and len(model.base_model.state_dict()) + 1 >= len(model.state_dict())
    config = (out / "config.json").read_bytes()
    (model.base_model if whole else model).save_pretrained(out)
    (out / "config.json").write_bytes(config)
    return out


def permuted(source: Path, out: Path) -> Path:
    from workbench.rebase.recoordinate import Coordinates

    return Coordinates.draw(source, seed=1).write_base(source, out)


def perturbed(source: Path, out: Path) -> Path:
    from benchmarks.controls import add_noise

    return add_noise(source, out, relative=MOVED)


VERSIONS: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "same": ("2", other_names),
    "perturbed": ("3", perturbed),
    "permuted": ("4", permuted),
}


def experts_of(base: Any) -> list[str]:
    """The parameters that hold all experts of a layer at once, by the names that PEFT's `target_parameters` takes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.path))
    return sorted({".".join(n.split(".")[-2:]) for n, p in model.named_parameters() if p.ndim == 3 and "expert" in n})


def walk(home: Home, family: str, methods: Sequence[str], steps: Sequence[str]) -> Line:
    """Everything asked for with one family; a step that cannot be made is told in one sentence and the next ones are tried."""
    line, began = Line(family), time.perf_counter()
    source = build(family, home.room / family)
    with step(line, "add") as run:
        base = run(lambda: home.bench.bases.add(f"{family}@1", source=f"folder:{source}"))
        run(lambda: home.bench.preview("orders", base.ref, n=1))
    if "add" in line.said:
        line.seconds = time.perf_counter() - began
        return line
    adapters: dict[str, Any] = {}
    for method in methods:
        more: dict[str, Any] = {}
        if method == "experts":
            more = {"target_parameters": experts_of(base), "lora_target_modules": ["o_proj"]}
            if not more["target_parameters"]:
                continue
        if "difference" in steps:
            with step(line, method) as run:
                found = run(lambda m=method, k=more: difference(base.path, recipe_for(m, str(base.ref), **k), home.room / "trial"))
                _tell(line, method, found)
        if "train" in steps and method not in line.said:
            with step(line, f"train {method}") as run:
                adapters[method] = run(lambda m=method, k=more: home.train(m, base, recipe_for(m, str(base.ref), **k), line))
    adapters.pop("sft", None)
    for name, work in (("reload", home.reload), ("merge", home.merge)):
        if name in steps:
            for adapter in adapters.values():
                with step(line, name) as run:
                    line.cells[name] = run(lambda w=work, a=adapter: w(base, a))
    for name in VERSIONS:
        if name in steps and adapters:
            version, make = VERSIONS[name]
            adapter = adapters.get("experts") or next(iter(adapters.values()))
            with step(line, name) as run:
                folder = run(lambda m=make, n=name: m(base.path, home.room / f"{family}-{n}"))
                line.cells[name] = run(lambda f=folder, v=version, a=adapter: home.check(base, a, f, v))
    line.seconds = time.perf_counter() - began
    return line


def _tell(line: Line, method: str, found: Difference) -> None:
    line.cells.setdefault("packed", found.packed)
    line.cells[method] = f"{found.nats:.0e} · {found.gradient:.0e} · {found.bf16:.1f}"
    if found.nats > ALLOWED or found.gradient > 1e-3 or found.bf16 > ALLOWED_BF16:
        line.said[f"{method} difference"] = f"FAILED: off by {line.cells[method]}"


@contextlib.contextmanager
def step(line: Line, name: str) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Note in `line` how the step `name` ended, when it did not go well."""
    from workbench.errors import WorkbenchError

    try:
        yield lambda work: work()
    except WorkbenchError as error:
        line.said[name] = error.message
        line.cells[name] = "refused"
    except Exception as error:  # whatever it is, the others are still wanted
        text = str(error).splitlines()[0] if str(error) else ""
        line.said[name] = f"FAILED: {type(error).__name__}: {text}"
        line.cells[name] = "FAILED"
        if os.environ.get("TRACE"):
            import traceback

            traceback.print_exc()


# ---------------------------------------------------------------- the table

COLUMNS = ("packed", *METHODS, "reload", "merge", "same", "perturbed", "permuted")


def table(lines: Sequence[Line]) -> str:
    """The rows in Markdown, and below them every sentence that a step ended with."""
    text = "| family | " + " | ".join(COLUMNS) + " | s |\n|" + "---|" * (len(COLUMNS) + 2) + "\n"
    for line in lines:
        packed = line.cells.get("packed", "")
        cells = [("yes" if packed == "yes" else "no" if packed else "")] + [
            line.cells.get(f"train {column}") or line.cells.get(column, "") for column in COLUMNS[1:]
        ]
        text += f"| {line.family} | " + " | ".join(cells) + f" | {line.seconds:.0f} |\n"
    said = [f"- **{line.family}**, {name}: {sentence}" for line in lines for name, sentence in line.said.items()]
    said += [f"- **{line.family}**, padded: {line.cells['packed']}" for line in lines if line.cells.get("packed", "yes") != "yes"]
    failed = sum(bool(line.failed) for line in lines)
    return text + f"\n{len(lines)} families, {failed} with a failure.\n\n" + "\n".join(said) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(families()))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--kept", type=Path, metavar="FILE", help="keep each family's row there, and go on with those that are not")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="also write FOLDER/families.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices of 64 columns give two threads nothing to share
    with tempfile.TemporaryDirectory() as room:
        os.environ |= {"WORKBENCH_HOME": room, "HF_HUB_OFFLINE": "1"}
        os.environ.pop("WORKBENCH_DB", None)
        home, lines = Home(Path(room)), []
        kept = arguments.kept.read_text(encoding="utf-8").splitlines() if arguments.kept and arguments.kept.exists() else []
        done = {line.family: line for line in (Line(**json.loads(text)) for text in kept)}
        for family in arguments.only.split(","):
            lines.append(done.get(family) or walk(home, family, arguments.methods.split(","), arguments.steps.split(",")))
            if family in done:
                continue
            if arguments.kept:
                with arguments.kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(lines[-1])) + "\n")
            print(f"{family}: {lines[-1].cells} {lines[-1].said} {lines[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    print(table(lines))
    if arguments.write:
        about = (__doc__ or "").split("\n\n", 2)[-1].strip()
        page = f"# Every family, tried\n\n{about}\n\nPrinted by `python -m benchmarks.families`.\n\n{table(lines)}"
        (arguments.write / "families.md").write_text(page, encoding="utf-8")
    return 1 if any(line.failed for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
