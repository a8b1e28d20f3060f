"""A check on a terminal: the telling that the pages draw, as text."""

from __future__ import annotations

import click

from workbench.blocks import Bars, Block, Cards, Code, Facts, Fold, Items, Line, Link, Paragraph, Strip, Table
from workbench.cli.output import fields, say, short, table
from workbench.rebase.telling import Telling
from workbench.words import Value, Words

__all__ = ["print_telling"]


def print_telling(telling: Telling, t: Words, *, full: bool = False) -> None:
    """The headline, the figures and every section; `full` also prints what the pages fold away or print small."""
    say()
    say(click.style(t.say(telling.headline), bold=True))
    say(t.say(telling.figures))
    for section in telling.sections:
        say("\n" + click.style(t.say(section.title), bold=True))
        for block in section.blocks:
            _draw(block, t, full)


def _draw(block: Block, t: Words, full: bool, named: Value | None = None) -> None:
    """One block, under a heading that stands above already. A strip is a picture: its numbers are in the table that follows it."""
    if isinstance(block, Paragraph | Strip):
        if full or (isinstance(block, Paragraph) and not block.quiet):
            say(t.say(block.text if isinstance(block, Paragraph) else block.legend))
    elif isinstance(block, Facts):
        fields((f"  {t.say(name)}", _text(value, t)) for name, value in block.rows)
    elif isinstance(block, Table):
        if block.caption != named:
            say(t.say(block.caption))
        kept = [i for i in range(len(block.head)) if not any(isinstance(row[i], Line) for row in block.rows)]
        table([t.say(block.head[i]) for i in kept], [[_text(row[i], t) for i in kept] for row in block.rows])
    elif isinstance(block, Bars):
        table((t.say(block.caption), "", ""), [(t.say(bar.name), t.say(bar.score), t.say(bar.ends or "")) for bar in block.rows])
    elif isinstance(block, Items):
        for item in block.rows:
            fields([(f"  {t.say(item.level)}", f"{t.say(item.title)} {item.name}".rstrip()), ("", t.say(item.text))])
            fields(("", t.say(text)) for text in (item.more if full else ()))
    elif isinstance(block, Cards):
        say(t.say(block.caption or ""))
        for card in block.rows:
            pairs = [(t("answers.question"), t.say(card.question)), *((t.say(name), t.say(text)) for name, text, _ in card.answers)]
            fields((f"  {name}", " ".join(text.split()) if full else short(text, 100)) for name, text in pairs)
    elif isinstance(block, Code):
        say(block.text)
    elif isinstance(block, Fold) and full:
        say(t.say(block.title))
        for inner in block.blocks:
            _draw(inner, t, full, block.title)


def _text(value: Value | Link | Line, t: Words) -> str:
    return value.text if isinstance(value, Link) else "" if isinstance(value, Line) else t.say(value)
