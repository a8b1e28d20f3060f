"""What a job cannot do is said before its first step, in a sentence; what it can do leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models.llama.modeling_llama import LlamaAttention

from benchmarks.families import recipe_for, rows
from benchmarks.zoo import build
from workbench.errors import IntegrityError, TrainingError
from workbench.hf import rehearsal
from workbench.hf.machine import enough_memory
from workbench.hf.train import train

pytestmark = pytest.mark.torch


def go(base: Path, out: Path, method: str = "lora", **more: Any) -> Any:
    options = {key: more.pop(key) for key in ("check", "report") if key in more}
    return train(recipe_for(method, "zoo@1", max_steps=2, **more), base, rows(), out, **options)


@pytest.mark.parametrize(("method", "weights"), [("lora", "adapter_model.safetensors"), ("sft", "model.safetensors")])
def test_a_rehearsal_changes_nothing_and_says_how_long_it_took(
    pico_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, weights: str
) -> None:
    lines: list[str | None] = []
    more = {"lora_dropout": 0.1} if method == "lora" else {}
    first = go(pico_base, tmp_path / "a", method, **more, report=lambda progress: lines.append(progress.message))
    assert any("tried on two rows, in" in (line or "") for line in lines) and first.report["rehearsal_seconds"] > 0
    assert not (tmp_path / "a" / "rehearsal").exists()
    monkeypatch.setattr("workbench.hf.train.rehearse", lambda *args, **kwargs: 0.0)
    second = go(pico_base, tmp_path / "b", method, **more)
    assert (first.folder / weights).read_bytes() == (second.folder / weights).read_bytes()


@pytest.mark.parametrize("family", ["mamba", "falcon-mamba"])
def test_a_base_that_gives_no_answers_is_refused_before_the_run(tmp_path: Path, family: str) -> None:
    with pytest.raises(TrainingError, match="cannot score and answer two rows as this job would: .*cache"):
        go(build(family, tmp_path / "base"), tmp_path / "out", lora_target_modules=("in_proj", "x_proj"))
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


def test_an_adapter_that_the_registry_would_refuse_is_known_before_the_run(pico_base: Path, tmp_path: Path) -> None:
    def refuse(folder: Path) -> None:
        assert (folder / "adapter_config.json").is_file() and (folder / "adapter_model.safetensors").is_file()
        raise IntegrityError("Its rank is a secret.")

    with pytest.raises(TrainingError, match="cannot save what it learns and load it again: Its rank is a secret"):
        go(pico_base, tmp_path / "out", check=refuse)
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_that_is_another_when_loaded_again_is_known_before_the_run(pico_base: Path, tmp_path: Path, method: str) -> None:
    def halve(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        save_file({name: value / 2 for name, value in tensors.items()}, folder / "adapter_model.safetensors", {"format": "pt"})

    with pytest.raises(TrainingError, match=r"loaded again, what was saved is \d.* nats off"):
        go(pico_base, tmp_path / "out", method, check=halve)
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


def test_an_optimiser_that_cannot_step_is_known_before_the_run(pico_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Any, closure: Any = None) -> None:
        raise RuntimeError("no kernel for this type")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(TrainingError, match="cannot learn from two rows as this job would: RuntimeError: no kernel for this type"):
        go(pico_base, tmp_path / "out")


def test_running_out_of_memory_is_told_as_that_and_nothing_else_is(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Memory ran out: .*DefaultCPUAllocator"), enough_memory():
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="must match"), enough_memory():
        torch.zeros(2) + torch.zeros(3)
    folder = build("llama-3", tmp_path / "base")
    raised: list[Exception] = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("no such kernel")]
    for error, wanted in zip(
        raised, ["Memory ran out: CUDA out of memory", "cannot take a first pass with method lora: RuntimeError"], strict=True
    ):
        with pytest.raises(TrainingError, match=wanted), raises_in(LlamaAttention, error):
            go(folder, tmp_path / "out")


@contextmanager
def raises_in(kind: type, error: Exception) -> Iterator[None]:
    """Every module of that kind raises `error` when it is called."""

    def fail(module: Any, inputs: Any) -> None:
        if isinstance(module, kind):
            raise error

    hook = torch.nn.modules.module.register_module_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def test_whatever_a_model_raises_is_one_sentence(pico_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("no such\nthing")

    monkeypatch.setattr(rehearsal, "_answer", broken)
    with pytest.raises(TrainingError) as caught:
        go(pico_base, tmp_path / "out")
    assert caught.value.message.endswith("as this job would: ZeroDivisionError: no such") and "Nothing was trained" in caught.value.hint


CRASHED = [
    *((family, "lora") for family in ("falcon-7b", "bloom", "stablelm", "nemotron", "lfm2", "minimax", "jamba", "phimoe")),
    ("gpt-2", "qlora"),
    ("mixtral", "sft"),
    ("gpt-oss", "sft"),
]


@pytest.mark.parametrize(("family", "method"), CRASHED)
def test_the_families_that_crashed_are_trained(tmp_path: Path, family: str, method: str) -> None:
    base = build(family, tmp_path / "base")
    result = go(base, tmp_path / "out", method)
    if method == "sft":
        asked = ['"output_router_logits": true' in (folder / "config.json").read_text() for folder in (base, result.folder)]
        assert asked[0] is asked[1], "TRL's switch is published with the base"
