"""Tokenizers and chat templates are strangers' programs: whatever they do, previews, lengths and checks end with a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import edit_json
from workbench import Workbench
from workbench.errors import DataError, WorkbenchError
from workbench.hf import bounded

ROWS = [{"messages": [{"role": "user", "content": "x" * 64}, {"role": "assistant", "content": "A lamp."}]}] * 12


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    bench = Workbench()
    bench.datasets.add(file, name="rows")
    return bench


def add(bench: Workbench, pico_base: Path, tmp_path: Path, change: Any) -> str:
    folder = shutil.copytree(pico_base, tmp_path / "model")
    change(folder)
    return str(bench.bases.add(folder, name="odd@1").ref)


def template(text: str) -> Any:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


SPLIT = {"type": "Split", "pattern": {"Regex": "(x+x+)+[yY]"}, "behavior": "Isolated", "invert": False}
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BOMBS: dict[str, tuple[Any, str]] = {
    "loops in loops": (template(LOOP), "chat template or tokenizer of odd@1 was given up: it took more than 2 seconds"),
    "200 MB of text": (template("{{ 'x' * 200000000 }}" * 9), "chat template or tokenizer of odd@1 was given up"),
    "refuses": (template("{{ raise_exception('No lamps.') }}"), "chat template refuses this conversation: No lamps."),
    "calls itself": (template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"), "chat template refuses this conversation"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_ends_with_a_sentence(bench: Workbench, pico_base: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, words = BOMBS[case]
    base = add(bench, pico_base, tmp_path, change)
    monkeypatch.setattr(bounded, "_SECONDS", 2)
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        bench.preview("rows", base)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(WorkbenchError):
        bench.check_data("rows", base=base)
    assert time.monotonic() - began < 30  # the first call also imports the libraries


def test_a_pattern_that_panics_is_an_error_like_any_other(bench: Workbench, pico_base: Path, tmp_path: Path) -> None:
    base = bench.bases.add(pico_base, name="odd@1")
    file = base.path / "tokenizer.json"  # changed later: adding such a base is refused already
    file.write_text(json.dumps({**json.loads(file.read_text()), "pre_tokenizer": SPLIT}))
    with pytest.raises(DataError, match="tokenizer breaks on this text"):
        bounded.lengths(base, ROWS, max_length=512)
    edit_json("tokenizer.json", normalizer={"type": "NFC"}, model={"type": "BPE", "vocab": {"a": 5}, "merges": [["b", "c"]]})(base.path)
    with pytest.raises(WorkbenchError, match="no tokenizer in"):
        bounded.lengths(base, ROWS, max_length=512)


def test_previews_leave_this_process_without_torch(bench: Workbench, pico_base: Path, tmp_path: Path) -> None:
    bench.bases.add(pico_base, name="pico@1")
    code = (
        "import sys; from workbench import Workbench; bench = Workbench(); "
        "print(sum(len(text) for text, _ in bench.preview('rows', 'pico@1', n=1)[0]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["132", "False"], done.stderr
