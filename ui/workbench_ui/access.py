"""Who may ask: whoever has the link that `workbench ui` prints. Every account of this machine can reach 127.0.0.1.

The link carries a token, as Jupyter's does; a browser that opened it once gets a cookie. The token is kept in the home, so a
restart asks nobody again; deleting the file shuts everybody out.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, Response

from workbench import paths
from workbench.files import atomic_write
from workbench_ui.views.markup import esc

__all__ = ["Access"]

_TOKEN = re.compile(r"[\w-]{43}")
_PATH = re.compile(r"/|(/[\w-]+)+/?")
_KEPT = 30 * 24 * 3600  # seconds that a browser keeps its cookie


class Access:
    """Knows the token of this home and who has shown it."""

    def __init__(self) -> None:
        self.token = _kept_token(paths.browser_dir())
        # Cookies ignore ports: the name keeps two homes on one machine apart.
        self.cookie = f"wb-{sha256(self.token.encode()).hexdigest()[:8]}"

    def link(self, port: int) -> str:
        """The address that lets a browser in."""
        return f"http://127.0.0.1:{port}/?{urlencode({'token': self.token})}"

    def has(self, request: HTTPConnection) -> bool:
        """Whether the request comes from a browser that was let in before."""
        return self._is(request.cookies.get(self.cookie))

    def enter(self, request: HTTPConnection) -> Response | None:
        """The answer to a link with the right token: the cookie, and a page that goes on to the address without the token.

        A page and no redirect: a browser sends a strict cookie only where it came from a page of this server.
        """
        if not self._is(request.query_params.get("token")):
            return None
        rest = QueryParams([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        path = request.scope["path"]
        onward = (path if _PATH.fullmatch(path) else "/") + (f"?{rest}" if rest else "")
        leads = f'<!doctype html><meta http-equiv="refresh" content="0; url={esc(onward)}"><a href="{esc(onward)}">→</a>'
        answer = HTMLResponse(leads, headers={"referrer-policy": "no-referrer"})
        answer.set_cookie(self.cookie, self.token, max_age=_KEPT, httponly=True, samesite="strict")
        return answer

    @contextlib.contextmanager
    def page_to_open(self, link: str) -> Iterator[str]:
        """The address of a file that leads to `link`, for starting a browser: every account can read its command line."""
        page = paths.browser_dir() / "open.html"
        atomic_write(page, f'<!doctype html><meta http-equiv="refresh" content="0; url={esc(link)}">', mode=0o600)
        try:
            yield page.as_uri()
        finally:
            page.unlink(missing_ok=True)

    def _is(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode(), self.token.encode())


def _kept_token(folder: Path) -> str:
    file, made = folder / "token", secrets.token_urlsafe(32)
    if not (kept := _read_private(file)):
        atomic_write(file, made, mode=0o600)
        kept = _read_private(file)
    return kept or made  # where files cannot be private, the token lasts as long as the server


def _read_private(file: Path) -> str:
    """The token in `file`; empty where there is none or where others could have read it."""
    with contextlib.suppress(OSError):
        found = file.lstat()
        if stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077 and found.st_uid == os.getuid():
            text = file.read_text(encoding="ascii", errors="replace")
            return text if _TOKEN.fullmatch(text) else ""
    return ""
