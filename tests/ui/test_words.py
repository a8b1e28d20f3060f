"""What the pages say: every key is there in every language, is used, and takes the same values."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from string import Formatter
from typing import get_args

import pytest

import workbench
import workbench_ui
from workbench.data.checks import KINDS
from workbench.data.scorers import SCORERS
from workbench.rebase.contrasts import ARMS
from workbench.rebase.findings import CATALOGUE, LEVELS
from workbench.rebase.result import NOTES, STAGES
from workbench.rebase.rule import LINES
from workbench.rebase.telling import CONTRASTS
from workbench.rebase.verdicts import STATES, VERDICTS
from workbench.recipe import GROUPS, PRESETS, Recipe
from workbench.records import PHASES, JobState
from workbench.words import LANGUAGES, words
from workbench.worth import METRICS
from workbench_ui.views.recipe_form import FIELDS

ROOTS = [Path(package.__file__).parent for package in (workbench, workbench_ui)]
TABLES = {lang: words(lang).table for lang in LANGUAGES}
PYTHON = [file.read_text(encoding="utf-8") for root in ROOTS for file in root.rglob("*.py")]
SOURCE = "\n".join([*PYTHON, *(file.read_text(encoding="utf-8") for root in ROOTS for file in root.rglob("*.html"))])

# Where the engine says what can stand behind a prefix, each of it has words, and nothing else has.
ENDINGS = {
    "state": [state.value for state in JobState],
    "phase": PHASES,
    "finding": KINDS,
    "scorer": ["auto", "none", *SCORERS],
    "preset": [*PRESETS, *(f"{name}.when" for name in PRESETS)],
    "group": GROUPS,
    "method": [*get_args(Recipe.model_fields["method"].annotation), "imported"],
    "rebase.word": [state.key for state in STATES.values()],
    "rebase.rule": [STATES[word].key for word in VERDICTS],
    "rebase.because": [*LINES, "absorbed", "kept", "kept_unsure"],
    "rebase.drift.note": NOTES,
    "rebase.level": LEVELS,
    "rebase.stage": STAGES,
    "rebase.arm": ARMS,
    "rebase.contrast": CONTRASTS,
    "rebase.metric": METRICS,
    "rebase.figures": METRICS,
}


def spoken() -> tuple[set[str], set[str]]:
    """The whole strings of the code, and patterns of the keys it makes: of f-strings, joined strings and `term(kind, name)`."""
    slot = r"[\w -]+(?:\.[\w -]+)*"
    whole = set(re.findall(r"""["']([\w.]+)["']""", SOURCE))
    made = {re.escape(start) + slot for start in re.findall(r"""["']([a-z_]+\.[a-z_.]*)["'] *~""", SOURCE)}
    for node in (node for text in PYTHON for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            if re.match(r"[a-z_]+\.", parts[0] or ""):
                made.add("".join(slot if part is None else re.escape(part) for part in parts))
            elif re.fullmatch(r"\.\w+", parts[-1] or "") and len(parts) == 2:  # f"{key}.title", for a key that somebody names
                made |= {re.escape(key + parts[-1]) for key in whole}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "term":
            made.add(re.escape(getattr(node.args[0], "value", "?")) + r"\." + slot)
    return whole, made


def test_every_key_is_used() -> None:
    whole, made = spoken()
    pattern = re.compile("|".join(sorted(made)))
    unused = {key for key in TABLES["en"] if key not in whole and not pattern.fullmatch(key)}
    counted = {key for key in unused if re.sub(r"\.(one|other)$", "", key) in whole}
    assert unused - counted == set()


@pytest.mark.parametrize("prefix", ENDINGS)
def test_everything_the_engine_can_say_has_words(prefix: str) -> None:
    said = {key.removeprefix(f"{prefix}.") for key in TABLES["en"] if re.fullmatch(rf"{re.escape(prefix)}\.[^.]+(\.when)?", key)}
    assert set(ENDINGS[prefix]) - said == set()
    assert {ending for ending in said - set(ENDINGS[prefix]) if f"{prefix}.{ending}" not in spoken()[0]} == set()


def test_every_finding_says_what_it_is_and_what_to_do() -> None:
    for name, finding in CATALOGUE.items():
        for part in ("title", "why", "do", *(["when"] if finding.milder else [])):
            assert f"found.{name}.{part}" in TABLES["en"]
    others = {key.split(".")[1] for key in TABLES["en"] if key.startswith("found.")} - set(CATALOGUE)
    assert {name for name in others - spoken()[0] if f"found.{name}" not in SOURCE} <= {"true", "false"}


def test_both_languages_have_the_same_keys() -> None:
    english, chinese = TABLES["en"], {key for key in TABLES["zh"] if not key.startswith("field.")}
    assert set(english) == chinese


def test_every_key_in_the_code_is_written_down() -> None:
    called = set(re.findall(r"""\bt(?:\.html|\.n)?\(\s*["']([^"'{}]+)["']""", SOURCE))
    assert len(called) > 200, "it does see the calls"
    assert {key for key in called if not {key, f"{key}.one"} & TABLES["en"].keys()} == set()


def test_translations_take_the_same_values() -> None:
    def fields(sentence: str) -> set[str | None]:
        return {name for _, name, _, _ in Formatter().parse(sentence) if name}

    assert {key for key, sentence in TABLES["en"].items() if fields(sentence) != fields(TABLES["zh"][key])} == set()


def test_every_setting_is_explained_in_chinese_too() -> None:
    assert {key.removeprefix("field.") for key in TABLES["zh"] if key.startswith("field.")} == set(FIELDS)


def test_chinese_is_chinese() -> None:
    names = {"app", "source.hub", "method.lora", "method.imported"}
    plain = {key: re.sub(r"\{\w+\}", "", sentence) for key, sentence in TABLES["zh"].items() if key not in names}
    assert {key for key, said in plain.items() if re.search(r"[A-Za-z]{3}", said) and not re.search(r"[\u4e00-\u9fff]", said)} == set()


def test_chinese_has_its_own_punctuation() -> None:
    told = {key: re.sub(r"`[^`]*`", "", sentence) for key, sentence in TABLES["zh"].items()}
    assert {key for key, said in told.items() if re.search(r"[\u4e00-\u9fff][,:;?!(]|[,;?!)][\u4e00-\u9fff]", said)} == set()


def test_no_key_is_written_twice() -> None:
    for lang in LANGUAGES:
        pairs = json.loads((ROOTS[0] / "strings" / f"{lang}.json").read_text(encoding="utf-8"), object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs))
