"""Whether an answer is right, by the rule a dataset names. Pure functions of two texts; `SCORERS`, at the end, is the list."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from workbench.errors import UsageError

__all__ = ["SCORERS", "Scorer", "score", "scorer_of"]

_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*?)\n?```$", re.DOTALL)
_MINUS = re.compile(r"(?<![\w)])[-\u2212](?=[.\d])")
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?%?|[-+−]?\.\d+%?")


@dataclass(frozen=True)
class Scorer:
    """One rule, and what an evaluation may leave out because of it."""

    right: Callable[[str, str], bool]  # of the expected answer and the given one
    verbatim: bool = False  # only the expected text is right, but for space around it
    first_line: bool = False  # nothing behind the first line is looked at


def scorer_of(name: str) -> Scorer:
    """The rule that a dataset names, such as "exact" or "numeric:0.01". Raises `UsageError` for an unknown one."""
    kind, _, rest = name.partition(":")
    if kind not in SCORERS or (rest and kind != "numeric"):
        raise UsageError(f"No scorer named '{name}'.", hint=f"There are: {', '.join(SCORERS)}, or none.")
    if not rest:
        return SCORERS[kind]
    try:
        tolerance = float(rest)
    except ValueError:
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise UsageError(f"'{rest}' is no tolerance.", hint="Write a number that is not negative: numeric:0.01")
    return Scorer(partial(_numeric, tolerance=tolerance))


def score(scorer: str, expected: str, answer: str) -> bool:
    """Is `answer` right where `expected` was wanted? Raises `UsageError` for an unknown scorer."""
    return scorer_of(scorer).right(expected, answer)


def _exact(expected: str, answer: str) -> bool:
    return expected.strip() == answer.strip()


def _normalised(expected: str, answer: str) -> bool:
    return _plain(expected) == _plain(answer)


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    text = _MINUS.sub("\u2212", text)  # a sign is not punctuation
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in text)
    return " ".join(words.split())


def _label(expected: str, answer: str) -> bool:
    return _plain(_first_line(expected)) == _plain(_first_line(answer))


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _json(expected: str, answer: str) -> bool:
    try:
        wanted = _parse(expected)
    except (ValueError, RecursionError):
        return _exact(expected, answer)
    try:
        return _equal(wanted, _parse(answer))
    except (ValueError, RecursionError):
        return False


def _parse(text: str) -> Any:
    fenced = _FENCE.match(text.strip())
    return json.loads(fenced.group(1) if fenced else text)


def _equal(a: Any, b: Any) -> bool:
    """Deep equality in which true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) in (int, float) and type(b) in (int, float) and a == b or (type(a) is type(b) and a == b)


def _numeric(expected: str, answer: str, tolerance: float | None = None) -> bool:
    wanted, got = _number(expected), _number(answer)
    if wanted is None or not math.isfinite(wanted):
        return _normalised(expected, answer)
    if got is None or not math.isfinite(got):
        return False
    return abs(wanted - got) <= (1e-6 * max(1.0, abs(wanted)) if tolerance is None else tolerance)


def _number(text: str) -> float | None:
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    last = numbers[-1].replace(",", "").replace("−", "-")
    return float(last[:-1]) / 100 if last.endswith("%") else float(last)


# The rules by name. To add one, add its line here and its words to the string tables ("scorer.NAME").
SCORERS = {
    "exact": Scorer(_exact, verbatim=True),  # the same text, but for space around it
    "normalised": Scorer(_normalised),  # the same words, whatever the case, spacing and punctuation
    "json": Scorer(_json),  # equal fields, in any order
    "numeric": Scorer(_numeric),  # the last number is equal within a tolerance (numeric:0.01; default one millionth)
    "label": Scorer(_label, first_line=True),  # the first line is the label
}
