"""A checkpoint that is torn, changed or of another run is never resumed from, whatever its number."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from workbench import manifest
from workbench.hf.checkpoints import commit, fault, newest_verified, remove

FILES = {"adapter_model.safetensors": 3000, "optimizer.pt": 6000, "trainer_state.json": 400, "rng_state.pth": 200, "sub/part.bin": 50}


def make(folder: Path, step: int, *, of: str = "run", seal: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    for name, size in FILES.items():
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(random.Random(f"{step}{name}").randbytes(size))
    if seal:
        commit(checkpoint, of=of)
    return checkpoint


def damage(checkpoint: Path, dice: random.Random) -> str:
    """One thing that a crash or a bad disk does to a checkpoint."""
    every = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    victim = dice.choice(every)
    kind = dice.choice(["truncate", "flip", "delete", "empty"])
    content = victim.read_bytes()
    if kind == "truncate":
        victim.write_bytes(content[: dice.randrange(len(content))])
    elif kind == "flip":
        at = dice.randrange(len(content))
        victim.write_bytes(content[:at] + bytes([content[at] ^ (1 << dice.randrange(8))]) + content[at + 1 :])
    elif kind == "delete":
        victim.unlink()
    else:
        victim.write_bytes(b"")
    return f"{kind} {victim.name}"


def test_the_newest_whole_one_of_all_attempts_is_taken(tmp_path: Path) -> None:
    first, second = tmp_path / "attempt-1" / "checkpoints", tmp_path / "attempt-2" / "checkpoints"
    make(first, 10), make(first, 9), make(second, 12), make(second, 100, seal=False)
    found, passed_over = newest_verified([second, first], of="run")
    assert found == second / "checkpoint-12"
    assert passed_over == ["attempt-2/checkpoint-100: it was never committed"]
    assert newest_verified([first], of="another") == (None, [f"attempt-1/checkpoint-{n}: {OTHER}" for n in (10, 9)])
    assert newest_verified([tmp_path / "nowhere"]) == (None, [])


OTHER = "it belongs to a run with another recipe or other rows"


def test_two_hundred_torn_checkpoints_are_all_passed_over(tmp_path: Path) -> None:
    dice = random.Random(7)
    good = make(tmp_path, 1)
    whole = make(tmp_path / "whole", 2)
    for n in range(200):
        torn = tmp_path / "checkpoint-2"
        shutil.copytree(whole, torn)
        what = damage(torn, dice)
        assert newest_verified([tmp_path], of="run")[0] == good, f"{n}: {what}"
        assert fault(torn, of="run"), what
        shutil.rmtree(torn)


@pytest.mark.parametrize("calls", range(1, 12))
def test_a_crash_at_any_point_of_sealing_leaves_no_seal_or_a_true_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    checkpoint = make(tmp_path, 3, seal=False)
    left = calls

    def crash(real: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return real(*args, **kwargs)  # type: ignore[operator]

        return call

    monkeypatch.setattr("os.fsync", crash(__import__("os").fsync))
    monkeypatch.setattr("os.replace", crash(__import__("os").replace))
    try:
        commit(checkpoint, of="run")
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    sealed = (checkpoint / manifest.NAME).exists()
    assert (fault(checkpoint, of="run") is None) is sealed
    commit(checkpoint, of="run")
    assert fault(checkpoint, of="run") is None


def test_removing_takes_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path, 1), make(tmp_path, 2)
    (tmp_path / "log").write_text("kept")
    remove(tmp_path)
    assert (tmp_path / "log").read_text() == "kept" and not list(tmp_path.glob("checkpoint-*"))
