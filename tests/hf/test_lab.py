"""The lineage lab, tiny: from text to page, resumed at every step; its contest on cells whose answer is known."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.lab import pretrain
from benchmarks.lab.__main__ import main
from benchmarks.lab.cells import Cell
from benchmarks.lab.contest import contest, counted, kept
from benchmarks.lab.pictures import matrix, scatter
from benchmarks.lab.sizes import TINY, piece
from benchmarks.lab.text import make_text
from workbench.rebase.result import Check, Contrasts, Structure, Verdict, Weights
from workbench.rebase.verdicts import VERDICTS
from workbench.stats import Interval

pytestmark = pytest.mark.torch


def run(folder: Path) -> str:
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(io.StringIO()):
        main(["--tiny", "--folder", str(folder), "--threads", "1"])
    return page.getvalue()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("lab")
    return folder, run(folder)


def test_the_page_is_what_was_printed_and_holds_every_cell(lab: tuple[Path, str]) -> None:
    folder, page = lab
    assert (folder / "out" / "lab.md").read_text(encoding="utf-8") == page
    for adapter in TINY.adapters:
        rows = re.findall(r"^\| made on \*\*(\w+)\*\* \|(.*)\|$", page.split(f"### {adapter}\n")[1].split("###")[0], flags=re.MULTILINE)
        assert [name for name, _ in rows] == list(TINY.bases)
        for i, (_, line) in enumerate(rows):
            cells = line.split("|")
            assert len(cells) == len(TINY.bases) and all(any(word in cell for word in VERDICTS) for cell in cells)
            assert "✓ works" in cells[i] or "○ no gain at home" in cells[i]  # at home nothing changes
    counts = re.search(r"^\| all \| (\d+) \|(.*)\|$", page, flags=re.MULTILINE)
    assert counts and int(counts[1]) == 12 == sum(map(int, counts[2].split("|")))


def test_the_picture_is_svg(lab: tuple[Path, str]) -> None:
    out = lab[0] / "out"
    titles = [e.text or "" for e in ElementTree.parse(out / "images" / "lab-matrix.svg").iter() if e.tag.endswith("title")]
    assert sum(" to " in title for title in titles) == 18


def test_finished_pieces_are_not_made_again_and_a_lost_one_comes_out_the_same(lab: tuple[Path, str]) -> None:
    folder, page = lab
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("piece.json")}
    assert len(before) == 1 + 3 + 6 + 6 + 6  # text, bases, adapters, scores, signals
    assert run(folder) == page
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("piece.json")} == before
    shutil.rmtree(next(folder.glob("adapters/recall-c2-*")))
    shutil.rmtree(next(folder.glob("scores/recall-s1-*")))
    again = run(folder)
    assert _without_times(again) == _without_times(page)


def _without_times(page: str) -> str:
    return page.split("## Time and machine")[0]


def test_a_stopped_pre_training_goes_on_bit_for_bit(lab: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "KEEP_EVERY", 5)
    said: list[str] = []

    def stop_at_the_end(line: str) -> None:
        said.append(line)
        if line.startswith("  step 24:"):
            raise KeyboardInterrupt

    text = make_text(tmp_path, TINY, None)
    with pytest.raises(KeyboardInterrupt):
        pretrain.make_bases(tmp_path, TINY, text, stop_at_the_end)
    assert len(list(tmp_path.glob("bases/c*"))) == 1 and len(list(tmp_path.glob("bases/.c2*.part"))) == 1
    state = next(tmp_path.glob("runs/0-*/state.pt"))
    assert state.is_file()
    bases = pretrain.make_bases(tmp_path, TINY, text, said.append)
    assert any("goes on from step" in line for line in said)
    unbroken = {p.name: json.loads((p / "piece.json").read_text())["facts"] for p in lab[0].glob("bases/c*")}
    for base in (bases["c1"], bases["c2"]):
        assert base.facts["lock_sha256"] == unbroken[base.path.name]["lock_sha256"]


def test_a_piece_that_failed_is_not_there(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        piece(tmp_path, "part", {"a": 1}, fail)
    made = piece(tmp_path, "part", {"a": 1}, lambda out: {"answer": 42})
    assert made.facts == {"answer": 42} and not (made.path / "half").exists()
    assert piece(tmp_path, "part", {"a": 2}, lambda out: None).path != made.path


# ---------------------------------------------------------------- the contest, on cells whose answer is known


def cell(source: str, target: str, drift: float, score: float, word: str, *, name: str = "orders", change: str = "continuation") -> Cell:
    weights = Weights(change, True, None, drift, None, drift**2, 0.5, None, None, None, None)
    arms = {"home": {"right": 0.0}, "home_adapter": {"right": 0.8}, "new": {"right": 0.1}, "new_adapter": {"right": score}}
    sure = Interval(0.8, 0.7, 0.9, "bootstrap")
    verdict = Verdict(word, False, "right", "", 200, None, arms, {"right": Contrasts(sure, sure, sure, sure, sure)})
    check = Check("a@1", "", "l@1", "", "l@2", "", None, Structure(()), weights, verdict=verdict)
    return Cell(name, source, target, check)


def ladder() -> list[Cell]:
    """Copies that fail with drift: sound up to .3, broken from .5 on."""
    bases = ["c1", "c2", "c3", "c4", "s1"]
    cells = []
    for i, source in enumerate(bases):
        for j, target in enumerate(bases):
            for k, name in enumerate(("orders", "recall")):
                drift = abs(i - j) * 0.2 - 0.05 + 0.001 * (i + k)
                word = "works" if i == j or drift < 0.3 else "lost"
                change = "identical" if i == j else "continuation"
                cells.append(cell(source, target, max(0.0, drift), 0.8 * (1 - max(0.0, drift)), word, name=name, change=change))
    return cells


def test_the_contest_finds_the_signal_and_says_nothing_about_missing_ones() -> None:
    cells = counted(ladder())
    assert len(cells) == 40 and not any(c.home for c in cells)
    entries = {entry.name: entry for entry in contest(cells)}
    drift = entries["drift"]
    assert drift.rho == pytest.approx(-1.0) and drift.low <= drift.high == pytest.approx(-1.0, abs=0.01) and drift.auc == 1.0
    assert entries["drift at the adapter's output"].rho == 0.0 and entries["drift at the adapter's output"].auc == 0.5
    assert "CKA, last layer" not in entries and "drift / update" not in entries
    assert kept(cells[0]) == pytest.approx(cells[0].score("new_adapter") / 0.8)


def test_the_scatter_shows_every_cell() -> None:
    cells = counted(ladder())
    texts = [e.text or "" for e in ElementTree.fromstring(scatter(cells, "drift")).iter()]
    assert sum(" to " in text for text in texts) == len(cells) and "✓ works   ✗ lost" in texts
    assert sum(" to " in (e.text or "") for e in ElementTree.fromstring(matrix(ladder())).iter()) == 50
