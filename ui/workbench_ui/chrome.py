"""What every page shares: the rail with the pages, the frame around Gradio's HTML, and the page for a wrong address."""

from __future__ import annotations

import hashlib
import html
import json
from functools import cache
from importlib import resources
from pathlib import Path

import gradio as gr

from workbench import __version__
from workbench_ui.words import LANGUAGES, Words, words

__all__ = ["ICONS", "PAGES", "assets_dir", "frame", "head", "missing_page", "nav"]

PAGES = {"": "home", "train": "train", "jobs": "jobs", "adapters": "adapters"}  # path -> key of its words

_STROKES = {
    "home": '<path d="M4 11.5 12 4.5l8 7"/><path d="M6.5 10v9.5h11V10"/><path d="M10 19.5v-5h4v5"/>',
    "train": '<path d="M4 19.5h16"/><path d="M5 15.5c3.5 0 4-9 8-9 2.4 0 3.4 2.6 6 2.6"/><circle cx="19" cy="9" r="1.4"/>',
    "jobs": '<circle cx="12" cy="12" r="8"/><path d="M12 7.5V12l3 2"/>',
    "adapters": '<path d="M12 4 4.5 8 12 12l7.5-4z"/><path d="m4.5 12 7.5 4 7.5-4"/><path d="m4.5 16 7.5 4 7.5-4"/>',
    "theme": '<path d="M19.5 14.3A8 8 0 0 1 9.7 4.5a8 8 0 1 0 9.8 9.8z"/>',
    "data": '<rect x="4.5" y="5" width="15" height="14" rx="2"/><path d="M4.5 10h15M4.5 14.5h15M10 10v9"/>',
    "down": '<path d="M12 4.5v10"/><path d="m7.5 10.5 4.5 4.5 4.5-4.5"/><path d="M5 19.5h14"/>',
    "ok": '<path d="m5.5 12.5 4.2 4.2 8.8-9.4"/>',
    "warn": '<path d="M12 5 3.8 19h16.4z"/><path d="M12 10.5v4"/><path d="M12 16.8v.2"/>',
    "stop": '<rect x="7" y="7" width="10" height="10" rx="2"/>',
    "wait": '<path d="M8 4.5h8M8 19.5h8M8.5 4.5c0 4 7 5 7 7.5s-7 3.5-7 7.5"/>',
    "arrow": '<path d="M5 12h13"/><path d="m13 7 5 5-5 5"/>',
}
ICONS = {
    name: f'<svg class="wb-icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">{strokes}</svg>'
    for name, strokes in _STROKES.items()
}
_MARK = (
    '<svg class="wb-mark" viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="9"/>'
    '<path d="M9 22V10"/><path d="M9 17c6 0 8-1 8-7"/><circle cx="9" cy="22.5" r="2"/><circle cx="9" cy="9.5" r="2"/>'
    '<circle cx="17" cy="9.5" r="2"/><path class="free" d="M19 9.5h4"/></svg>'
)


def nav(t: Words, current: str) -> gr.HTML:
    """The rail: pages, then language and colours. A skip link comes first for people without a mouse."""
    items = "".join(
        f'<a href="{t.link(path)}"{" aria-current=page" if path == current else ""}>{ICONS[key]}<span>{t(f"nav.{key}")}</span></a>'
        for path, key in PAGES.items()
    )
    other = next(lang for lang in LANGUAGES if lang != t.lang)
    foot = (
        f'<a class="wb-lang" hreflang="{words(other).locale}" lang="{words(other).locale}" href="{words(other).link(current)}">'
        f"{LANGUAGES[other]}</a>"
        f'<button type="button" class="wb-theme" aria-label="{t("nav.colours")}" title="{t("nav.colours")}">{ICONS["theme"]}</button>'
        f'<span class="wb-version">{__version__}</span>'
    )
    title = t("app") if not current else f"{t(f'nav.{PAGES[current]}')} · {t('app')}"
    return gr.HTML(
        f'<a class="wb-skip" href="#wb-top">{t("nav.skip")}</a><a class="wb-brand" href="{t.link()}">{_MARK}<span>{t("app")}</span></a>'
        f'<nav aria-label="{t("nav.main")}">{items}</nav><div class="wb-foot">{foot}</div>',
        elem_classes="wb-rail",
        js_on_load=f"document.title = {json.dumps(title, ensure_ascii=False)}",
        apply_default_css=False,
    )


def head(title: str, lead: str = "", *, back: tuple[str, str] | None = None) -> str:
    """A page's heading, already-safe HTML in; `back` is (address, words) of the list a detail page belongs to."""
    crumb = f'<a class="wb-back" href="{back[0]}">← {back[1]}</a>' if back else ""
    return f'<header class="wb-head">{crumb}<h1 id="wb-top" tabindex="-1">{title}</h1>{f"<p>{lead}</p>" if lead else ""}</header>'


def assets_dir() -> Path:
    """The folder of the style sheet, the script and the icon; all of it is public."""
    return Path(str(resources.files("workbench_ui").joinpath("assets")))


@cache
def _asset(name: str) -> str:
    """An asset's address; it changes with the content, so browsers may keep it for ever."""
    return f"/assets/{name}?v={hashlib.sha256((assets_dir() / name).read_bytes()).hexdigest()[:12]}"


def frame(path: str, page: str) -> str:
    """Complete a page that Gradio built: the right language, our style sheet and script before anything is drawn."""
    lang = path.strip("/").split("/", 1)[0]
    if lang not in LANGUAGES:
        return page
    locale = words(lang).locale
    ours = (
        f"<script>window.wbLocale={json.dumps(locale)}</script>"
        f'<script src="{_asset("workbench.js")}"></script>'
        f'<link rel="stylesheet" href="{_asset("workbench.css")}"><link rel="icon" href="{_asset("icon.svg")}" type="image/svg+xml">'
    )
    return page.replace('lang="en"', f'lang="{locale}"', 1).replace("<head>", f"<head>{ours}", 1)


def missing_page(path: str) -> str:
    """The page for an address that leads nowhere, in the language of the address."""
    lang = path.strip("/").split("/", 1)[0]
    t = words(lang if lang in LANGUAGES else "en")
    return (
        f'<!doctype html><html lang="{t.locale}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{t("missing.title")}</title><link rel="stylesheet" href="{_asset("workbench.css")}"></head>'
        f'<body class="wb-plain"><main><h1>{t("missing.title")}</h1><p>{t.html("missing.text", path=path)}</p>'
        f'<p><a class="wb-button wb-primary" href="{html.escape(t.link())}">{t("missing.home")}</a></p></main></body></html>'
    )
