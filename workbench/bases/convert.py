"""Have a GGUF file converted in a process of its own, so that this one never imports torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from workbench import errors, paths

__all__ = ["Converter"]


class Converter:
    """A conversion process. Made early, it does its slow imports while the file is still being fetched."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workbench.hf.weights"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=paths.child_environment(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", PYTHONSAFEPATH="1"),
        )

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def convert(self, gguf: Path, out: Path, dtype: str, say: Callable[[str], None]) -> dict[str, Any]:
        """Write the model folder `out`; returns what the file says of itself (architecture, license, name, parameters).

        Raises what `hf.weights.convert_gguf` raises, and `SourceError` when the process died.
        """
        return self._ask({"gguf": str(gguf), "out": str(out), "dtype": dtype}, say, f"Converting {gguf.name}")

    def recast(self, folder: Path, dtype: str, say: Callable[[str], None]) -> None:
        """Rewrite the float weights of `folder` in another type."""
        say(f"Recasting the weights to {dtype}")
        self._ask({"recast": str(folder), "dtype": dtype}, say, f"Recasting to {dtype}")

    def _ask(self, request: dict[str, str], say: Callable[[str], None], what: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died while importing; its log says why
        for text in self._process.stdout:
            line = json.loads(text)
            if "progress" in line:
                say(line["progress"])
            elif "error" in line:
                raise getattr(errors, line["error"], errors.SourceError)(line["message"], hint=line["hint"])
            else:
                return dict(line["done"])
        code = self._process.wait()
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["it said nothing"])[-1]
        hint = "Not enough memory for this model?" if code == -9 else "Use the model's safetensors instead (a hub or folder source)."
        raise errors.SourceError(f"{what} ended with status {code}: {last[:300]}.", hint=hint)
