"""What every face says, in one language: the strings of `strings/<lang>.json`, and numbers, times and sizes in words.

One `Words` per language is handed to every page, view and report, so those hold plain Python strings and nothing is
translated in the browser.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from workbench.sentences import sentences

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["LANGUAGES", "Engine", "Name", "Number", "Phrase", "Several", "Value", "Words", "counted", "lasting", "phrase", "words"]

LANGUAGES = {"en": "English", "zh": "中文"}
_LOCALES = {"en": "en", "zh": "zh-CN"}
_PLAIN_TOKENS = 10_000


# ---------------------------------------------------------------- what is said in no language yet


class Name(str):
    """Text that somebody chose and that a reader looks for: a face may set it in bold."""


class Engine(str):
    """A sentence that the engine wrote in English: other languages have it in their table of sentences."""


@dataclass(frozen=True)
class Number:
    """A number that is computed already, and how it is to be written: a key of `_WRITTEN`. None and what is no number is a dash."""

    value: float | None
    how: str = "count"


@dataclass(frozen=True)
class Phrase:
    """A key of the string tables and what fills its braces."""

    key: str
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Several:
    """Values one after the other, joined by the string of the key `between`."""

    parts: tuple[Value, ...]
    between: str = "list.comma"


Value = str | Number | Phrase | Several  # plain text is said as it is, in every language


def phrase(key: str, /, **values: Value) -> Phrase:
    return Phrase(key, values)


def counted(key: str, count: int, /, **values: Value) -> Phrase:
    """`key.one` or `key.other` by `count`, which also fills `{n}`."""
    return Phrase(f"{key}.{'one' if count == 1 else 'other'}", {"n": Number(count), **values})


def lasting(seconds: float) -> Phrase:
    """Rough, for estimates: `40 s`, `4 min`, `1 h 10 min`."""
    if seconds < 55:
        return phrase("unit.seconds", n=Number(max(5, 5 * round(seconds / 5))))
    minutes = max(1, round(seconds / 60))
    if minutes < 90:
        return phrase("unit.minutes", n=Number(minutes))
    return phrase("unit.hours", h=Number(minutes // 60), m=Number(minutes % 60))


def _share(share: float) -> str:
    """0.915 → `91.5%`, 0.8 → `80%`, but never a rounded-up 100 % or a rounded-down 0 %."""
    percent = round(100 * share, 1)
    if 0 < share < 1 and percent in (0, 100):
        percent = 99.9 if percent else 0.1
    return f"{percent:.1f}".removesuffix(".0") + "%"


def _signed(value: float, digits: int) -> str:
    """`+26`, `−0.5` with the sign that is as wide, and no sign before a nought."""
    text = f"{value:+.{digits}f}"
    text = text.removesuffix(".0").replace("-", "\u2212")
    return text if any(digit in text for digit in "123456789") else text[1:]


_WRITTEN: Mapping[str, Callable[[float], str]] = {
    "count": lambda value: f"{value:,.0f}",
    "share": _share,
    "points": lambda value: _signed(100 * value, 1),  # of a share, with its sign
    "limit": lambda value: f"{100 * value:g}",  # points without a sign
    "nats": lambda value: f"{value:.3f}",  # or bits
    "change": lambda value: _signed(value, 3),  # of nats or bits, with its sign
    "drift": lambda value: f"{float(f'{100 * value:.2g}'):g}%",  # small shares: two digits that say something
    "figure": lambda value: f"{value:.2f}".replace("-", "\u2212"),
    "direction": lambda value: _signed(value, 2),
    "p": lambda value: f"{value:.2g}",
    "plain": lambda value: f"{value:g}",
}


# ---------------------------------------------------------------- in words


class Words:
    """Call it with a key: `t("jobs.title")`. Values given by name fill the `{braces}`."""

    def __init__(self, lang: str, table: dict[str, str]) -> None:
        self.lang = lang
        self.locale = _LOCALES[lang]
        self.table = table

    def __call__(self, key: str, **values: Any) -> str:
        return self.table[key].format(**values)

    def say(self, value: Value) -> str:
        """A value as plain text."""
        return str(self._put(value, str))

    def markup(self, value: Value) -> Markup:
        """The same for use inside markup: the strings are ours, what fills them is anybody's and gets escaped."""
        from markupsafe import Markup

        return Markup(self._put(value, Markup))

    def _put(self, value: Value, make: Any) -> Any:
        if isinstance(value, Phrase):
            return make(self.table[value.key]).format(**{name: self._put(given, make) for name, given in value.values.items()})
        if isinstance(value, Several):
            return make(self.table[value.between]).join(self._put(part, make) for part in value.parts)
        if isinstance(value, Number):
            known = value.value is not None and math.isfinite(value.value)
            return make(_WRITTEN[value.how](value.value) if known and value.value is not None else "\u2013")
        if isinstance(value, Engine):
            return make("{}").format(self.said(value))
        return make("<strong>{}</strong>" if isinstance(value, Name) and make is not str else "{}").format(str(value))

    def html(self, key: str, **values: Any) -> str:
        """The same for use inside markup: the string is ours, the values are anybody's and get escaped."""
        return self.table[key].format(**{name: html.escape(str(value)) for name, value in values.items()})

    def term(self, kind: str, name: str) -> str:
        """`kind.name` for a word that comes from the store; a word this version does not know is shown as it is."""
        return self.table.get(f"{kind}.{name}", name)

    def said(self, text: str) -> str:
        """A text of the engine (error, hint, warning, note) in this language, and with the buttons of the pages."""
        return sentences(self.lang)(text)

    def n(self, key: str, count: int, **values: Any) -> str:
        """`key.one` or `key.other` by `count`, which also fills `{n}`."""
        return self(f"{key}.{'one' if count == 1 else 'other'}", n=self.number(count), **values)

    def link(self, page: str = "", /, **query: str) -> str:
        """The address of a page in this language, such as `/en/jobs?job=4f2a`."""
        return f"/{self.lang}/{page}" + (f"?{urlencode(query)}" if query else "")

    def number(self, value: float) -> str:
        """`1,204`; three significant digits below ten."""
        if isinstance(value, int) or abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.3g}"

    def tokens(self, count: int) -> str:
        """Token counts above ten thousand are rounded to thousands: nobody reads further."""
        return self.number(count) if count < _PLAIN_TOKENS else self("unit.thousand", n=self.number(round(count / 1000)))

    def bytes(self, count: float) -> str:
        """Decimal units, as disks are sold: `270 MB`, `1.1 GB`."""
        for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
            if count >= size:
                value = count / size
                return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
        return f"{count:.0f} B"

    def duration(self, seconds: float) -> str:
        """Of `lasting`."""
        return self.say(lasting(seconds))

    def elapsed(self, seconds: float) -> str:
        """Exact, for what is going on now: `8 s`, `3 min 05 s`."""
        whole = max(0, round(seconds))
        if whole < 60:
            return self("unit.seconds", n=whole)
        if whole < 3600:
            return self("unit.minutes_seconds", m=whole // 60, s=f"{whole % 60:02d}")
        return self("unit.hours", h=whole // 3600, m=whole % 3600 // 60)

    def ago(self, then: datetime | None, now: datetime | None = None) -> str:
        """`3 min ago`, or the date once that says more."""
        if then is None:
            return "–"
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        seconds = ((now or datetime.now(UTC)) - then).total_seconds()
        if seconds < 45:
            return self("unit.just_now")
        if seconds < 90 * 60:
            return self("unit.ago", time=self("unit.minutes", n=max(1, round(seconds / 60))))
        if seconds < 36 * 3600:
            return self("unit.ago", time=self("unit.whole_hours", n=round(seconds / 3600)))
        return self.date(then)

    def date(self, then: datetime) -> str:
        return then.astimezone().strftime("%Y-%m-%d %H:%M")


@cache
def words(lang: str) -> Words:
    """The words of one of `LANGUAGES`."""
    text = resources.files("workbench").joinpath("strings", f"{lang}.json").read_text(encoding="utf-8")
    return Words(lang, json.loads(text))
