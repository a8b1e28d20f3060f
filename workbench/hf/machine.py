"""What this machine has, as the trainer sees it: threads, memory, matrix units."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from workbench.errors import TrainingError
from workbench.hf.load import device, first_line, has_bf16_units

__all__ = ["Machine", "activation_room", "enough_memory", "facts", "peak_bytes"]

_CPU_ACTIVATIONS = 256 * 1024**2  # bytes: some 180 tokens of a 135M model in float32, enough to keep the cores busy


@dataclass(frozen=True)
class Machine:
    """Facts that decide how a run is carried out, stored with it."""

    device: str  # "cpu", "cuda", "mps"
    name: str  # of the processor or GPU
    threads: int
    memory_bytes: int  # of the device the weights live on
    bf16_units: bool
    torch: str


def facts() -> Machine:
    """This machine, now; `threads` are those torch was told to use."""
    on = device()
    if on.type == "cuda":
        card = torch.cuda.get_device_properties(0)
        name, memory = card.name, card.total_memory
    else:
        name, memory = platform.processor() or platform.machine(), psutil.virtual_memory().total
    return Machine(on.type, name, torch.get_num_threads(), memory, has_bf16_units(on), torch.__version__)


def activation_room(machine: Machine, weights: int) -> int:
    """Bytes that the activations of one forward pass may take beside `weights` bytes of weights.

    It follows from fixed facts only, never from what happens to be free: it decides how batches are divided, and
    the same seed has to give the same adapter.
    """
    if machine.device == "cuda":
        return max(1024**3, int(0.7 * (machine.memory_bytes - weights)))
    return min(_CPU_ACTIVATIONS, max(32 * 1024**2, (machine.memory_bytes - weights) // 8))


@contextmanager
def enough_memory() -> Iterator[None]:
    """Raise `TrainingError` where memory runs out, on a GPU or in main memory; any other error stays what it is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise TrainingError(
            f"Memory ran out: {first_line(error)}",
            hint="Set gradient_checkpointing: true, a smaller max_length or method qlora, or use a smaller base.",
        ) from error


def peak_bytes() -> int:
    """The most memory this process has held: on the GPU where there is one, else resident in main memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage also counts what the process held before it became this program
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
