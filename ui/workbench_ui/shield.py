"""The outermost layer of the server: who may ask, what every answer carries, and the frame of each page.

Gradio checks neither Host nor Origin and sends no security headers, so a web page somewhere else could otherwise
post to this server, or reach it by rebinding a name to 127.0.0.1. Written as plain ASGI because Gradio streams.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "LOCAL_HOSTS", "Shield"]

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

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
    """Refuse strangers, add `HEADERS`, and let `frame(path, html)` complete each HTML page.

    `frame` gets the path and the page's text and returns the text to send; `missing(path)` is the page for a 404.
    """

    def __init__(self, app: ASGIApp, *, frame: Callable[[str, str], str], missing: Callable[[str], str]) -> None:
        self.app = app
        self.frame = frame
        self.missing = missing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Nothing here speaks WebSocket; lifespan messages pass.
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = _refusal(scope["method"], headers)
        if refusal:
            await PlainTextResponse(refusal, status_code=403, headers=HEADERS)(scope, receive, send)
            return
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        if wants_page:
            # The page is completed below, so it must come uncompressed.
            scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]}
        await self.app(scope, receive, _Sender(self, scope, receive, send, wants_page))


class _Sender:
    """Passes an answer on with the headers added; holds an HTML page back until it is whole."""

    def __init__(self, shield: Shield, scope: Scope, receive: Receive, send: Send, wants_page: bool) -> None:
        self.shield, self.scope, self.receive, self.send, self.wants_page = shield, scope, receive, send, wants_page
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
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if self.wants_page and message["status"] == 404:
            self.replaced = True
            page = HTMLResponse(self.shield.missing(self.scope["path"]), status_code=404, headers=HEADERS)
            await page(self.scope, self.receive, self.send)
        elif self.wants_page and headers.get("content-type", "").startswith("text/html"):
            self.held = message
        else:
            await self.send(message)

    async def _finish(self) -> None:
        assert self.held is not None
        body = self.shield.frame(self.scope["path"], self.body.decode("utf-8")).encode("utf-8")
        MutableHeaders(scope=self.held)["content-length"] = str(len(body))
        await self.send(self.held)
        await self.send({"type": "http.response.body", "body": body})


def _refusal(method: str, headers: Headers) -> str:
    """Why this request is refused, or an empty string."""
    host = headers.get("host", "").lower()
    if re.sub(r":\d+$", "", host) not in LOCAL_HOSTS:
        return "This server answers on 127.0.0.1 and localhost only."
    if method in _SAFE_METHODS:
        return ""
    # Programs on this machine send neither header; browsers always send at least one with a POST.
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host:
        return "This request comes from another site and is refused."
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return "This request comes from another site and is refused."
    return ""
