"""What the pages say: every key is there in every language, is used, and takes the same values."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from string import Formatter

import workbench
import workbench_ui
from workbench.data.checks import KINDS
from workbench.data.scorers import SCORERS
from workbench.rebase import rule
from workbench.rebase.findings import CATALOGUE, LEVELS
from workbench.rebase.result import CHANGES, NOTES
from workbench.rebase.telling import CONTRASTS
from workbench.rebase.verdicts import STATES, VERDICTS
from workbench.recipe import GROUPS, PRESETS
from workbench.records import JobState
from workbench.words import LANGUAGES, words
from workbench_ui.views.jobs import PHASES
from workbench_ui.views.rebase import STAGES
from workbench_ui.views.recipe_form import FIELDS

METRICS = ["right", "exact_match", "nll_per_token", "bits_per_byte"]
ROOTS = [Path(package.__file__).parent for package in (workbench, workbench_ui)]
TABLES = {lang: words(lang).table for lang in LANGUAGES}
SOURCE = "\n".join(file.read_text(encoding="utf-8") for root in ROOTS for kind in ("*.py", "*.html") for file in root.rglob(kind))

# Keys made at run time: prefix -> every ending that can occur.
MADE = {
    "state": [state.value for state in JobState],
    "phase": list(PHASES),
    "jobs.doing": [*PHASES, *(s.value for s in JobState if not s.final and s is not JobState.running)],
    "finding": list(KINDS),
    "scorer": ["auto", "none", *SCORERS],
    "preset": [*PRESETS, *(f"{name}.when" for name in PRESETS)],
    "group": list(GROUPS),
    "method": ["lora", "qlora", "sft", "imported"],
    "source": ["hub", "folder", "gguf", "wheel", "trained"],
    "preview": ["learned", "prompt", "template"],
    "nav": ["home", "train", "jobs", "adapters", "rebase", "why"],
    "home": ["step1", "step2", "step3", "step1.text", "step2.text", "step3.text"],
    "score": [f"{key}.{end}" for key in ("right", "exact_match", "nll_per_token") for end in ("title", "better", "worse", "unclear")],
    "alert": ["close", "failed", "lost"],
    "rebase.word": [state.key for state in STATES.values()],
    "rebase.says": [*(state.key for state in STATES.values()), "works_absorbed", "weaker_unsure"],
    "rebase.rule": [STATES[word].key for word in VERDICTS],
    "rebase.because": [*re.findall(r'Decision\(".+?", .+?, "(\w+)"', inspect.getsource(rule)), "absorbed", "kept", "kept_unsure"],
    "rebase.change": [*CHANGES, "too_far"],
    "rebase.lineage": ["same", "permuted", "independent", "unclear"],
    "rebase.drift.note": list(NOTES),
    "rebase.drift": ["input", "output", "alignment", "embeddings", "norms"],
    "rebase.drift.column": ["module", "drift", "ratio", "input", "output", "alignment"],
    "rebase.differences": ["what", "value", "method", "line"],
    "rebase.level": list(LEVELS),
    "rebase.group": ["attention", "mlp", "embeddings", "other"],
    "rebase.stage": list(STAGES),
    "rebase.arm": ["home", "home_adapter", "new", "new_adapter"],
    "rebase.contrast": list(CONTRASTS),
    "rebase.metric": METRICS,
    "rebase.figures": METRICS,
    "missing": ("title", "onward"),
    "locked": ("title", "onward"),
    "rebase.head": [f"{key}.{n}" for key in ("all", "some") for n in ("one", "other")] + ["some.single"],
    "jobs.ask_stop": ["title", "text", "yes", "no"],
}
MADE["jobs.doing"] += ["fetch", "rebase", "evaluate"]
HEADS = ("broken", *(state.key for state in STATES.values() if not state.broken and state.name != "works"))
COUNTED = [
    *(f"rebase.head.{key}" for key in HEADS),
    "rebase.at_home",
    "rebase.safe",
    "rebase.checks",
    "found.more",
    "rebase.lost_rows",
    "rebase.won_rows",
    "lineage.bases",
    "lineage.adapters",
    "data.rows",
    "data.readable",
    "data.drop_n",
    "adapters.versions",
    "score.questions",
    "train.advanced_changed",
]


def _of_a_finding(key: str) -> bool:
    """Its title and what to do about it, or a sentence that the code names."""
    _, name, part = [*key.split("."), ""][:3]
    if part in {"title", "why", "do", "when"}:
        return name in CATALOGUE and (part != "when" or bool(CATALOGUE[name].milder))
    return f'"{part}"' in SOURCE and (name in CATALOGUE or name == "shared")


def used() -> set[str]:
    """Every key the code names or makes."""
    literal = set(re.findall(r"""["']([a-z_]+(?:\.[a-z_0-9]+)+|app|copy)["']""", SOURCE)) & set(TABLES["en"])
    made = {f"{prefix}.{end}" for prefix, ends in MADE.items() for end in ends}
    return (
        literal
        | made
        | {key for key in TABLES["en"] if key.startswith("found.") and _of_a_finding(key)}
        | {f"{key}.{number}" for key in COUNTED for number in ("one", "other")}
    )


def test_both_languages_have_the_same_keys() -> None:
    english, chinese = TABLES["en"], {key for key in TABLES["zh"] if not key.startswith("field.")}
    assert set(english) == chinese


def test_every_key_is_used_and_every_used_key_is_there() -> None:
    keys = set(TABLES["en"])
    assert used() - keys == set()
    assert keys - used() == set()


def test_every_key_in_the_code_is_written_down() -> None:
    called = set(re.findall(r"""\bt(?:\.html|\.n)?\(\s*["']([^"'{}]+)["']""", SOURCE))
    assert {key for key in called if key not in TABLES["en"] and key not in COUNTED} == set()


def test_translations_take_the_same_values() -> None:
    def fields(sentence: str) -> set[str | None]:
        return {name for _, name, _, _ in Formatter().parse(sentence) if name}

    assert {key for key, sentence in TABLES["en"].items() if fields(sentence) != fields(TABLES["zh"][key])} == set()


def test_every_setting_is_explained_in_chinese_too() -> None:
    assert {key.removeprefix("field.") for key in TABLES["zh"] if key.startswith("field.")} == {field.name for field in FIELDS}


def test_chinese_is_chinese() -> None:
    names = {"app", "source.hub", "method.lora", "method.imported"}
    plain = {key: re.sub(r"\{\w+\}", "", sentence) for key, sentence in TABLES["zh"].items() if key not in names}
    assert {key for key, said in plain.items() if re.search(r"[A-Za-z]{3}", said) and not re.search(r"[\u4e00-\u9fff]", said)} == set()


def test_no_key_is_written_twice() -> None:
    for lang in LANGUAGES:
        pairs = json.loads((ROOTS[0] / "strings" / f"{lang}.json").read_text(encoding="utf-8"), object_pairs_hook=list)
        assert len(pairs) == len(dict(pairs))
