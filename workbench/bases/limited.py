"""What is done with a stranger's model before it is a base: unpack, recast, check and lock, each in a child with limits.

The children are told what to import before they are forked (`warm`), so that this process never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from workbench import foreign
from workbench.errors import IntegrityError, SourceError, WorkbenchError
from workbench.foreign import GIB, MIB, Limits

if TYPE_CHECKING:
    from workbench.bases.lock import Lock

__all__ = ["convert", "lock", "recast", "warm"]

Say = Callable[[str], None]
_CONVERTING = ("workbench.hf.weights", "transformers.models.llama.modeling_llama")
_LOCKING = ("numpy", "tokenizers", "workbench.bases.lock", "workbench.bases.sketch", "workbench.bases.limited")
_HINT = "If it is what you expect, ask whoever published it for safetensors of a common kind."


def warm() -> None:
    """Begin the slow imports of `convert`, to have them done while something else is waited for, such as a download."""
    Thread(target=Limits("nothing", preload=_CONVERTING).run, args=(bool,), daemon=True).start()


def convert(gguf: Path, out: Path, dtype: str, say: Say) -> dict[str, Any]:
    """Write the model folder `out` from a GGUF file; see `hf.weights.convert_gguf` for what it returns and raises."""
    grown = 32 * gguf.stat().st_size  # a quantised weight has 1.5 bits or more, and is unpacked by way of 32
    return _limits(gguf.name, grown, _CONVERTING, SourceError, say).run(_convert, gguf, out, dtype)


def recast(folder: Path, dtype: str, say: Say) -> None:
    """Rewrite the float weights of `folder` in another type; raises as `hf.weights.recast`."""
    say(f"Recasting the weights to {dtype}")
    _limits("The model", 8 * _size(folder), _CONVERTING, IntegrityError).run(_recast, folder, dtype)


def lock(folder: Path, source: dict[str, Any], say: Say) -> Lock:
    """Refuse a folder that is no base, else write its lock.json and return the lock. Raises `IntegrityError`, `SourceError`."""
    return _limits("The model", _size(folder), _LOCKING, IntegrityError, say).run(_lock, folder, source)


def _limits(what: str, size: int, preload: tuple[str, ...], error: type[WorkbenchError], say: Say | None = None) -> Limits:
    """Room and time for reading or writing `size` bytes of weights, on a slow disk, beside whatever a small model needs."""
    seconds, memory, writes = 90 + size / (4 * MIB), 2 * GIB + size, GIB + size
    return Limits(what, memory, seconds, writes=writes, preload=preload, error=error, hint=_HINT, on_progress=say)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


# ---------------------------------------------------------------- in the child


def _convert(gguf: Path, out: Path, dtype: str) -> dict[str, Any]:
    from workbench.hf.weights import convert_gguf

    return convert_gguf(gguf, out, dtype, say=foreign.say)


def _recast(folder: Path, dtype: str) -> None:
    from workbench.hf.weights import recast

    recast(folder, dtype)


def _lock(folder: Path, source: dict[str, Any]) -> Lock:
    from workbench.bases.files import check_folder
    from workbench.bases.lock import check_tokenizer, write_lock

    try:
        check_folder(folder)
        check_tokenizer(folder)
        return write_lock(folder, source, foreign.say)
    except WorkbenchError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}"[:300]
        raise IntegrityError(f"The model's files are not what such files hold ({what}).", hint="Fetch the model again.") from error
