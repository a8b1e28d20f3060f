"""The examples of docs/python.md are run as they stand, in order, on the tiny base."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "python.md"


@pytest.mark.torch
def test_the_examples_print_what_the_page_says(pico_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pico_base, tmp_path / "pico")
    rows = "".join(f"order {i:02d} of the day,code {i % 7}\n" for i in range(60))
    (tmp_path / "orders.csv").write_text("question,answer\n" + rows, encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(PAGE.read_text(encoding="utf-8"), {"Path": Path}, "python.md", str(PAGE), 0)
    runner = doctest.DocTestRunner()
    said: list[str] = []
    runner.run(examples, out=said.append)
    assert runner.summarize(verbose=False).attempted > 15
    assert not said, "".join(said)
