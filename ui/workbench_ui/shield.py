"""The outermost layer of the server: who may ask for what, what every answer carries, and the frame of each page.

Gradio checks neither Host nor Origin and sends no security headers, so a web page somewhere else could otherwise
post to this server, or reach it by rebinding a name to 127.0.0.1. It also answers far more than the pages need, and copies
any file that a request names: so only the routes below exist, and events carry plain values only. Written as plain ASGI
because Gradio streams.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.words import LANGUAGES
from workbench_ui.access import Access
from workbench_ui.chrome import frame, locked_page, missing_page
from workbench_ui.language import words_for

__all__ = ["HEADERS", "LOCAL_HOSTS", "Shield"]

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_EVENT = re.compile(r"/\w+/gradio_api/run/predict")
_EVENT_KEYS = ("data", "event_data", "fn_index", "trigger_id", "session_hash")  # what a page sends
_LARGEST_EVENT = 2**20  # bytes

# Gradio builds its pages with inline scripts and compiles templates at run time, so both must be allowed;
# everything still has to come from this server, and nothing may frame it or receive its forms.
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class Shield:
    """Refuse strangers, add `HEADERS`, and complete each HTML page; `pages` are the paths of the pages under each language."""

    def __init__(self, app: ASGIApp, access: Access, pages: Iterable[str]) -> None:
        self.app, self.access = app, access
        lang, page = f"/({'|'.join(LANGUAGES)})", f"({'|'.join(filter(None, pages))})"
        static = r"(assets|static)(/[\w-][\w.-]*)+|theme\.css|gradio_api/(heartbeat/\w{1,32}|app_id)"
        self.routes = {
            "GET": re.compile(rf"/|{lang}/({page}/?)?|{lang}/({static})|/assets/[\w.-]+|/files/(adapters/\w[\w.-]*|rebase)/\w+\.\w+"),
            "POST": re.compile(rf"{lang}/gradio_api/run/predict|/files/uploads"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Nothing here speaks WebSocket; lifespan messages pass.
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        reply = self._reply(request)
        if reply is None and _EVENT.fullmatch(scope["path"]):
            body, reply = await _plain_event(request)
            receive = _replay(body, receive)
        if reply is not None:
            for name, value in HEADERS.items():
                reply.headers.setdefault(name, value)
            await reply(scope, receive, send)
            return
        wants_page = _wants_page(request)
        if wants_page:
            # The page is completed below, so it must come uncompressed.
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]}
        await self.app(scope, receive, _Sender(scope, receive, send, wants_page))

    def _reply(self, request: Request) -> Response | None:
        """The answer to whoever may not go on."""
        method, path, page, t = request.method, request.scope["path"], _wants_page(request), words_for(request)
        if refusal := _refusal(method, path, request.headers):
            return PlainTextResponse(refusal, status_code=403)
        if method == "GET" and (entered := self.access.enter(request)):
            return entered
        if not self.access.has(request):
            return HTMLResponse(locked_page(t), 401) if page else JSONResponse({"error": t("alert.locked")}, 401)
        route = self.routes.get(method)
        if route is None or not route.fullmatch(path):
            return HTMLResponse(missing_page(t, path), 404) if page else JSONResponse({"error": t("alert.missing")}, 404)
        return None


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")


class _Sender:
    """Passes an answer on with the headers added; holds an HTML page back until it is whole."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, wants_page: bool) -> None:
        self.scope, self.receive, self.send, self.wants_page = scope, receive, send, wants_page
        self.held: Message | None = None
        self.body = b""
        self.replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body" and self.held is not None:
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                await self._finish()
        elif not self.replaced:
            await self.send(message)

    async def _start(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name in [name for name in headers if name.startswith("access-control-")]:
            del headers[name]  # Gradio would let the pages of any other port read the answer
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if self.wants_page and message["status"] == 404:
            self.replaced = True
            missing = missing_page(words_for(Request(self.scope)), self.scope["path"])
            page = HTMLResponse(missing, status_code=404, headers=HEADERS)
            await page(self.scope, self.receive, self.send)
        elif self.wants_page and headers.get("content-type", "").startswith("text/html"):
            self.held = message
        else:
            await self.send(message)

    async def _finish(self) -> None:
        assert self.held is not None
        body = frame(self.scope["path"], self.body.decode("utf-8")).encode("utf-8")
        MutableHeaders(scope=self.held)["content-length"] = str(len(body))
        await self.send(self.held)
        await self.send({"type": "http.response.body", "body": body})


def _refusal(method: str, path: str, headers: Headers) -> str:
    """Why this request is refused, or an empty string."""
    host = headers.get("host", "").lower()
    if re.sub(r":\d+$", "", host) not in LOCAL_HOSTS:
        return "This server answers on 127.0.0.1 and localhost only."
    # Programs on this machine send none of these headers; browsers send the first with every POST, the second with everything.
    origin = headers.get("origin")
    alien = origin is not None and urlsplit(origin).netloc.lower() != host
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        # Another site, or another port of this machine, may lead somebody to a page, and do nothing else.
        leads = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        alien |= method != "GET" or not leads or path.startswith("/files/")
    return "This request comes from another site and is refused." if alien else ""


async def _plain_event(request: Request) -> tuple[bytes, Response | None]:
    """An event's body as it may go on, else the answer to it. Gradio takes a dictionary of the right shape for an uploaded
    file, in whatever control it stands, and copies the file or fetches the address that it names."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LARGEST_EVENT:
                return b"", JSONResponse({"error": words_for(request)("alert.too_much")}, 413)
        asked = json.loads(body)
        told = asked.get("event_data") or {}
        values = [*asked["data"], *(told.values() if isinstance(told, dict) else [told])]
        plain = isinstance(asked["data"], list) and all(map(_is_plain, values))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ClientDisconnect):
        plain = False
    if not plain:
        return b"", JSONResponse({"error": words_for(request)("alert.no_event")}, 400)
    return json.dumps({key: asked.get(key) for key in _EVENT_KEYS}).encode(), None


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict) and (not isinstance(value, list) or not any(isinstance(part, dict | list) for part in value))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out `body` once."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given
