"""CONTRIBUTING's table of where a thing is added is true: every place exists, and no other file of the product has to be touched.

Shown with one thing of each kind that is there: the files that name it are the files that the table lists.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("workbench", "ui")
# The thing of each kind, as it stands in the code (texts in quotes, names, what is imported) and in the tables of words.
SAMPLES = {
    "a verdict word": r'"does harm"|\bdoes_harm\b',
    "a scorer": r'"numeric"|\bscorer\.numeric\b',
    "a recipe option": r"\bneftune_noise_alpha\b",
    "a method of training": r'"sft"|\bmethod\.sft\b',
    "a kind of job": r'"rebase-selftest"',
    "a browser page": r"\bnav\.home\b|^(import|module) home$",
    "a finding of the rebase check": r"\bmodule_reshaped\b",
}


def table(text: str) -> dict[str, list[str]]:
    """What is added -> the paths that its row names, of the table under "How to add"."""
    section = text.split("## How to add")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section, flags=re.MULTILINE)
    return {what: re.findall(r"`([\w.-]*/[\w./-]*|[\w-]+\.\w+)`", where) for what, where in rows if what != "what"}


@cache
def spoken(file: Path) -> str:
    """What a file says, one thing a line; of Python its name, but no comments and docstrings."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return text
    nodes = list(ast.walk(ast.parse(text)))
    told = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    said = [f'"{n.value}"' for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in told]
    said += [n.id for n in nodes if isinstance(n, ast.Name)] + [n.attr for n in nodes if isinstance(n, ast.Attribute)]
    said += [n.arg or "" for n in nodes if isinstance(n, ast.keyword)]
    return "\n".join(
        [f"module {file.stem}", *said, *(f"import {alias.name}" for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names)]
    )


def naming(pattern: str, root: Path = ROOT) -> set[str]:
    """The files of the product that say what the pattern matches."""
    files = [file for folder in PRODUCT for file in (root / folder).rglob("*") if file.suffix in {".py", ".json", ".yaml", ".html", ".js"}]
    return {str(file.relative_to(root)) for file in files if re.search(pattern, spoken(file), flags=re.MULTILINE)}


def differing(named: set[str], listed: list[str]) -> tuple[set[str], set[str]]:
    """(Files that name the thing and are not listed, listed places of the product that do not name it.)"""
    places = [place for place in listed if place.startswith(PRODUCT)]
    return {n for n in named if not n.startswith(tuple(places))}, {p for p in places if not any(n.startswith(p) for n in named)}


TABLE = table((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_every_place_that_is_named_exists() -> None:
    assert len(TABLE) > 10 and all(TABLE.values()), "every row names a place"
    assert {place for places in TABLE.values() for place in places if not (ROOT / place).exists()} == set()


@pytest.mark.parametrize("what", SAMPLES)
def test_the_listed_places_are_the_true_ones(what: str) -> None:
    unlisted, unneeded = differing(naming(SAMPLES[what]), TABLE[what])
    assert not unlisted, f"CONTRIBUTING does not say that {what} touches these"
    assert not unneeded, f"CONTRIBUTING says that {what} touches these, and they do not know the sample"


def test_a_wrong_list_is_seen(tmp_path: Path) -> None:
    for name, text in {"workbench/rule.py": 'WORD = "a word"', "workbench/page.py": 'x == "a word"', "ui/words.json": "{}"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    listed = table(
        "## How to add …\n| what | where |\n|---|---|\n| a word | `workbench/rule.py`, `ui/words.json`; a case in `tests/x.py` |\n\n## B"
    )
    assert listed == {"a word": ["workbench/rule.py", "ui/words.json", "tests/x.py"]}
    assert differing(naming('"a word"', tmp_path), listed["a word"]) == ({"workbench/page.py"}, {"ui/words.json"})
