"""A text of `docs/` on a page: its Markdown in pieces, and between them its pictures as inline SVG."""

from __future__ import annotations

import re
from pathlib import Path

from workbench_ui.views.markup import esc

__all__ = ["docs_dir", "picture", "read_text"]

# Neither pattern looks past a line or the next bracket, so that the time grows with the text and no faster.
_PICTURE = re.compile(r"^!\[(?P<alt>[^\]\n]*)\]\((?P<file>images/[\w.-]+\.svg)\)[ \t]*$", re.MULTILINE)
_OTHER_PAGE = re.compile(r"(?<!!)\[([^\[\]]+)\]\((?!https?:)[^()\s]*\)")  # links to files of the repository lead nowhere here


def docs_dir() -> Path:
    """`docs/` as shipped inside the installed package, else that of the checked-out repository."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_docs"
    return shipped if shipped.is_dir() else package.parents[1] / "docs"


def read_text(name: str, folder: Path | None = None) -> list[tuple[str, str]]:
    """`docs/<name>.md` without its title: pieces, each ("text", Markdown) or ("picture", safe HTML)."""
    folder = folder or docs_dir()
    _, _, body = (folder / f"{name}.md").read_text(encoding="utf-8").partition("\n")
    found: list[tuple[str, str]] = []
    at = 0
    for match in _PICTURE.finditer(body):
        found.append(("text", body[at : match.start()]))
        found.append(("picture", picture(folder / match["file"], match["alt"])))
        at = match.end()
    found.append(("text", body[at:]))
    return [(kind, _OTHER_PAGE.sub(r"\1", piece).strip() if kind == "text" else piece) for kind, piece in found if piece.strip()]


def picture(file: Path, alt: str) -> str:
    """One of our own SVGs with its caption. Drawn inline it follows the page's colours, so it has no style sheet of its own."""
    svg = file.read_text(encoding="utf-8")
    prefix = re.sub(r"\W", "-", file.stem)  # names are unique in a file, and must be on the page
    drawn = re.sub(r'(\bid="|href="#|url\(#)', lambda m: m[0] + prefix + "-", svg[svg.index("<svg") :])
    drawn = re.sub(
        r'\b(aria-labelledby|aria-describedby)="([^"]*)"',
        lambda m: f'{m[1]}="{" ".join(f"{prefix}-{name}" for name in m[2].split())}"',
        drawn,
    )
    told = esc(alt)
    return f'<figure class="wb-figure" tabindex="0" role="group" aria-label="{told}">{drawn}<figcaption>{told}</figcaption></figure>'
