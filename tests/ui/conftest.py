"""A real server as a user starts it, and a real Chromium that looks at it."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from workbench import Workbench, paths

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE = 120.0  # seconds; a loaded machine imports Gradio in half a minute


class Site:
    """`workbench ui` on a home of its own, in a process of its own, which may be killed and started again."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.url = home, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = paths.child_environment(WORKBENCH_HOME=str(self.home), HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
        command = [sys.executable, "-m", "workbench", "ui", "--port", str(self.port)]
        with (self.home / "ui.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.home)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/en/", timeout=5).read()
            except urllib.error.HTTPError:
                return  # it answers, and lets nobody in without its link
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None and time.monotonic() < deadline, (self.home / "ui.log").read_text()
                time.sleep(0.2)

    @property
    def link(self) -> str:
        """The newest that was printed."""
        return re.findall(r"http://127\.0\.0\.1:\d+/\?token=\S+", (self.home / "ui.log").read_text())[-1]

    def kill(self) -> None:
        """As a crash would: no goodbye."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, pico_base: Path) -> Iterator[Site]:
    """A home with the pico base, and its server; both live as long as the module's tests."""
    from tests.dispatching import stop_dispatcher
    from workbench.db import session

    home = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(home))
        patch.delenv("WORKBENCH_DB", raising=False)
        Workbench().bases.add("pico@1", source=f"folder:{pico_base}", license="Apache-2.0")
        session.dispose()
    running = Site(home)
    running.start()
    yield running
    running.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(home))
        jobs = Workbench().jobs
        for left in [job for job in jobs.list() if not job.state.final]:  # only where a test failed half-way
            jobs.cancel(left.id)
        assert stop_dispatcher()
        session.dispose()


@pytest.fixture
def bench(site: Site, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """The same home from Python."""
    monkeypatch.setenv("WORKBENCH_HOME", str(site.home))
    return Workbench()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Chromium of the machine, else Playwright's own."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, _NAMES)), None) or playwright.chromium.executable_path
        if not Path(found).exists():
            pytest.skip("no Chromium on this machine: apt-get install chromium, or: playwright install chromium")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Tab:
    """One window of somebody's browser; ends with no script error and nothing asked of any other machine."""

    def __init__(self, browser: Browser, site: Site, **options: Any) -> None:
        self.url, self.troubles = site.url, list[str]()
        given = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", "locale": "en-US", **options}
        self.context: BrowserContext = browser.new_context(**given)
        self.context.set_default_timeout(1000 * _PATIENCE)
        self.context.request.get(site.link)  # the context keeps the cookie
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.troubles.append(f"script: {error}"))
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.troubles.append(f"foreign: {url}")

    def open(self, path: str) -> Page:
        """Go there and wait until the page has its heading."""
        self.page.goto(f"{self.url}{path}" if path.startswith("/") else path)
        self.page.locator("h1").first.wait_for()
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.troubles == []


@pytest.fixture
def tab(chromium: Browser, site: Site) -> Iterator[Tab]:
    """A window at desk size, light colours, English."""
    opened = Tab(chromium, site)
    yield opened
    opened.close()
