"""Whether an answer is right, by the rule a dataset names. Pure functions of two texts."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from workbench.errors import UsageError

__all__ = ["SCORERS", "check_scorer", "score"]

SCORERS = {
    "exact": "the same text, but for space around it",
    "normalised": "the same words, whatever the case, spacing and punctuation",
    "json": "JSON with equal fields, in any order",
    "numeric": "the last number is equal within a tolerance (numeric:0.01; default one millionth)",
    "label": "the first line is the label",
}
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*?)\n?```$", re.DOTALL)
_MINUS = re.compile(r"(?<![\w)])[-\u2212](?=[.\d])")
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?%?|[-+−]?\.\d+%?")


def check_scorer(scorer: str) -> str:
    """Return `scorer` if it is known, else raise `UsageError`."""
    name, _, rest = scorer.partition(":")
    if name not in SCORERS or (rest and name != "numeric"):
        raise UsageError(f"No scorer named '{scorer}'.", hint=f"There are: {', '.join(SCORERS)}, or none.")
    if rest:
        try:
            tolerance = float(rest)
        except ValueError:
            tolerance = math.nan
        if not 0 <= tolerance < math.inf:
            raise UsageError(f"'{rest}' is no tolerance.", hint="Write a number that is not negative: numeric:0.01")
    return scorer


def score(scorer: str, expected: str, answer: str) -> bool:
    """Is `answer` right where `expected` was wanted? Raises `UsageError` for an unknown scorer."""
    name, _, rest = check_scorer(scorer).partition(":")
    if name == "exact":
        return expected.strip() == answer.strip()
    if name == "normalised":
        return _plain(expected) == _plain(answer)
    if name == "json":
        return _same_json(expected, answer)
    if name == "numeric":
        return _same_number(expected, answer, float(rest) if rest else None)
    return _plain(_first_line(expected)) == _plain(_first_line(answer))


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    text = _MINUS.sub("\u2212", text)  # a sign is not punctuation
    words = "".join(" " if unicodedata.category(c)[0] in "PZC" else c for c in text)
    return " ".join(words.split())


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _parse(text: str) -> Any:
    fenced = _FENCE.match(text.strip())
    return json.loads(fenced.group(1) if fenced else text)


def _same_json(expected: str, answer: str) -> bool:
    try:
        wanted = _parse(expected)
    except (ValueError, RecursionError):
        return expected.strip() == answer.strip()
    try:
        return _equal(wanted, _parse(answer))
    except (ValueError, RecursionError):
        return False


def _equal(a: Any, b: Any) -> bool:
    """Deep equality in which true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) in (int, float) and type(b) in (int, float) and a == b or (type(a) is type(b) and a == b)


def _number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    if not found:
        return None
    last = found[-1].replace(",", "").replace("−", "-")
    return float(last[:-1]) / 100 if last.endswith("%") else float(last)


def _same_number(expected: str, answer: str, tolerance: float | None) -> bool:
    wanted, got = _number(expected), _number(answer)
    if wanted is None or not math.isfinite(wanted):
        return _plain(expected) == _plain(answer)
    if got is None or not math.isfinite(got):
        return False
    return abs(wanted - got) <= (1e-6 * max(1.0, abs(wanted)) if tolerance is None else tolerance)
