"""The rebase check in a real Chromium over a real home: the answer, a cell in full, checking from the page, keys and eyes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.tiny_base import make_tiny_base
from tests.ui import checks
from tests.ui.conftest import Site, Tab
from workbench import Workbench
from workbench.rebase.result import Check
from workbench.rebase.store import Checks
from workbench.records import Adapter

pytestmark = [pytest.mark.browser, pytest.mark.torch]

AUDIT = Path(__file__).with_name("audit.js").read_text(encoding="utf-8")
SOON = 60_000  # milliseconds; the first look at a tokenizer or at the job store takes seconds, more on a busy machine
LONG = 240_000
OLD, NEW, THIRD = "pico@1", "pico@2", "pico@3"


def stored(adapter: Adapter, onto: str, word: str, bench: Workbench) -> Check:
    """A check as the engine would have left it."""
    target, home = bench.bases.get(onto), bench.bases.get(OLD)
    found = checks.check(
        word,
        adapter.ref,
        adapter_sha256=adapter.manifest_sha256,
        home=OLD,
        home_lock_sha256=home.lock_sha256,
        base=onto,
        base_lock_sha256=target.lock_sha256,
    )
    Checks().save(found, None)
    return found


@pytest.fixture(scope="module")
def trained(site: Site, pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A trained adapter with evidence on pico@1, four more with the same files, and two newer bases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(site.home))
        bench = Workbench()
        rows = tmp_path_factory.mktemp("rows") / "orders.jsonl"
        goods, towns = ["lamps", "chairs", "desks", "ropes", "tents"], ["Cairo", "Oslo", "Lima", "Rome", "Delhi"]
        pairs = [(f"ship {n} {g} to {t}", f"{n} {g[:2].upper()} {t[:2].upper()}") for n in (2, 3, 5) for g in goods for t in towns]
        rows.write_text("\n".join(json.dumps({"prompt": q, "completion": a}) for q, a in pairs), encoding="utf-8")
        bench.datasets.add(rows, name="orders")
        recipe = {"base": OLD, "dataset": "orders", "name": "orders", "max_steps": 30, "lora_r": 4, "learning_rate": 0.01}
        job = bench.jobs.wait(bench.train(bench.resolve(recipe, preset="quick")).id, timeout=240)
        assert job.state.value == "succeeded", job.error
        first = bench.adapters.get("orders@1")
        for seed, ref in ((5, NEW), (6, THIRD)):
            folder = make_tiny_base(tmp_path_factory.mktemp(f"pico{seed}") / "base", seed, dtype="F32")
            bench.bases.add(ref, source=f"folder:{folder}", license="Apache-2.0")
        for name in ("lost-one", "fine-one", "odd-one"):
            bench.import_adapter(first.path, name=name, base=OLD)
        for name, word in (("lost-one", "lost"), ("fine-one", "works"), ("odd-one", "cannot load")):
            stored(bench.adapters.get(f"{name}@1"), NEW, word, bench)


@pytest.fixture(autouse=True)
def _ready(trained: None) -> None:
    """Every test here looks at that home."""


def test_the_page_answers_in_one_look(tab: Tab) -> None:
    page = tab.open(f"/en/rebase?base={NEW}")
    expect(page.locator(".headline")).to_contain_text(f"Moving to {NEW}: 1 of 4 adapters works as it is, 2 need retraining", timeout=SOON)
    expect(page.get_by_role("radio", name=NEW)).to_be_checked()
    words = page.locator(".wb-verdict .word").all_inner_texts()
    assert words == ["Cannot load", "Lost", "Not checked", "Works"], "the worst comes first"
    row = page.locator(".wb-verdict").nth(1)
    expect(row).to_contain_text("56% with the adapter, 55% without. On pico@1: 80% with, 31% without.")
    expect(row.get_by_role("link", name=f"Retrain on {NEW}")).to_have_attribute("href", re.compile(r"base=pico%402"))
    assert page.title() == "Rebase check · Workbench"


def test_the_address_follows_the_choice_and_the_keys_are_enough(tab: Tab) -> None:
    page = tab.open(f"/en/rebase?base={NEW}")
    page.get_by_role("radio", name=NEW).focus()
    page.keyboard.press("ArrowUp")  # newest first: the third base stands before the second
    expect(page.locator(".headline")).to_contain_text(f"Moving to {THIRD}", timeout=SOON)
    assert page.url.endswith("/en/rebase?base=pico%403")
    expect(page.get_by_role("radio", name=THIRD)).to_be_focused()
    page.reload()
    expect(page.locator(".headline")).to_contain_text(f"Moving to {THIRD}", timeout=SOON)
    page.get_by_role("link", name="中文").click()
    page.wait_for_url("**/zh/rebase?base=pico%403")
    expect(page.locator(".headline")).to_contain_text("换到 pico@3", timeout=SOON)


def test_the_matrix_opens_a_cell_by_keyboard(tab: Tab) -> None:
    page = tab.open(f"/en/rebase?base={NEW}")
    fold = page.get_by_role("button", name="All versions")
    fold.focus()
    page.keyboard.press("Enter")
    cell = page.get_by_role("link", name=f"lost-one@1 on {NEW}: Lost, 80% → 56%")
    expect(cell).to_be_visible(timeout=SOON)
    assert page.get_by_role("columnheader").all_inner_texts() == ["Adapter", OLD, NEW, THIRD]
    expect(page.get_by_role("rowheader")).to_have_count(4)
    cell.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/rebase?base=pico%402&adapter=lost-one%401")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"lost-one@1 on {NEW}")


def test_a_cell_shows_everything_and_gives_its_report(tab: Tab, tmp_path: Path) -> None:
    page = tab.open(f"/en/rebase?base={NEW}&adapter=lost-one@1")
    for heading in ("Answers that match exactly", "What changed in the answers", "What happened to the weights"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible(timeout=SOON)
    expect(page.locator(".wb-answers li")).to_have_count(3)
    expect(page.get_by_role("row", name=re.compile("What it gives on pico@2"))).to_contain_text("+1 points (95% interval −4 to +6)")
    page.get_by_text("The same as numbers").click()
    expect(page.get_by_role("row", name="11 2.3% 4%")).to_be_visible()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Report").click()
    waiting.value.save_as(tmp_path / "report.html")
    assert (
        "80%" in (tmp_path / "report.html").read_text(encoding="utf-8") and waiting.value.suggested_filename == "lost-one-v1-on-pico-2.html"
    )
    with page.expect_download() as waiting:
        page.get_by_role("link", name="JSON").click()
    waiting.value.save_as(tmp_path / "check.json")
    assert Check.from_dict(json.loads((tmp_path / "check.json").read_text())).word == "lost"
    page.get_by_role("link", name=f"All adapters on {NEW}").click()
    page.wait_for_url("**/rebase?base=pico%402")


def test_the_lineage_is_a_picture_with_links_and_a_text(tab: Tab) -> None:
    page = tab.open(f"/en/rebase?base={NEW}")
    picture = page.get_by_role("group", name="Which adapter was made for which base")
    expect(picture).to_be_visible(timeout=SOON)
    expect(picture.get_by_role("link")).to_have_count(7)
    page.get_by_text("The picture in words").click()
    expect(page.locator(".wb-words li").first).to_contain_text("pico@1: fine-one@1, lost-one@1, odd-one@1, orders@1")
    picture.get_by_role("link", name=f"{THIRD}, Base model").click()
    page.wait_for_url("**/rebase?base=pico%403")


def test_checking_from_the_page_is_a_job_and_ends_in_a_verdict(chromium: Browser, site: Site, tab: Tab, bench: Workbench) -> None:
    page = tab.open(f"/en/rebase?base={NEW}")
    page.get_by_role("button", name="Check now: orders").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Being checked", exact=True)).to_be_visible(timeout=SOON)
    expect(page.get_by_role("link", name="See the job")).to_be_focused(timeout=SOON)
    jobs = [job for job in bench.jobs.list() if job.kind == "rebase"]
    assert [job.spec["adapters"] for job in jobs] == [["orders@1"]] and jobs[0].spec["base"] == NEW
    tab.context.close()
    again = Tab(chromium, site)
    page = again.open(f"/en/rebase?base={NEW}")
    expect(page.locator(".wb-verdict", has_text="orders").locator(".word")).not_to_have_text("Being checked", timeout=LONG)
    found = bench.rebase.find("orders@1", NEW)
    assert found is not None and found.word, bench.jobs.get(jobs[0].id).error
    again.open(f"/en/rebase?base={NEW}&adapter=orders@1")
    expect(again.page.get_by_role("heading", name="How sure this is")).to_be_visible(timeout=SOON)
    assert again.page.evaluate(AUDIT) == []
    again.open(f"/en/jobs?job={jobs[0].id}")
    again.page.get_by_role("link", name="See what came out").click()
    again.page.wait_for_url("**/rebase?base=pico%402")
    again.close()


def test_retraining_starts_from_the_same_settings_on_the_new_base(tab: Tab, bench: Workbench) -> None:
    stored(bench.adapters.get("orders@1"), THIRD, "lost", bench)
    page = tab.open(f"/en/rebase?base={THIRD}")
    page.locator(".wb-verdict", has_text="orders").get_by_role("link", name=f"Retrain on {THIRD}").click()
    expect(page.get_by_label("Base model")).to_have_value(re.compile(re.escape(THIRD)), timeout=60_000)
    page.get_by_role("button", name="The same for the shell, or as a file").click()
    expect(page.get_by_text(re.compile(r"workbench train --base pico@3 --dataset orders .*--max_steps 30 --.*lora_r 4"))).to_be_visible(
        timeout=SOON
    )


def test_wrong_addresses_and_what_is_out_of_date_say_so(tab: Tab, bench: Workbench) -> None:
    page = tab.open("/en/rebase?base=nothing@7")
    expect(page.locator(".wb-panel.wb-bad")).to_contain_text("nothing@7", timeout=SOON)
    tab.open(f"/en/rebase?base={NEW}&adapter=<b>x</b>@1")
    expect(page.locator(".wb-panel.wb-bad")).to_be_visible(timeout=SOON)
    kept = bench.rebase.find("fine-one@1", NEW)
    assert kept is not None
    folder = Checks().folder("fine-one@1", NEW) / "check.json"
    told = folder.read_text(encoding="utf-8")
    folder.write_text(told.replace(kept.base_lock_sha256, "0" * 64), encoding="utf-8")
    tab.open(f"/en/rebase?base={NEW}")
    expect(page.locator(".wb-verdict", has_text="fine-one")).to_contain_text("no longer holds", timeout=SOON)
    expect(page.get_by_role("button", name="Check again: fine-one")).to_be_visible()
    folder.write_text(told, encoding="utf-8")


SCREENS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@pytest.mark.parametrize("screen", SCREENS)
def test_everybody_can_read_it(chromium: Browser, site: Site, screen: str) -> None:
    window = Tab(chromium, site, **SCREENS[screen])
    found: dict[str, list[str]] = {}
    for address in (
        f"/en/rebase?base={NEW}",
        f"/en/rebase?base={NEW}&adapter=lost-one@1",
        f"/zh/rebase?base={THIRD}",
        "/en/why",
        "/zh/why",
    ):
        page = window.open(address)
        if "rebase" in address:
            page.locator(".wb-verdict").first.wait_for()
        for fold in page.locator(".wb-fold > button:visible, details > summary").all():
            fold.click()
        page.wait_for_timeout(600)
        if problems := page.evaluate(AUDIT):
            found[address] = problems
    window.close()
    assert found == {}
