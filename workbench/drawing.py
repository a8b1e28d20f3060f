"""Blocks as markup: the templates of html/, which draw the pages of the browser and the reports that open offline alike."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from workbench.blocks import Block
from workbench.words import Words

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["drawn", "template"]


def drawn(blocks: Iterable[Block], t: Words, *, level: int = 2) -> Markup:
    """Blocks for a page of the browser, under a heading of this level."""
    return template("drawn.html", blocks=tuple(blocks), t=t, level=level, links=True)


def template(name: str, **values: object) -> Markup:
    """One of html/ with its values; every text is escaped that is not markup already."""
    from markupsafe import Markup

    return Markup(_templates().get_template(name).render(**values))


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("workbench", "html")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
