"""The rebase pages' server side without a browser: what an empty, a small and a damaged home show, and the downloads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from starlette.testclient import TestClient

from tests.folders import write_adapter
from tests.tiny_base import make_tiny_base
from tests.ui import checks
from tests.ui.samples import scores
from tests.ui.test_views import text
from workbench import Workbench
from workbench.rebase.result import Check
from workbench.rebase.store import Checks
from workbench.recipe import Recipe
from workbench.records import Adapter
from workbench.words import words
from workbench_ui.access import Access
from workbench_ui.app import create_app
from workbench_ui.pages.rebase import _Page

EN = words("en")


def publish(bench: Workbench, folder: Path, name: str, base: str) -> Adapter:
    recipe = Recipe(base=base, dataset="orders")
    made = write_adapter(folder / name)
    return bench.adapters.publish(
        made, name=name, base=bench.bases.get(base), dataset=None, method="lora", recipe=recipe, scores=scores(20, 160)
    )


def store(bench: Workbench, adapter: Adapter, onto: str, word: str) -> Check:
    lock = bench.bases.get(onto).lock_sha256
    found = checks.check(
        word, adapter.ref, adapter_sha256=adapter.manifest_sha256, home=str(adapter.base), base=onto, base_lock_sha256=lock
    )
    Checks().save(found, None)
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    """Two bases."""
    bench = Workbench()
    for n in (1, 2):
        bench.bases.add(f"tiny@{n}", source=f"folder:{make_tiny_base(tmp_path / f'tiny{n}', seed=n)}", license="Apache-2.0")
    return bench


def rebase_page(bench: Workbench) -> _Page:
    with gr.Blocks():
        return _Page(bench, EN)


def answer(bench: Workbench, base: str, adapter: str = "") -> str:
    page = rebase_page(bench)
    return text(page._drawn(base, adapter, [])[page.answer])


def test_without_bases_or_adapters_the_page_says_what_to_do() -> None:
    bench = Workbench()
    assert "No base models yet" in answer(bench, "")
    assert rebase_page(bench)._default([]) == ""


def test_one_base_and_no_adapter_and_all_at_home(bench: Workbench, tmp_path: Path) -> None:
    assert "There is nothing to move yet" in answer(bench, "tiny@2")
    publish(bench, tmp_path, "orders", "tiny@1")
    assert "1 adapter was made for tiny@1 and is at home there." in answer(bench, "tiny@1")
    bench.bases.remove("tiny@2")
    assert "tiny@1 is the only base model here" in answer(bench, "tiny@1")
    assert "tiny@9" in answer(bench, "tiny@9")


def test_the_default_is_the_newest_base_that_somebody_would_move_to(bench: Workbench, tmp_path: Path) -> None:
    do = rebase_page(bench)
    newest_first = sorted(bench.bases.list(), key=lambda b: b.ref, reverse=True)
    assert do._default(newest_first) == "tiny@2"
    publish(bench, tmp_path, "orders", "tiny@2")
    assert do._default(newest_first) == "tiny@1", "on its own base there is nothing to ask"


def test_a_base_that_was_added_again_makes_the_check_out_of_date(bench: Workbench, tmp_path: Path) -> None:
    orders = publish(bench, tmp_path, "orders", "tiny@1")
    store(bench, orders, "tiny@2", "works")
    assert "1 adapter, and it works as it is" in answer(bench, "tiny@2")
    bench.bases.remove("tiny@2", force=True)
    bench.bases.add("tiny@2", source=f"folder:{make_tiny_base(tmp_path / 'other', seed=9)}", license="Apache-2.0")
    assert "no longer holds" in answer(bench, "tiny@2") and "no longer holds" in answer(bench, "tiny@2", "orders@1")


def test_the_check_of_an_adapter_that_is_gone_can_still_be_read(bench: Workbench, tmp_path: Path) -> None:
    orders = publish(bench, tmp_path, "orders", "tiny@1")
    store(bench, orders, "tiny@2", "lost")
    bench.adapters.remove(orders.ref)
    assert "orders@1 is no longer here" in answer(bench, "tiny@2", "orders@1") and "Lost" in answer(bench, "tiny@2", "orders@1")
    assert "No adapter" in answer(bench, "tiny@2", "never@1")


def test_the_matrix_names_every_state_and_what_no_longer_holds(bench: Workbench, tmp_path: Path) -> None:
    orders, moved = publish(bench, tmp_path, "orders", "tiny@1"), publish(bench, tmp_path, "moved", "tiny@2")
    bare = bench.import_adapter(write_adapter(tmp_path / "bare"), name="bare", base="tiny@1")
    store(bench, orders, "tiny@2", "lost")

    def states() -> dict[tuple[str, str], str]:
        return {(cell.adapter.ref, cell.base): cell.state.name for cell in bench.rebase.matrix()}

    assert states() == {
        ("bare@1", "tiny@1"): "home", ("bare@1", "tiny@2"): "untested", ("moved@1", "tiny@1"): "unchecked",
        ("moved@1", "tiny@2"): "home", ("orders@1", "tiny@1"): "home", ("orders@1", "tiny@2"): "lost",
    }  # fmt: skip
    assert bare.scores == {} and moved.scores
    told = {cell.adapter.name: cell.scores and EN.say(cell.scores) for cell in bench.rebase.matrix([orders, moved], ["tiny@2"])}
    assert told == {"orders": "80% → 56%", "moved": "80%"}
    bench.bases.remove("tiny@2", force=True)
    bench.bases.add("tiny@2", source=f"folder:{make_tiny_base(tmp_path / 'other', 9)}", license="Apache-2.0")
    assert states()["orders@1", "tiny@2"] == "stale" and all(c.scores is None for c in bench.rebase.matrix([orders], ["tiny@2"]))
    assert bench.rebase.stale(bench.rebase.get("orders@1", "tiny@2")) and "Out of date" in bench.rebase.report("orders@1", "tiny@2")


def test_an_unchecked_cell_offers_the_check(bench: Workbench, tmp_path: Path) -> None:
    publish(bench, tmp_path, "orders", "tiny@1")
    assert "has not been checked on tiny@2" in answer(bench, "tiny@2", "orders@1") and "Check now" in answer(bench, "tiny@2", "orders@1")


def test_a_damaged_check_is_named_instead_of_an_empty_page(bench: Workbench, tmp_path: Path) -> None:
    orders = publish(bench, tmp_path, "orders", "tiny@1")
    store(bench, orders, "tiny@2", "works")
    (Checks().folder(orders.ref, "tiny@2") / "check.json").write_text("{}", encoding="utf-8")
    assert "check.json is not a check" in answer(bench, "tiny@2")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    access = Access()
    with TestClient(create_app(Workbench(), access), base_url="http://127.0.0.1:7860") as client:
        client.get(access.link(7860))
        yield client


def test_the_report_and_the_json_are_saved_and_never_shown(client: TestClient, bench: Workbench, tmp_path: Path) -> None:
    found = store(bench, publish(bench, tmp_path, "orders", "tiny@1"), "tiny@2", "lost")
    asked = {"adapter": "orders@1", "base": "tiny@2"}
    assert "失效" in client.get("/files/rebase/check.html", params={**asked, "lang": "zh"}).text
    page, data = client.get("/files/rebase/check.html", params=asked), client.get("/files/rebase/check.json", params=asked)
    assert (
        page.headers["content-disposition"] == 'attachment; filename="orders-v1-on-tiny-2.html"'
        and page.text.startswith("<!doctype html>")
        and "orders@1 on tiny@2" in page.text
    )
    assert data.headers["content-disposition"].startswith("attachment") and Check.from_dict(data.json()) == found


@pytest.mark.parametrize(
    "asked",
    [
        "check.html?adapter=orders@1&base=tiny@2",
        "check.json?adapter=../../x@1&base=tiny@2",
        "check.json?adapter=orders@1&base=../x@2",
        "check.html?adapter=none&base=tiny@2",
        "check.html?adapter=orders@1&base=tiny@2&lang=xx",
        "check.exe?adapter=orders@1&base=tiny@2",
    ],
)
def test_what_is_not_there_is_not_found(client: TestClient, bench: Workbench, asked: str) -> None:
    assert client.get(f"/files/rebase/{asked}").status_code == 404
