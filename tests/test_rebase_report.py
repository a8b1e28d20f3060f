"""Sentences that never hide a raw score, and a page that opens offline and stays readable whatever the names are."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from workbench.evidence import Evidence
from workbench.rebase.report import headline, html, sentence
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
from workbench.rebase.verdict import cannot_load, judge
from workbench.records import ItemScore
from workbench.stats import Interval, share_interval

N = 400
HOSTILE = "<script>alert(1)</script>\" onload='x' & <b>"
BREAK = Finding("layers_missing", "break", "There is no layer 30.")


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


@pytest.mark.parametrize("word", WORDS)
def test_every_sentence_holds_both_scores_n_and_an_interval(word: str) -> None:
    made = WORDS[word]
    assert made.word == word
    text = sentence(check(made))
    for share in ("home_adapter", "new", "new_adapter"):
        if (word, share) != ("not needed", "new_adapter"):
            assert f"{100 * made.arms[share]['exact_match']:.1f} %" in text, share
    assert "400 test rows" in text and "95 % interval" in text and "codes@1" in text and "small@2" in text
    assert "%" not in re.sub(r"\d+\.\d % of|\d+\.\d %|95 % interval", "", text), "no share of a gain"


def test_sentences_where_parts_are_missing() -> None:
    assert "too close to tell" in sentence(check(WORDS["too close to tell"])) and "would settle it" in sentence(
        check(WORDS["too close to tell"])
    )
    home = Evidence(arm(0, 3.0), arm(400))
    stopped = judge(home, None, scorer="exact", same_tokenizer=True, breaks=[BREAK])
    text = sentence(check(stopped, structure=Structure((BREAK,))))
    assert "cannot be used on small@2: There is no layer 30." in text and "100.0 % with the adapter" in text
    assert "no layer 30" in sentence(check(cannot_load([BREAK]), structure=Structure((BREAK,))))
    assert "no layer 30" in sentence(check(None, structure=Structure((BREAK,))))
    assert "no verdict" in sentence(check(None))
    idle = judge(Evidence(arm(9, 3.0), arm(9, 3.0)), None, scorer="exact", same_tokenizer=True, breaks=[BREAK])
    assert "no gain at home" in sentence(check(idle, structure=Structure((BREAK,)))) and "2.2 %" in idle.because


def test_the_headline_counts_and_says_safe_only_when_all_pass() -> None:
    good, none = check(WORDS["works"]), check(WORDS["not needed"], "b@1")
    assert headline([good, none], "small@2") == "Moving to small@2: 1 of 2 adapters works as it is, 1 is not needed. Safe for all of them."
    mixed = headline([good, check(WORDS["lost"]), check(WORDS["weaker"]), check(None)], "small@2")
    assert mixed == "Moving to small@2: 1 of 4 adapters works as it is, 2 need retraining or stay where they are, 1 was not tested."
    assert "no adapter" in headline([], "small@2")


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
        weights=Weights(
            "continuation", True, None, 0.021, 3.8, 0.03, 0.02, None, 0.01, 0.001, lineage, modules, ("layer 5",), "amber", "moved"
        ),
        probes=Probes(64, {"0": 1.0}, 0.9, None, None, 0.7, None, 0.6, {"0": 2.0, "1": 1.0}, 1.0),
        witnesses=(Witness("r7", f"q {name}", f"e {name}", f"h {name}", None, 0.1, 2.0), Witness("r8", "q", "e", "e", "", 0.1, 1.0)),
        health=Health(20, 1.1, 1.4, Interval(-0.3, -0.4, -0.2, "bootstrap"), True),
        retrained=Retrained(0.99, "exact_match", 0.52, 0.4, 0.6, Interval(0.47, 0.4, 0.5, "bootstrap"), 60.0),
        how={"dtype": "float32", "stages": {"structure": 0.01}, "note": name},
        warnings=(f"careful {name}",),
    )


@pytest.mark.parametrize("many", [False, True])
def test_the_page_is_whole_accessible_and_needs_nothing(many: bool) -> None:
    text = html([full(), check(WORDS["works"], "b@1"), check(None, "c@1"), check(cannot_load([BREAK]), "d@1")] if many else full())
    page = Page(text)
    assert page.named("html") == [{"lang": "en"}] and len(page.named("h1")) == len(page.named("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), "no heading level is skipped"
    assert len(page.named("caption")) == len(page.named("table")) > 4
    assert all(attrs == {"scope": "col"} for attrs in page.named("th"))
    assert all("aria-hidden" in attrs or attrs.get("aria-label") for attrs in page.named("svg")) and len(page.named("svg")) >= 5
    assert not page.named("script") and not page.named("img") and not page.named("link")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and all((attrs["href"] or "").removeprefix("#") in ids for attrs in page.named("a"))
    assert "prefers-color-scheme: dark" in text and "default-src 'none'" in text and "http:" not in text and "https:" not in text
    if many:
        order = [m for m in re.findall(r"<h2>(\S+) on", text)]
        assert order == ["d@1", "codes@1", "b@1", "c@1"], "worst first, untested last"


def test_the_page_shows_every_number_that_the_verdict_rests_on() -> None:
    text = html(full())
    for part in (
        "small@2 with codes@1", "52.0 %", "47.0 to 57.0 %", "n = 400 test rows", "Of 400 test rows, 192 were right",
        "eos_id_moved", "layer 5", "not written down", "(nothing)", "not the adapter", "Recovered lift R = 0.52",
        "1,000 resamples", "careful x", "float32",
    ):  # fmt: skip
        assert part in text, part


def test_names_of_people_and_answers_of_models_stay_text() -> None:
    text = html([full(HOSTILE, HOSTILE), full("b@1", HOSTILE)])
    assert "<script" not in text and "<b>" not in text
    for _, attrs in Page(text).tags:
        assert not any(key.startswith("on") for key in attrs)
    assert text.count("&lt;script&gt;alert(1)") >= 8


def test_groups_widen_the_bars_too() -> None:
    plain = html(check(WORDS["weaker"]))
    grouped = html(check(dataclasses.replace(WORDS["weaker"], groups=40)))
    assert "47.0 to 57.0 %" in plain and "47.0 to 57.0 %" not in grouped
    low, high = share_interval(0.52 * 40, 40)
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in grouped and high - low > 0.3
