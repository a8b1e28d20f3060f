"""Which language somebody reads, known from what a browser sends with every request."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from workbench.words import LANGUAGES, Words, words

__all__ = ["words_for"]

COOKIE = "wb-lang"  # set by the page's script when somebody switches


def words_for(request: HTTPConnection) -> Words:
    """The words of the page that is asked for, else of the one that asks, else as chosen before, else of the browser itself."""
    page = urlsplit(request.headers.get("referer", "")).path
    own = "zh" if request.headers.get("accept-language", "").lower().startswith("zh") else "en"
    wanted = [_first(request.scope["path"]), _first(page), request.cookies.get(COOKIE), own]
    return words(next(lang for lang in wanted if lang in LANGUAGES))


def _first(path: str) -> str:
    return path.strip("/").split("/", 1)[0]
