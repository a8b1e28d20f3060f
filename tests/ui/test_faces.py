"""A check is told once: the page, the offline report and the command line say the numbers of the telling and no others, in both
languages; and what a Chinese reader sees is Chinese."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ui import checks
from tests.ui.checks import HOME, NEW, check, contrasts, verdict
from tests.ui.samples import adapter
from tests.ui.test_views import text
from workbench import blocks
from workbench.cli.telling import print_telling
from workbench.rebase import report
from workbench.rebase.findings import found
from workbench.rebase.release import Cell
from workbench.rebase.result import Check, Health, Structure, Verdict
from workbench.rebase.telling import Telling, tell
from workbench.rebase.verdicts import VERDICTS
from workbench.stats import Interval
from workbench.words import LANGUAGES, Number, Phrase, Several, Words, words
from workbench_ui.views.rebase import detail


def free_text(word: str) -> Verdict:
    """Judged by loss: no success score at all."""
    arms = {
        name: {"nll_per_token": value}
        for name, value in zip(("home", "home_adapter", "new", "new_adapter"), (2.1, 0.9, 2.0, 1.4), strict=True)
    }
    flips: dict[str, Any] = dict(lost_rows=None, won_rows=None, lost_share=None, flip_p=None)
    return verdict(word, metric="nll_per_token", arms=arms, contrasts={"nll_per_token": contrasts((-2.1, -0.9, -2.0, -1.4))}, **flips)


def one_row() -> Verdict:
    alone = {name: Interval(1.0, None, None, "none") for name in ("gain", "transfer", "served", "alone", "kept")}
    judged = verdict("too close to tell", n=1, rows_needed=None, lost_share=None, flip_p=None)
    return dataclasses.replace(judged, contrasts={m: dataclasses.replace(c, **alone) for m, c in judged.contrasts.items()})


def scored() -> Verdict:
    """By the dataset's scorer, beside exact match and both losses."""
    judged = verdict("weaker", p_worse=0.0004)
    arms = {arm: {**values, "right": values["exact_match"] + 0.05, "bits_per_byte": 1.3} for arm, values in judged.arms.items()}
    more = {"right": contrasts((0.35, 0.83, 0.39, 0.65)), "bits_per_byte": contrasts((-1.3, -1.3, -1.3, -1.3), 0.002)}
    return dataclasses.replace(judged, metric="right", arms=arms, contrasts={**judged.contrasts, **more})


AT_HOME: dict[str, Any] = dict(arms={"home": {"exact_match": 0.3}, "home_adapter": {"exact_match": 0.8}}, metric="exact_match", n=200)
EVERYTHING: dict[str, Any] = dict(
    probes=checks.PROBES,
    retrained=checks.RETRAINED,
    how={"dtype": "float32", "seconds": {"structure": 0.01}},
    warnings=(found("rows_left_out", rows=3), found("dtype_of_home", was="float32", now="bfloat16"), found("home_is_gone", home=HOME)),
)
KINDS: dict[str, Check] = {
    **{word: check(word) for word in VERDICTS},
    "absorbed": check("works", verdict=verdict("works", absorbed=True)),
    "grouped": check("works", verdict=verdict("works", groups=17)),
    "one row": check("too close to tell", verdict=one_row()),
    "by loss": check("weaker", verdict=free_text("weaker")),
    "by a scorer": check("weaker", verdict=scored()),
    "not ruled out": check("too close to tell", verdict=verdict("too close to tell", line="unharmed")),
    "worse": check("weaker", verdict=verdict("weaker", line="worse", contrasts=verdict("lost").contrasts)),
    "everything": check("lost", **EVERYTHING),
    "a broken base": check(
        "lost", health=Health(20, 1.1, 1.9, checks.interval(-0.8), broken=True), weights=checks.weights(exact=False, error=0.08)
    ),
    "the old base is gone": check("lost", health=Health(20, None, 1.9, None, broken=False)),
    "nothing to divide by": check("lost", retrained=dataclasses.replace(checks.RETRAINED, recovered=None)),
    "a break, scored at home": check("cannot load", verdict=verdict("cannot load", home_gain=checks.interval(0.5), **AT_HOME)),
    "a tokenizer that is gone": check(
        "lost", structure=Structure((found("tokenizer_unreadable", problems=["One of the two bases has no tokenizer.json."]),))
    ),
    "without the test": check("works", verdict=None, structure=Structure(())),
    "other shapes": check(
        "works", weights=checks.weights(layers=0, change="other_shape", drift=None, lineage=None, notes=("fused_experts",))
    ),
}


# ---------------------------------------------------------------- what each face shows


def page(telling: Telling, t: Words) -> str:
    return text(f"<div>{report.verdict(telling, t)}{report.sections(telling, t)}</div>")


def offline(telling: Telling, t: Words) -> str:
    drawn = report.document([telling], t, telling.title)
    return text(f"<main>{drawn.split('</h1>')[1].split('</main>')[0]}</main>")


def terminal(telling: Telling, t: Words, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    print_telling(telling, t, full=True)
    return capsys.readouterr().out


def values(part: object, t: Words) -> Iterator[str]:
    """Everything that a part of a telling says. Floats are where a picture puts its marks: nobody reads them."""
    if isinstance(part, str | Number | Phrase | Several):
        yield t.say(part)
    elif isinstance(part, blocks.Link):
        yield part.text
    elif isinstance(part, tuple):
        for inner in part:
            yield from values(inner, t)
    elif dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            if not isinstance(part, blocks.Section) or field.name != "key":
                yield from values(getattr(part, field.name), t)


def numbers(said: str) -> set[str]:
    return set(re.findall(r"[+\u2212-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?%?", said))


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", [*KINDS, "stale"])
def test_every_face_says_the_numbers_of_the_telling_and_no_others(kind: str, lang: str, capsys: pytest.CaptureFixture[str]) -> None:
    t, whole = words(lang), tell(KINDS.get(kind, KINDS["works"]), stale=kind == "stale", retrain_seconds=300.0)
    assert len(whole.sections) >= 3
    for section in whole.sections:
        telling = dataclasses.replace(whole, sections=(section,))
        told = numbers(" ".join(values((telling.headline, telling.figures, section), t)))
        faces = {"page": page(telling, t), "report": offline(telling, t), "terminal": terminal(telling, t, capsys)}
        for face, shown in faces.items():
            assert numbers(shown) == told, (face, section.key, numbers(shown) ^ told)


@pytest.mark.parametrize("kind", KINDS)
def test_both_languages_say_the_same_numbers(kind: str) -> None:
    told = [
        numbers(" ".join(values((whole.headline, whole.figures, whole.sections), words(lang))))
        for lang in LANGUAGES
        if (whole := tell(KINDS[kind]))
    ]
    assert told[0] == told[1] and len(told[0]) > 3


def test_the_pages_and_the_reports_are_drawn_from_the_telling() -> None:
    """The whole page and the whole report hold each section as the faces above draw it."""
    full, t = KINDS["everything"], words("en")
    cell = Cell(adapter(), NEW, full)
    assert str(report.sections(tell(full), t)) in detail(cell, t)
    assert all(
        numbers(page(tell(full), t)) <= numbers(text(f"<div>{drawn}</div>")) for drawn in (detail(cell, t), _body(report.html([full])))
    )


def _body(document: str) -> str:
    return document.split("<main>")[1].split("</main>")[0]


# ---------------------------------------------------------------- Chinese is Chinese

_SENTENCE = re.compile(r"[A-Za-z][a-z']+(?: [A-Za-z][a-z'-]+){2,}")
NAMES = ("Matthews", "system and user", "several turns", "tool call")
DATA = [w.prompt for w in checks.WITNESSES] + [checks.check("lost").structure.template_diff]


def english(said: str) -> list[str]:
    """Three English words in a row that are no name and nobody's data."""
    for name in (*NAMES, *DATA):
        said = said.replace(name, "")
    return _SENTENCE.findall(said)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("face", [page, offline])
def test_a_chinese_reader_meets_no_english_sentence(kind: str, face: Callable[[Telling, Words], str]) -> None:
    said = face(tell(KINDS[kind], retrain_seconds=300.0), words("zh"))
    assert english(said) == [] and re.search("[\u4e00-\u9fff]{4}", said)
    assert english(face(tell(KINDS[kind]), words("en"))), "the search finds English where there is some"
