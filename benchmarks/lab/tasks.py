"""Tasks that lean on the base to different degrees, all answered in a few tokens and scored by exact match.

orders   read two things out of a sentence and write their codes; the test's sentences were never seen
recall   a fixed random table of words and codes, learned by heart: all of it is in the adapter
words    the missing word of a line of real text the base never read: most of it is in the base
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.lab.sizes import Piece, Sizes
from benchmarks.lab.text import held_out
from workbench.data.rows import assign_ids

__all__ = ["TASKS", "rows_of", "task_of"]

ITEMS = ("lamps", "pens", "ropes", "desks", "boxes", "cups", "keys", "maps")
COLOURS = {"red": "r", "green": "g", "blue": "b", "white": "w", "black": "k", "brown": "n"}
PLACES = {"Cairo": "CA", "Quito": "QU", "Oslo": "OS", "Lima": "LI", "Paris": "PA", "Tokyo": "TO", "Delhi": "DL", "Rome": "RM"}
ORDERS = [
    "Send {n} {colour} {item} to {place}.",
    "Please ship {n} {colour} {item} to {place}.",
    "{place} wants {n} {item}, {colour} ones.",
    "For {place}: {n} {item} in {colour}.",
    "Can {place} get {n} {colour} {item}?",
    "We need {n} {colour} {item} in {place}.",
]
WORDS = (
    "apple river stone window candle garden bridge silver thunder pocket ladder basket copper forest harbor island "
    "jacket kitten lemon marble needle orange paper quiet rabbit saddle ticket velvet wagon yellow anchor button "
    "castle dragon engine feather guitar hammer insect jungle"
).split()
QUESTIONS = (
    "Code of|Which code has|Tell me the code of|Look up|Find the code for|I need the code of|Code for|What is the code of|"
    "Please give the code of|Say the code of|Now the code of|And the code of"
).split("|")
ARTICLES = ("", "the ", "our ", "this ")
CHOICES = 16  # words that may be missing
BLANK = "___"
LINE = (16, 72)  # characters of a line with a missing word


def task_of(adapter: str) -> str:
    """The task of an adapter's name: "orders-attention" learns "orders" with attention modules only."""
    return adapter.partition("-")[0]


def rows_of(task: str, sizes: Sizes, text: Piece) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training rows, test rows) in canonical form; no question of the test is among those of the training."""
    rng = np.random.Generator(np.random.Philox(key=[sizes.seed, list(TASKS).index(task)]))
    pairs = TASKS[task](rng, sizes, text)
    unique = list(dict(pairs).items())
    wanted = sizes.train_rows + sizes.test_rows
    if len(unique) < sizes.test_rows * 2:
        raise SystemExit(f"The task '{task}' has only {len(unique)} rows; lower --test-rows, or give --text a larger folder.")
    chosen = [unique[i] for i in rng.permutation(len(unique))[:wanted]]
    rows = list(assign_ids(_row(question, answer) for question, answer in chosen))
    test, train = rows[: sizes.test_rows], rows[sizes.test_rows :]
    return [{**row, "split": "train"} for row in train], [{**row, "split": "test"} for row in test]


def _row(question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"form": "messages", "messages": messages}


def _orders(rng: np.random.Generator, sizes: Sizes, text: Piece) -> list[tuple[str, str]]:
    found = []
    for item in ITEMS:
        for colour, colour_code in COLOURS.items():
            for place, place_code in PLACES.items():
                n = int(rng.integers(2, 10))
                for template in ORDERS:
                    question = template.format(n=n, colour=colour, item=item, place=place)
                    found.append((question, f"{colour_code} {place_code}"))
    return found


def _recall(rng: np.random.Generator, sizes: Sizes, text: Piece) -> list[tuple[str, str]]:
    codes = {word: str(int(rng.integers(0, 10))) for word in WORDS}
    return [(f"{question} {article}{word}", code) for word, code in codes.items() for question in QUESTIONS for article in ARTICLES]


def _words(rng: np.random.Generator, sizes: Sizes, text: Piece) -> list[tuple[str, str]]:
    """Lines of the documents held out; the missing word is one of the most frequent ones, each about as often as the others."""
    lines = [line.strip() for document in held_out(text) for line in document.splitlines()]
    lines = [line for line in dict.fromkeys(lines) if LINE[0] <= len(line) <= LINE[1]]
    counts = Counter(word for line in lines for word in re.findall(r"\b[a-z]{2,}\b", line))
    choices = {word for word, _ in counts.most_common(CHOICES)}
    by_word: dict[str, list[tuple[str, str]]] = {word: [] for word in sorted(choices)}
    for line in lines:
        places = [m for m in re.finditer(r"\b[a-z]{2,}\b", line) if m.group() in choices]
        if places:
            place = places[int(rng.integers(len(places)))]
            by_word[place.group()].append((line[: place.start()] + BLANK + line[place.end() :], place.group()))
    each = (sizes.train_rows + sizes.test_rows) // CHOICES + 1
    return [row for rows in by_word.values() for row in rows[:each]]


TASKS = {"orders": _orders, "recall": _recall, "words": _words}
