"""A text of `docs/` on a page: its title, its Markdown in pieces, and between them its pictures as inline SVG."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from workbench_ui.views.markup import esc

__all__ = ["Text", "docs_dir", "picture", "read_text"]

# Neither pattern looks past a line or the next bracket, so that the time grows with the text and no faster.
_PICTURE = re.compile(r"^!\[(?P<alt>[^\]\n]*)\]\((?P<file>images/[\w.-]+\.svg)\)[ \t]*$", re.MULTILINE)
_OTHER_PAGE = re.compile(r"(?<!!)\[([^\[\]]+)\]\((?!https?:)[^()\s]*\)")  # links to files of the repository lead nowhere here


@dataclass(frozen=True)
class Text:
    """What a file says: plain title, then pieces, each ("text", Markdown) or ("picture", safe HTML)."""

    title: str
    pieces: tuple[tuple[str, str], ...]
    lang: str  # of the text; a translation that is missing falls back to English


def docs_dir() -> Path:
    """`docs/` as shipped inside the installed package, else that of the checked-out repository."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_docs"
    return shipped if shipped.is_dir() else package.parents[1] / "docs"


def read_text(name: str, lang: str, folder: Path | None = None) -> Text | None:
    """`docs/<name>.<lang>.md`, else `docs/<name>.md`; None when neither was shipped."""
    folder = folder or docs_dir()
    for file, said in ((folder / f"{name}.{lang}.md", lang), (folder / f"{name}.md", "en")):
        if file.is_file():
            title, body = _split(file.read_text(encoding="utf-8"))
            return Text(title, tuple(_pieces(body, folder)), said)
    return None


def _split(text: str) -> tuple[str, str]:
    """The first heading is the page's own, so it leaves the body."""
    first, _, rest = text.strip().partition("\n")
    return (first.removeprefix("# ").strip(), rest) if first.startswith("# ") else ("", text)


def _pieces(body: str, folder: Path) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    for match in _PICTURE.finditer(body):
        found.append(("text", body[at : match.start()]))
        found.append(("picture", picture(folder / match["file"], match["alt"])))
        at = match.end()
    found.append(("text", body[at:]))
    return [(kind, _OTHER_PAGE.sub(r"\1", piece).strip() if kind == "text" else piece) for kind, piece in found if piece.strip()]


def picture(file: Path, alt: str) -> str:
    """An SVG with its caption. Drawn inline it follows the page's colours; one with a style sheet of its own is kept apart."""
    caption = f"<figcaption>{esc(alt)}</figcaption>" if alt else ""
    if not file.is_file():
        return f'<figure class="wb-figure">{caption}</figure>'
    svg = file.read_text(encoding="utf-8")
    start = svg.find("<svg")
    if start < 0 or re.search(r"<(style|script|foreignObject)\b|\son\w+\s*=", svg, re.IGNORECASE):
        coded = base64.b64encode(file.read_bytes()).decode()
        return f'<figure class="wb-figure"><img src="data:image/svg+xml;base64,{coded}" alt="{esc(alt)}">{caption}</figure>'
    prefix = re.sub(r"\W", "-", file.stem)  # names are unique in a file, and must be on the page
    drawn = re.sub(r'(\bid="|href="#|url\(#)', lambda m: m[0] + prefix + "-", svg[start:])
    drawn = re.sub(
        r'\b(aria-labelledby|aria-describedby)="([^"]*)"',
        lambda m: f'{m[1]}="{" ".join(f"{prefix}-{name}" for name in m[2].split())}"',
        drawn,
    )
    return f'<figure class="wb-figure" tabindex="0" role="group" aria-label="{esc(alt)}">{drawn}{caption}</figure>'
