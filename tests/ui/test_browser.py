"""The pages in a real Chromium over a real home: the whole way of an adapter, stopping, errors, and what eyes and keys need."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from counting import Count
from playwright.sync_api import Browser, Page, expect

from tests.ui.conftest import Site, Tab
from workbench import Workbench
from workbench.records import JobState

pytestmark = [pytest.mark.browser, pytest.mark.torch]

AUDIT = Path(__file__).with_name("audit.js").read_text(encoding="utf-8")
SOON = 20_000  # milliseconds
LONG = 240_000


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spreadsheet whose columns do not say which is which, with two rows that cannot be used."""
    file = tmp_path_factory.mktemp("files") / "orders.csv"
    goods = ["lamps", "chairs", "desks", "ropes", "tents", "coats", "boots", "pens"]
    towns = ["Cairo", "Oslo", "Lima", "Rome", "Delhi", "Paris", "Tokyo", "Vienna"]
    rows = [f"please ship {n} {g} to {t},{n} {g[:2].upper()} {t[:2].upper()}" for n in (2, 5) for g in goods for t in towns]
    file.write_text("A,B\n" + "\n".join(rows) + "\nan order without a code,\nanother one,\n", encoding="utf-8")
    return file


def test_the_whole_way_in_the_browser(chromium: Browser, site: Site, tab: Tab, bench: Workbench, orders: Path, tmp_path: Path) -> None:
    """A job started in the browser goes on after the tab is closed and the server is killed; the page shows it when reopened."""
    page = tab.open("/en/train")
    add_file(page, orders)
    choose_depth(page)
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/en/jobs?job=*")
    expect(page.get_by_text("You can close this page.")).to_be_visible(timeout=SOON)
    address = page.url
    job = bench.jobs.list()[0]
    assert job.id in address and job.spec["recipe"]["max_steps"] == 40 and job.spec["recipe"]["lora_r"] == 4

    stays = Tab(chromium, site)  # a second window that nobody closes
    stays.open(address)
    late = Tab(chromium, site)  # a form half filled in
    late.open("/en/train?dataset=orders")
    expect(late.page.get_by_role("button", name="Start training")).to_be_enabled(timeout=SOON)
    tab.context.close()
    site.kill()
    assert not bench.jobs.get(job.id).state.final, "the job outlives the tab and the server"
    expect(late.page.get_by_role("alert")).to_have_count(0)
    stays.page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
    site.start()
    late.page.get_by_label("Quick try").check()
    expect(late.page.locator(".wb-summary .wb-facts")).to_contain_text("Learning steps60", timeout=60_000)
    late.close()

    again = Tab(chromium, site)
    page = again.open(address)
    expect(page.get_by_text("orders@1 is ready.")).to_be_visible(timeout=LONG)
    assert len(bench.jobs.get(job.id).attempts) == 1, "nobody started it again"
    expect(stays.page.get_by_text("orders@1 is ready.")).to_be_visible(timeout=SOON)
    stays.close()

    curve = page.locator(".wb-plot").get_attribute("aria-label") or ""
    assert re.fullmatch(r"The error went from [\d.]+ to [\d.]+ by step 40\. On rows held back it was lowest, [\d.]+, at step \d+\.", curve)
    expect(page.locator(".wb-tiles")).to_contain_text("40 of 40")
    expect(page.get_by_role("heading", name="Answers along the way")).to_be_visible()
    page.get_by_role("button", name="The settings of this job").click()
    expect(page.locator(".wb-settings")).to_contain_text("lora_r")
    page.get_by_role("button", name=re.compile("^Log")).click()
    expect(page.locator(".wb-code pre")).not_to_be_empty()

    look_at_the_adapter(page, bench, tmp_path)
    again.close()


def add_file(page: Page, file: Path) -> None:
    """Drop a file, answer its question, leave the bad rows out, use the rest."""
    page.get_by_role("button", name="Add a file of your own").click()
    page.set_input_files("input[type=file]", file)
    expect(page.get_by_text("Is this right?")).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="Yes, that is right").click()
    expect(page.get_by_text("These rows cannot be learned from:")).to_be_visible(timeout=SOON)
    expect(page.get_by_text("row 130: ")).to_be_visible()
    page.get_by_role("button", name="Use these examples").click()
    expect(page.get_by_role("alert")).to_contain_text("row 130: ", timeout=SOON)
    page.get_by_role("alert").get_by_role("button", name="Close").click()
    page.get_by_label("Leave these 2 rows out").check()
    page.get_by_role("button", name="Use these examples").click()
    expect(page.get_by_label("Examples", exact=True)).to_have_value(
        re.compile(r"orders · 108 to learn from, 20 for the test"), timeout=SOON
    )


def choose_depth(page: Page) -> None:
    """A preset, two changed settings, and what the page makes of them."""
    page.get_by_label("Quick try").check()
    page.get_by_role("button", name=re.compile("^Advanced settings")).click()
    expect(page.get_by_label("max_steps")).to_have_value("60", timeout=SOON)
    page.get_by_label("max_steps").fill("40")
    page.get_by_label("lora_r", exact=True).fill("4")
    expect(page.get_by_role("button", name="Advanced settings · 2 changed")).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="The same for the shell, or as a file").click()
    command = "workbench train --base pico@1 --dataset orders --preset quick --max_steps 40 --lora_r 4"
    expect(page.get_by_text(command)).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="Copy: Command").click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == command
    page.get_by_role("button", name="See the examples as the model sees them").click()
    expect(page.locator(".wb-preview .learned").last).to_contain_text("<|im_end|>", timeout=SOON)
    page.get_by_role("button", name="Next", exact=True).click()
    expect(page.get_by_text("Example 2 of 8")).to_be_visible(timeout=SOON)
    expect(page.get_by_role("button", name="Start training")).to_be_enabled(timeout=SOON)


def look_at_the_adapter(page: Page, bench: Workbench, tmp_path: Path) -> None:
    page.get_by_role("link", name="See what it learned").click()
    expect(page.get_by_role("heading", name="orders@1")).to_be_visible(timeout=SOON)
    for heading in ("What it is worth", "Before and after", "Where it comes from", "Use it elsewhere"):
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
    assert page.locator(".wb-answers li").count() == len(bench.samples("orders@1", n=5)) > 0
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    waiting.value.save_as(tmp_path / "orders.zip")
    with zipfile.ZipFile(tmp_path / "orders.zip") as archive:
        assert json.loads(archive.read("orders-v1/adapter_config.json"))["r"] == 4
    page.get_by_role("link", name="Train again with these settings").click()
    expect(page.get_by_role("button", name="Advanced settings · 2 changed")).to_be_visible(timeout=SOON)
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(page.locator(".wb-list li").first).to_contain_text("Done", timeout=SOON)


def test_stopping_asks_first_and_then_stops(tab: Tab, bench: Workbench) -> None:
    job = bench.jobs.submit(Count(name="A long count", steps=100_000, seconds=0.05))
    page = tab.open(f"/en/jobs?job={job.id}")
    expect(page.get_by_role("heading", name="A long count")).to_be_visible()
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog = page.get_by_role("dialog", name="Stop this job?")
    expect(dialog.get_by_role("button", name="Let it run")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert not bench.jobs.get(job.id).cancel_requested
    page.get_by_role("button", name="Stop", exact=True).click()
    dialog.get_by_role("button", name="Stop it").click()
    expect(page.get_by_text("Stopped.")).to_be_visible(timeout=60_000)
    assert bench.jobs.get(job.id).state is JobState.cancelled
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_hidden()


def test_what_cannot_run_says_why_and_cannot_be_started(tab: Tab) -> None:
    page = tab.open("/en/train?dataset=order-codes&preset=quick")
    start = page.get_by_role("button", name="Start training")
    expect(start).to_be_enabled(timeout=60_000)
    page.get_by_label("Name of the adapter").fill("Not A Name/..")
    expect(page.locator(".wb-summary")).to_contain_text("cannot be a name", timeout=SOON)
    expect(start).to_be_disabled()
    page.get_by_label("Name of the adapter").fill("")
    expect(start).to_be_enabled(timeout=SOON)
    page.get_by_role("button", name="Advanced settings").click()
    page.get_by_label("learning_rate").fill("7")
    expect(page.locator(".wb-summary")).to_contain_text("learning_rate", timeout=SOON)
    expect(start).to_be_disabled()
    page.get_by_role("button", name="Back to the preset").click()
    expect(start).to_be_enabled(timeout=SOON)


def test_a_wrong_job_and_a_wrong_adapter_say_what_there_is(tab: Tab) -> None:
    page = tab.open("/en/jobs?job=nothing")
    expect(page.get_by_text("No job named 'nothing'.")).to_be_visible()
    tab.open("/en/adapters?adapter=<b>x</b>@1")
    expect(page.get_by_role("heading", name="No such adapter")).to_be_visible()


ADDRESSES = [
    "/en/",
    "/en/train",
    "/en/jobs",
    "/en/jobs?job=newest",
    "/en/adapters",
    "/en/adapters?find=orders",
    "/en/adapters?adapter=newest",
    "/en/rebase",
    "/en/rebase?base=pico@1",
    "/en/why",
    "/zh/train",
    "/zh/rebase",
    "/zh/jobs?job=newest",
]
SCREENS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_can_be_read_by_everybody(chromium: Browser, site: Site, bench: Workbench, screen: str) -> None:
    trained = next(job.id for job in bench.jobs.list() if job.kind == "train")
    window = Tab(chromium, site, **SCREENS[screen])
    found: dict[str, list[str]] = {}
    for address in ADDRESSES:
        page = window.open(address.replace("job=newest", f"job={trained}").replace("adapter=newest", "adapter=orders@1"))
        if "train" in address:
            expect(page.get_by_role("button", name=re.compile("Start training|开始训练"))).to_be_enabled(timeout=60_000)
            for fold in page.locator(".wb-fold > button").all():
                fold.click()
            page.wait_for_timeout(800)
        page.wait_for_timeout(400)
        assert page.evaluate("document.body.classList.contains('dark')") == (screen == "dark")
        if problems := page.evaluate(AUDIT):
            found[address] = problems
    window.close()
    assert found == {}


def test_the_keyboard_is_enough(tab: Tab) -> None:
    page = tab.open("/en/jobs")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.wb-list a') !== null"), "the list comes next"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?job=*")


def test_language_and_colours_are_kept(tab: Tab) -> None:
    page = tab.open("/en/adapters?adapter=orders@1")
    page.get_by_role("button", name="Switch between light and dark").click()
    page.get_by_role("link", name="中文").click()
    page.wait_for_url("**/zh/adapters?adapter=orders@1")
    expect(page.get_by_role("heading", name="之前与之后")).to_be_visible(timeout=SOON)
    assert page.evaluate("document.body.classList.contains('dark')")
    tab.open("/")
    assert page.url.endswith("/zh/")
    tab.open("/zh/train")
    page.get_by_role("button", name="添加自己的文件").click()
    expect(page.get_by_text("选择文件，或拖放到此处")).to_be_visible(timeout=SOON)


def test_the_list_of_adapters_is_searched(tab: Tab) -> None:
    page = tab.open("/en/adapters?find=nobody")
    expect(page.get_by_text("No adapter has “nobody”")).to_be_visible(timeout=SOON)
    page.get_by_role("searchbox", name="Find by name or base").fill("order")
    page.keyboard.press("Enter")
    page.wait_for_url("**/en/adapters?find=order")
    expect(page.locator(".wb-tile")).to_contain_text("orders", timeout=SOON)


def test_a_browser_without_the_link_is_told_how_to_get_in(chromium: Browser, site: Site) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{site.url}/zh/jobs?job=nothing")
    expect(page.get_by_role("heading", name="请先打开链接")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).display") == "grid", "it is no bare page"
    elsewhere = context.new_page()  # as from a mail program in the browser
    elsewhere.goto(f"data:text/html,<a href='{site.link}'>go</a>")
    elsewhere.get_by_role("link", name="go").click()
    elsewhere.wait_for_url(f"{site.url}/en/")
    assert "token" not in elsewhere.evaluate("document.referrer + location.href + document.cookie")
    page.get_by_role("link", name="重试").click()
    expect(page.get_by_text("没有任务“nothing”。")).to_be_visible(timeout=SOON)
    context.close()
