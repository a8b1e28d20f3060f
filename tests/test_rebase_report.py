"""Sentences that never hide a raw score, and a page that opens offline and stays readable whatever the names are."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from workbench.evidence import Evidence
from workbench.rebase.findings import found
from workbench.rebase.release import moving, safety
from workbench.rebase.report import html
from workbench.rebase.result import (
    Check,
    Finding,
    Health,
    Lineage,
    ModuleDrift,
    Probes,
    Retrained,
    Settings,
    Structure,
    Verdict,
    Weights,
    Witness,
)  # fmt: skip
from workbench.rebase.telling import figures, says, tell
from workbench.rebase.verdict import cannot_load, judge
from workbench.rebase.verdicts import STATES, state
from workbench.records import ItemScore
from workbench.stats import Interval, share_interval
from workbench.words import words

N = 400
HOSTILE = "<script>alert(1)</script>\" onload='x' & <b>"
BREAK = Finding("layers_missing", "break", "There is no layer 30.")  # as a check of an earlier version has it
EN = words("en")


def arm(right: int, loss: float = 1.0) -> list[ItemScore]:
    return [ItemScore(f"r{i}", loss * 4, 4, 10, i < right) for i in range(N)]


def verdict(home: int, tuned: int, new: int, copied: int, **more: float) -> Verdict:
    arms = Evidence(arm(home, 3.0), arm(tuned, 1.0)), Evidence(arm(new, 3.0), arm(copied, 1.0))
    return judge(*arms, scorer="exact", same_tokenizer=True, settings=Settings(resamples=1000, **more))


def check(made: Verdict | None, adapter: str = "codes@1", **more: object) -> Check:
    values: dict = {"structure": Structure(()), "verdict": made, **more}
    return Check(adapter, "e" * 64, "small@1", "a" * 64, "small@2", "b" * 64, "orders", **values)


WORDS = {
    "works": verdict(0, 400, 0, 400),
    "not needed": verdict(0, 380, 400, 400),
    "too close to tell": verdict(0, 400, 0, 393),
    "weaker": verdict(0, 400, 0, 208),
    "lost": verdict(0, 400, 40, 40),
    "does harm": verdict(0, 400, 200, 100),
}


def sentence(check: Check) -> str:
    """The headline and the figures: what stands on top of every face."""
    telling = tell(check)
    return f"{EN.say(telling.headline)} {EN.say(telling.figures)}"


@pytest.mark.parametrize("word", WORDS)
def test_every_sentence_holds_all_scores_n_and_an_interval(word: str) -> None:
    made = WORDS[word]
    assert made.word == word
    text = sentence(check(made))
    for arm_name in ("home", "home_adapter", "new", "new_adapter"):
        share = f"{100 * made.arms[arm_name]['exact_match']:.1f}".removesuffix(".0")
        assert f"{share}%" in text, arm_name
    assert "400 test questions" in text and "95% interval" in text and "codes@1" in text and "small@2" in text


def test_sentences_where_parts_are_missing() -> None:
    assert "the test cannot tell. About " in sentence(check(WORDS["too close to tell"]))
    home = Evidence(arm(0, 3.0), arm(400))
    stopped = cannot_load([BREAK], home)
    text = sentence(check(stopped, structure=Structure((BREAK,))))
    assert "cannot be used on small@2." in text and "There is no layer 30." in text and "100% with the adapter, 0% without" in text
    assert "no layer 30" in sentence(check(cannot_load([BREAK]), structure=Structure((BREAK,))))
    assert "no layer 30" in sentence(check(None, structure=Structure((BREAK,))))
    assert "Only a test can tell." in sentence(check(None))
    idle = cannot_load([BREAK], Evidence(arm(9, 3.0), arm(9, 3.0)))
    assert "nothing to carry over" in sentence(check(idle, structure=Structure((BREAK,)))) and "2.2%" in idle.because


def test_one_word_with_two_meanings_says_which() -> None:
    assert WORDS["weaker"].contrasts["exact_match"].transfer.above_zero and "still helps" in sentence(check(WORDS["weaker"]))
    drained = dataclasses.replace(WORDS["weaker"], contrasts={"exact_match": WORDS["lost"].contrasts["exact_match"]})
    assert "serves worse" in EN.say(says(STATES["weaker"], "a@1", "b@2", "b@1", check=check(drained)))
    absorbed = dataclasses.replace(WORDS["works"], absorbed=True)
    assert "already knew part of it" in sentence(check(absorbed))


def test_the_headline_counts_and_says_safe_only_when_all_pass() -> None:
    def headline(*checks: Check) -> str:
        return EN.say(moving([state(one.word) for one in checks], "small@2"))

    good, none, bad = check(WORDS["works"]), check(WORDS["not needed"], "b@1"), check(WORDS["lost"], "c@1")
    assert headline(good, none) == "Moving to small@2: 1 of 2 adapters works as it is, 1 is no longer needed."
    assert headline(good, bad, check(WORDS["weaker"]), check(None)) == (
        "Moving to small@2: 1 of 4 adapters works as it is, 2 need retraining, 1 was not tested there."
    )
    safe = safety([good, none], "small@2")
    assert safe is not None and EN.say(safe) == "small@2 is safe for all 2 adapters: each one passed on its own."
    assert safety([good, None], "small@2") is None and safety([good, check(None)], "small@2") is None, (
        "one that was not tested does not pass"
    )
    broken = safety([good, bad, None], "small@2")
    assert broken is not None and EN.say(broken) == "small@2 breaks c@1 (false discovery rate 5%, over 2 checked)."


def test_a_check_of_an_earlier_version_is_told_with_the_words_it_kept() -> None:
    """Schema 1: sentences in place of names, letters in place of contrasts, and a colour."""
    now = check(WORDS["weaker"], warnings=(found("rows_left_out", rows=3),), weights=Weights("continuation", True, drift=0.02)).as_dict()
    old = {**now, "schema": 1, "warnings": ["Three rows were left out."], "weights": {**now["weights"], "band": "red", "sentence": "moved"}}
    letters = {"gain": "x", "transfer": "y", "served": "u", "alone": "w", "kept": "kept"}
    contrasts = {m: {letters[k]: v for k, v in c.items()} for m, c in now["verdict"]["contrasts"].items()}
    old["verdict"] = {k: v for k, v in now["verdict"].items() if k not in ("line", "home_gain")} | {
        "contrasts": contrasts,
        "because": "So.",
    }
    old["structure"] = {"findings": [{"name": "eos_id_moved", "level": "risk", "text": "It moved.", "details": {}}]}
    page = html([Check.from_dict(old)])
    assert "Three rows were left out." in page and "So." in page and "It moved." in page
    assert EN.say(figures(Check.from_dict(old))) == EN.say(figures(check(WORDS["weaker"])))


class Page(HTMLParser):
    """Collects what the accessibility rules are about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("rect", "path"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def full(adapter: str = "codes@1", name: str = "x") -> Check:
    modules = tuple(ModuleDrift(f"m.{k}.{g}", g, k, 0.01 * (k + 1), 2.0, None, None, None) for k in range(6) for g in ("attention", "mlp"))
    lineage = Lineage(0.99, 1.0, 1.0, 1.0, (0,), "same", 1e-9)
    return check(
        WORDS["weaker"],
        adapter,
        structure=Structure((Finding("eos_id_moved", "risk", f"was 2, is 7 {name}"),), template_diff=f"-{name}\n+b"),
        weights=Weights("continuation", True, None, 0.021, 3.8, 0.03, 0.02, None, 0.01, 0.001, lineage, modules, ("layer 5",)),
        probes=Probes(64, {"0": 1.0}, 0.9, None, None, 0.7, None, 0.6, {"0": 2.0, "1": 1.0}, 1.0),
        witnesses=(Witness("r7", f"q {name}", f"e {name}", f"h {name}", None, 0.1, 2.0), Witness("r8", "q", "e", "e", "", 0.1, 1.0)),
        health=Health(20, 1.1, 1.4, Interval(-0.3, -0.4, -0.2, "bootstrap"), True),
        retrained=Retrained(0.99, "exact_match", 0.52, 0.4, 0.6, Interval(0.47, 0.4, 0.5, "bootstrap"), 60.0),
        how={"dtype": "float32", "stages": {"structure": 0.01}, "note": name},
        warnings=(found("home_is_gone", home=f"careful {name}"),),
    )


@pytest.mark.parametrize("many", [False, True])
def test_the_page_is_whole_accessible_and_needs_nothing(many: bool) -> None:
    text = html([full(), check(WORDS["works"], "b@1"), check(None, "c@1"), check(cannot_load([BREAK]), "d@1")] if many else [full()])
    page = Page(text)
    assert page.named("html") == [{"lang": "en"}] and len(page.named("h1")) == len(page.named("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), "no heading level is skipped"
    assert len(page.named("table")) > 2 and all(attrs.get("scope") in {"col", "row"} for attrs in page.named("th"))
    named = [attrs for _, attrs in page.tags if attrs.get("role") == "region"]
    assert len(named) >= len(page.named("table")) and all(attrs.get("aria-label") and attrs.get("tabindex") == "0" for attrs in named)
    assert all("aria-hidden" in attrs or attrs.get("aria-label") for attrs in page.named("svg")) and len(page.named("svg")) >= 5
    assert not page.named("script") and not page.named("img") and not page.named("link")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and all((attrs["href"] or "").removeprefix("#") in ids for attrs in page.named("a"))
    assert "prefers-color-scheme: dark" in text and "default-src 'none'" in text and "http:" not in text and "https:" not in text
    if many:
        order = [m for m in re.findall(r"<h2>(\S+) on", text)]
        assert order == ["d@1", "codes@1", "c@1", "b@1"], "worst first"


def test_the_page_shows_every_number_that_the_verdict_rests_on() -> None:
    text = re.sub(r"<[^>]*>", "", html([full()]))
    for part in (
        "small@2 with the adapter", "52%", "47% to 57%", "400 test questions", "192 questions were right before and are wrong now",
        "eos_id_moved", "layer 5", "(not recorded)", "(nothing)", "not the adapter", "recovers R = 0.52",
        "1,000 resamples", "careful x", "float32",
    ):  # fmt: skip
        assert part in text, part


def test_names_of_people_and_answers_of_models_stay_text() -> None:
    text = html([full(HOSTILE, HOSTILE), full("b@1", HOSTILE)])
    assert "<script" not in text and "<b>" not in text
    for _, attrs in Page(text).tags:
        assert not any(key.startswith("on") for key in attrs)
    assert text.count("&lt;script&gt;alert(1)") >= 8


def test_what_is_out_of_date_says_so_in_the_report_too() -> None:
    one = check(WORDS["works"])
    assert "Out of date" not in html([one]) and "Out of date" in html([one], stale=[one])


def test_groups_widen_the_bars_too() -> None:
    plain = html([check(WORDS["weaker"])])
    grouped = html([check(dataclasses.replace(WORDS["weaker"], groups=40))])
    assert "47% to 57%" in plain and "47% to 57%" not in grouped
    low, high = (f"{100 * end:.3g}%" for end in share_interval(0.52 * 40, 40))
    assert f"{low} to {high}" in grouped
