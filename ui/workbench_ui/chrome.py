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
from workbench.words import LANGUAGES, Words, words
from workbench_ui.icons import ICONS, MARK

__all__ = ["PAGES", "assets_dir", "frame", "head", "locked_page", "missing_page", "nav"]

PAGES = {"": "home", "train": "train", "jobs": "jobs", "adapters": "adapters", "rebase": "rebase"}  # path -> key of its words
_UNDER = {"why": "rebase"}  # pages without a place in the rail -> the one they belong to


# On a phone the rail scrolls sideways; the page one is on must be in sight.
_IN_SIGHT = "element.querySelector('[aria-current]')?.scrollIntoView({inline: 'nearest', block: 'nearest'})"


def nav(t: Words, current: str) -> gr.HTML:
    """The rail: pages, then language and colours. A skip link comes first for people without a mouse."""
    items = ""
    for path, key in PAGES.items():
        here = ' aria-current="page"' if path == current else ' aria-current="true"' if path == _UNDER.get(current) else ""
        items += f'<a href="{t.link(path)}"{here}>{ICONS[key]}<span>{t(f"nav.{key}")}</span></a>'
    other = next(lang for lang in LANGUAGES if lang != t.lang)
    foot = (
        f'<a class="wb-lang" hreflang="{words(other).locale}" lang="{words(other).locale}" href="{words(other).link(current)}">'
        f"{LANGUAGES[other]}</a>"
        f'<button type="button" class="wb-theme" aria-label="{t("nav.colours")}" title="{t("nav.colours")}">{ICONS["theme"]}</button>'
        f'<span class="wb-version">{__version__}</span>'
    )
    title = t("app") if not current else f"{t(f'nav.{PAGES.get(current, current)}')} · {t('app')}"
    start = f'<a class="wb-skip" href="#wb-top">{t("nav.skip")}</a>'
    brand = f'<a class="wb-brand" href="{t.link()}" aria-label="{t("app")}">{MARK}<span>{t("app")}</span></a>'
    return gr.HTML(
        f'{start}{brand}<nav aria-label="{t("nav.main")}">{items}</nav><div class="wb-foot">{foot}</div>',
        elem_classes="wb-rail",
        js_on_load=f"document.title = {json.dumps(title, ensure_ascii=False)}; {_IN_SIGHT}",
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
    t = words(lang)
    told = json.dumps({name: t(f"alert.{name}") for name in ("close", "failed", "lost")})
    ours = (
        f"<script>window.wbLocale={json.dumps(t.locale)};window.wbWords={told}</script>"
        f'<script src="{_asset("workbench.js")}"></script>'
        f'<link rel="stylesheet" href="{_asset("workbench.css")}"><link rel="icon" href="{_asset("icon.svg")}" type="image/svg+xml">'
    )
    return page.replace('lang="en"', f'lang="{t.locale}"', 1).replace("<head>", f"<head>{ours}", 1)


def missing_page(t: Words, path: str) -> str:
    """The page for an address that leads nowhere."""
    style = f'<link rel="stylesheet" href="{_asset("workbench.css")}">'
    return _plain_page(t, "missing", style, t.html("missing.text", path=path), t.link())


def locked_page(t: Words) -> str:
    """The page for a browser that was not let in; it brings its own style, since nothing else may be fetched."""
    style = f"<style>{(assets_dir() / 'workbench.css').read_text(encoding='utf-8')}</style>"
    return _plain_page(t, "locked", style, t("locked.text"), "")  # the same address once more


def _plain_page(t: Words, key: str, style: str, text: str, onward: str) -> str:
    title = t(f"{key}.title")
    return (
        f'<!doctype html><html lang="{t.locale}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{title}</title>{style}</head><body class="wb-plain"><main><h1>{title}</h1><p>{text}</p>'
        f'<p><a class="wb-button wb-primary" href="{html.escape(onward)}">{t(f"{key}.onward")}</a></p></main></body></html>'
    )
