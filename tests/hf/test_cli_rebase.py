"""The rebase check through the command line, with a real job: exit codes a CI can use, JSON by its schema, a page that opens offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.dispatching import stop_dispatcher
from tests.hf.rebase_world import World, make_world
from tests.test_cli import cli, ok
from workbench.rebase.recoordinate import Coordinates
from workbench.rebase.result import Check
from workbench.rebase.store import Checks

pytestmark = pytest.mark.torch
SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "check.schema.json"


@pytest.fixture
def world(pico_base: Path, tmp_path: Path) -> Iterator[World]:
    yield make_world(pico_base, tmp_path)
    assert stop_dispatcher()


def test_a_lost_adapter_fails_the_build_and_everything_is_written(world: World, tmp_path: Path) -> None:
    moved = world.add("permuted", Coordinates.draw(world.base.path, seed=5).write_base(world.base.path, tmp_path / "permuted"))
    files = {name: tmp_path / name for name in ("checks.json", "checks.html")}
    check = ["rebase", "check", "orders@1", "--onto", moved, "--json", files["checks.json"], "--report", files["checks.html"]]

    failed = cli(*check, "--fail-on", "weaker")
    assert failed.status == 3, failed
    assert "orders@1 loses its gain on pico@permuted" in failed.out and "neurons in another order" in failed.out
    (written,) = json.loads(files["checks.json"].read_text(encoding="utf-8"))
    found = TypeAdapter(Check).validate_python({key: value for key, value in written.items() if key != "word"})
    assert found.word == written["word"] == "lost" and found.verdict is not None and found.verdict.n == 48
    assert set(written) == set(json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"])
    page = files["checks.html"].read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "src=" not in page and "<link" not in page and "48" in page

    assert cli(*check, "--fail-on", "does harm", "--rows", "40").status == 0, "lost is not as bad as doing harm"
    shown = ok("rebase", "show", "orders", "--onto", moved)
    assert "What users notice" in shown.out and "McNemar" in shown.out
    assert ok("rebase", "show", "orders", "--onto", moved, "--json").json["verdict"]["n"] == 40
    matrix = ok("rebase", "matrix")
    assert "Weaker" in matrix.out and "Home" in matrix.out and "breaks orders@1" in matrix.out, "40 rows prove no more"
    cells = {cell["base"]: (cell["state"], cell["check"]) for cell in ok("rebase", "matrix", "--json").json}
    assert cells["pico@1"] == ("home", None) and cells[moved][0] == cells[moved][1]["word"] == "weaker"


def test_the_matrix_names_what_is_out_of_date_and_checks_it_again(world: World) -> None:
    again = world.add("again", world.base.path)
    ok("rebase", "check", "orders@1", "--onto", again, "--rows", "20")
    file = Checks().folder("orders@1", again) / "check.json"
    known = world.bench.bases.get(again).lock_sha256
    file.write_text(file.read_text(encoding="utf-8").replace(known, "0" * 64), encoding="utf-8")  # as if the base had been added anew
    assert "Out of date" in ok("rebase", "matrix").out and "no longer holds" in ok("rebase", "show", "orders@1", "--onto", again).out
    checked = ok("rebase", "matrix", "--check")
    assert "Out of date" not in checked.out and "Too close to tell" in checked.out
    found = world.bench.rebase.get("orders@1", again)
    assert found.base_lock_sha256 == known and found.verdict is not None and found.verdict.n == 48


def test_wrong_calls_are_answered_and_start_no_job(world: World) -> None:
    for words, code, said in (
        (("rebase", "check", "nobody", "--onto", "pico@1"), 1, "No adapter named 'nobody'"),
        (("rebase", "check", "orders", "--onto", "pico@9"), 1, "No base named 'pico@9'"),
        (("rebase", "check", "orders"), 2, "--onto"),
        (("rebase", "check", "--onto", "pico@1"), 2, "ADAPTER"),
        (("rebase", "check", "orders", "--onto", "pico@1", "--stages", "all"), 1, "is no stage"),
        (("rebase", "check", "orders", "--onto", "pico@1", "--fail-on", "bad"), 2, "--fail-on"),
        (("rebase", "check", "orders", "--onto", "pico@1", "--epsilon", "2"), 1, "make no sense"),
        (("rebase", "show", "orders", "--onto", "pico@1"), 1, "was not checked on pico@1 yet"),
        (("rebase", "findings", "eos"), 1, "No finding named 'eos'"),
        (("rebase", "chek", "orders"), 2, "Did you mean: workbench rebase check"),
    ):
        found = cli(*words)
        assert found.status == code and said in found.err, (words, found)
    assert ok("jobs", "list", "--json").json == []
    assert "token" in ok("rebase", "findings", "eos_id_moved").out
