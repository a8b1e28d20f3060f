"""The server: FastAPI, with the pages mounted once per language, downloads, assets, and the shield around all of it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import warnings
import webbrowser
from collections.abc import Callable
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from workbench import Workbench
from workbench.errors import UsageError
from workbench.words import LANGUAGES, Words, words
from workbench_ui import chrome, uploads
from workbench_ui.access import Access
from workbench_ui.files import downloads
from workbench_ui.language import words_for
from workbench_ui.pages import adapters, home, jobs, rebase, train, why
from workbench_ui.shield import Shield
from workbench_ui.theme import theme

__all__ = ["PORT", "create_app", "serve"]

PORT = 7860
_TRIES = 20  # ports tried upwards when the wanted one is taken
_GRACE = 3  # seconds that running requests get when the server ends
_PAGES = {"": home.build, "train": train.build, "jobs": jobs.build, "adapters": adapters.build, "rebase": rebase.build, "why": why.build}


def create_app(bench: Workbench, access: Access | None = None) -> ASGIApp:
    """Everything the browser can ask for, over one `Workbench`; without `access`, that of its home."""
    uploads.sweep()
    access = access or Access()
    app = FastAPI(title="Workbench", openapi_url=None)

    @app.get("/")
    def root(request: Request) -> RedirectResponse:
        return RedirectResponse(words_for(request).link())

    app.include_router(downloads(bench))
    app.include_router(uploads.uploading())
    app.mount("/assets", StaticFiles(directory=chrome.assets_dir()))
    for lang in LANGUAGES:
        _mount(app, _blocks(bench, words(lang)), f"/{lang}")
    return Shield(app, access, _PAGES)


def _mount(app: FastAPI, site: gr.Blocks, path: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode is not supported")  # said even where it is switched off
        gr.mount_gradio_app(
            app,
            site,
            path=path,
            theme=theme(),
            show_error=False,
            run_history=False,
            footer_links=[],
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
        )


def _blocks(bench: Workbench, t: Words) -> gr.Blocks:
    # Built before the site is opened: Blocks built inside other Blocks join them at once, and would then show twice.
    pages = {path: gr.Blocks(analytics_enabled=False) for path in _PAGES}
    for path, page in pages.items():
        with page:
            chrome.nav(t, path)
            _PAGES[path](page, bench, t)
    with gr.Blocks(title=t("app"), fill_width=True, analytics_enabled=False) as site:
        pages.pop("").render()
    for path, page in pages.items():
        with site.route(t(f"nav.{path}"), path):
            page.render()
    site.has_launched = True  # else Gradio does not check which files it may copy; mounted Blocks are never launched
    return site.queue(default_concurrency_limit=8)


def serve(bench: Workbench, *, port: int = PORT, open_browser: bool = False, announce: Callable[[str], None] = lambda url: None) -> None:
    """Serve the pages on 127.0.0.1 until stopped; `announce` gets the link that lets a browser in once it is known.

    A taken port is passed over for the next free one. Raises `UsageError` when none of them is free.
    """
    listener, access = _listen(port), Access()
    link = access.link(listener.getsockname()[1])
    server = _Server(uvicorn.Config(create_app(bench, access), log_level="warning", server_header=False, timeout_graceful_shutdown=_GRACE))
    announce(link)
    with access.page_to_open(link) if open_browser else contextlib.nullcontext("") as page:
        if page:
            threading.Timer(1.0, webbrowser.open, args=(page,)).start()
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Ends when it is told to, even while a request waits for something that never comes."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        last = threading.Timer(_GRACE + 2, os._exit, args=(128 + sig,))
        last.daemon = True
        last.start()
        super().handle_exit(sig, frame)


def _listen(port: int) -> socket.socket:
    """A socket bound to the first free port from `port` on; kept open, so nobody else can take it in between."""
    for wanted in range(port, port + _TRIES):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", wanted))
            listener.listen()  # only now is the port taken, and a browser that is quicker than the server waits
        except OSError:
            listener.close()
            continue
        return listener
    raise UsageError(f"No port from {port} to {port + _TRIES - 1} is free.", hint="Choose another: workbench ui --port 9000")
