"""Small pieces of markup that several views share. Everything a person or a file named is escaped here or before."""

from __future__ import annotations

import html
from collections.abc import Iterable

from workbench_ui.icons import ICONS

__all__ = [
    "badge",
    "bullet_list",
    "button",
    "card",
    "code_block",
    "empty",
    "esc",
    "facts",
    "panel",
    "progress_bar",
    "quiet",
    "stack",
    "trouble",
]


def esc(value: object) -> str:
    """Text as it may stand in markup, also inside a quoted attribute."""
    return html.escape(str(value), quote=True)


def badge(text: str, tone: str) -> str:
    """A word with a coloured dot; `tone` is good, busy, bad, warn or idle. The word says it all: colour only helps."""
    return f'<span class="wb-badge wb-{tone}">{esc(text)}</span>'


def button(text: str, href: str, *, primary: bool = False, icon: str = "", download: bool = False) -> str:
    """A link that looks like a button; `text` is escaped."""
    kind = "wb-button wb-primary" if primary else "wb-button"
    return f'<a class="{kind}" href="{esc(href)}"{" download" if download else ""}>{ICONS.get(icon, "")}{esc(text)}</a>'


def card(title: str, body: str) -> str:
    """A section with a heading; `body` is safe HTML."""
    return f'<section class="wb-card"><h2>{esc(title)}</h2>{body}</section>'


def panel(tone: str, body: str, *, icon: str = "", actions: str = "") -> str:
    """A coloured row with an icon, safe HTML inside and links at its end."""
    shown = f"<div class='wb-actions'>{actions}</div>" if actions else ""
    return f'<div class="wb-panel wb-{tone}">{ICONS.get(icon, "")}<div>{body}</div>{shown}</div>'


def trouble(said: str) -> str:
    """What went wrong, safe HTML; nothing where nothing did."""
    return panel("bad", said, icon="warn") if said else ""


def quiet(text: str) -> str:
    """A remark in small print; `text` is escaped."""
    return f'<p class="wb-quiet">{esc(text)}</p>'


def progress_bar(share: float | None, label: str) -> str:
    """How much is done, 0 to 1, with its name for screen readers; None is a bar that only moves."""
    about = f'role="progressbar" aria-label="{esc(label)}"'
    if share is None:
        return f'<div class="wb-progress waiting" {about}><b></b></div>'
    whole = round(100 * share)
    told = f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{whole}"'
    return f'<div class="wb-progress" {about} {told}><b style="width:{whole}%"></b></div>'


def facts(pairs: Iterable[tuple[str, str]], kind: str = "wb-facts") -> str:
    """Facts under each other, or as `wb-tiles` figures in a row: (what, safe HTML); empty values are left out."""
    rows = "".join(f"<div><dt>{esc(name)}</dt><dd>{value}</dd></div>" for name, value in pairs if value)
    return f'<dl class="{kind}">{rows}</dl>' if rows else ""


def bullet_list(lines: Iterable[str]) -> str:
    """Plain-text lines as a list."""
    items = "".join(f"<li>{esc(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def code_block(text: str, copy: str, label: str) -> str:
    """Text to copy, with a button named `copy` that the page's script serves; `label` names the block for screen readers."""
    return (
        f'<div class="wb-code"><button type="button" class="wb-copy" aria-label="{esc(copy)}: {esc(label)}">{esc(copy)}</button>'
        f'<pre tabindex="0" aria-label="{esc(label)}"><code>{esc(text)}</code></pre></div>'
    )


def empty(title: str, text: str, actions: str = "") -> str:
    """What stands where nothing is yet: says what would be here and how to get it. `text` is safe HTML."""
    return f'<div class="wb-empty"><h2>{esc(title)}</h2><p>{text}</p><div class="wb-actions">{actions}</div></div>'


def stack(parts: Iterable[str]) -> str:
    """Sections under each other, evenly apart; empty ones are left out."""
    return f'<div class="wb-stack">{"".join(part for part in parts if part)}</div>'
