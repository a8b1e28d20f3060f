"""What the rebase pages say and draw, from records alone: no browser, no Gradio, no engine."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.ui import checks
from tests.ui.checks import ARMS, HOME, NEW, check
from tests.ui.samples import EVIL, adapter, base, dataset, job
from tests.ui.test_views import parse, text
from workbench.ancestry import bases_in_order, retrained_from
from workbench.blocks import Section
from workbench.rebase import moved, report
from workbench.rebase.findings import described
from workbench.rebase.release import Cell, moving
from workbench.rebase.result import Check, Finding, Structure
from workbench.rebase.telling import figures, tell
from workbench.rebase.verdict import share_interval
from workbench.rebase.verdicts import STATES, VERDICTS
from workbench.records import BaseRef, JobState, Progress
from workbench.stats import Interval
from workbench.words import words
from workbench.worth import difference, score
from workbench_ui.views import lineage, prose, rebase

EN, ZH = words("en"), words("zh")


def cell(word: str, **changed: object) -> Cell:
    name = word.replace(" ", "-")
    return Cell(adapter(name), NEW, check(word, f"{name}@1"), **changed)  # type: ignore[arg-type]


def rows(markup: str) -> list[str]:
    return [" ".join(" ".join(item.itertext()).split()) for item in parse(markup).iter("li") if "wb-verdict" in item.get("class", "")]


def test_views_load_without_gradio_torch_or_numpy() -> None:
    modules = "rebase, lineage, prose"
    code = f"import sys; from workbench_ui.views import {modules}; print([m for m in ('gradio', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---------------------------------------------------------------- the answer


@pytest.mark.parametrize("t", [EN, ZH], ids=["en", "zh"])
@pytest.mark.parametrize("word", VERDICTS)
def test_every_verdict_has_a_word_a_sentence_and_both_raw_scores_with_n_and_interval(word: str, t: object) -> None:
    said = text(rebase.row(cell(word), t))  # type: ignore[arg-type]
    assert t(f"rebase.word.{STATES[word].key}") in said and word.replace(" ", "-") in said  # type: ignore[operator]
    if word == "cannot load":
        assert "eos_token" in said and "2" in said and "7" in said
        return
    home, home_adapter, new, new_adapter = (f"{round(100 * share)}%" for share in ARMS[word])
    assert all(score in said for score in (home, home_adapter, new, new_adapter)) and "200" in said and "95%" in said


def test_no_verdict_is_told_by_colour_alone() -> None:
    looks = {(STATES[word].mark, EN(f"rebase.word.{STATES[word].key}")) for word in VERDICTS}
    assert len({mark for mark, _ in looks}) == len({said for _, said in looks}) == len(VERDICTS) == 8


def test_the_worst_news_comes_first_and_the_headline_counts_everybody() -> None:
    cells = [cell(word) for word in VERDICTS] + [Cell(adapter("fresh"), NEW), Cell(adapter("foreign", scores={}), NEW)]
    markup = rebase.answer(cells, NEW, EN, at_home=2)
    order = [row.split()[1] for row in rows(markup)]  # after the mark
    assert order == ["Cannot", "Does", "Lost", "Weaker", "Not", "Never", "Too", "No", "Not", "Works"]
    told = text(markup)
    assert "Moving to tiny@2 : 1 of 10 adapters works as it is, 4 need retraining, 1 is no longer needed" in told
    assert (
        "1 was never tested, 1 has not been checked." in told
        and "tiny@2 breaks cannot-load@1" in told
        and "2 adapters were made for tiny@2" in told
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["works", "works"], "all 2 adapters work as they are."),
        (["works"], "1 adapter, and it works as it is."),
        (["lost"], "0 of 1 adapter works as it is, 1 needs retraining."),
        (["lost", "weaker"], "0 of 2 adapters work as they are, 2 need retraining."),
        (["works", "works", "not needed"], "2 of 3 adapters work as they are, 1 is no longer needed."),
    ],
)
def test_headlines(given: list[str], said: str) -> None:
    assert EN.say(moving([STATES[word] for word in given], NEW)) == f"Moving to tiny@2: {said}"


def test_retraining_times_are_added_only_when_all_are_known() -> None:
    known = [cell("lost", retrain_seconds=600.0), cell("weaker", retrain_seconds=300.0)]
    assert "2 need retraining (about 15 min in all)" in text(rebase.answer(known, NEW, EN))
    assert "in all" not in text(rebase.answer([*known, cell("does harm")], NEW, EN))


def test_all_unchecked_ones_are_offered_in_one_job_with_its_time() -> None:
    fresh = [Cell(adapter(name), NEW) for name in ("a", "b", "c")]
    buttons = [b for b in parse(rebase.answer(fresh, NEW, EN, seconds=400)).iter("button") if b.get("data-adapter") == ""]
    assert [b.text for b in buttons] == ["Check all 3 that are not checked (about 7 min)"]
    assert "Check all" not in rebase.answer(fresh[:1], NEW, EN, seconds=400), "one has its own button"


def test_a_broken_adapter_is_retrained_with_its_own_settings_on_the_new_base() -> None:
    assert "/en/train?job=job1&amp;base=tiny%402" in rebase.row(cell("lost"), EN)
    imported = dataclasses.replace(cell("lost"), adapter=adapter("lost", job_id=None))
    assert "/en/train?base=tiny%402&amp;name=lost&amp;dataset=order-codes" in rebase.row(imported, EN)
    for fine in ("works", "not needed", "no gain at home", "too close to tell"):
        assert "/en/train" not in rebase.row(cell(fine), EN)


def test_an_adapter_without_evidence_is_offered_a_test_and_no_check() -> None:
    bare = Cell(adapter("imported", scores={}, dataset=None), NEW)
    tree = parse(rebase.row(bare, EN, datasets=[dataset(), dataset(name="mine", test_rows=30)]))
    assert [o.get("value") for o in tree.iter("option")] == ["mine", "order-codes"]
    assert [b.get("data-do") for b in tree.iter("button")] == ["evaluate"]
    assert "no test results" in text(rebase.row(bare, EN))


def test_what_is_out_of_date_says_so_and_no_longer_claims_its_verdict() -> None:
    old = cell("works", stale=True)
    said = text(rebase.row(old, EN))
    assert "Out of date" in said and "It said: Works" in said and "79%" not in said and "Check again" in said
    assert "0 of 1 adapter works as it is, 1 is out of date" in text(rebase.answer([old], NEW, EN))
    assert "→" not in rebase.matrix([old], EN)


def test_a_running_check_shows_its_progress_and_offers_no_second_one() -> None:
    progress = Progress(1.0, "behaviour", step=30, total_steps=120)
    busy = Cell(adapter("orders"), NEW, job=job(kind="rebase", progress=progress))
    markup = rebase.row(busy, EN)
    assert 'aria-valuenow="25"' in markup and "Answering the test questions" in text(markup)
    assert "data-do" not in markup and "/en/jobs?job=job1" in markup


def test_a_failed_check_says_why() -> None:
    wrong = Cell(adapter("orders"), NEW, failed=job(JobState.failed, kind="rebase", error="The disk is full.\nhint"))
    said = text(rebase.row(wrong, EN))
    assert "ended with an error: The disk is full." in said and "Check now" in said


def test_a_check_without_the_test_claims_nothing() -> None:
    looked = Cell(adapter(), NEW, check("works", verdict=None, structure=Structure(checks.FINDINGS[1:])))
    assert looked.state.name == "looked" and "Only a test can tell" in text(rebase.row(looked, EN))
    assert "Answers that match" not in rebase.detail(looked, EN)
    forbidden = dataclasses.replace(looked, check=check("works", verdict=None, structure=Structure(checks.FINDINGS)))
    assert forbidden.state.name == "cannot load"


def test_absorbed_and_rows_needed_are_said() -> None:
    absorbed = dataclasses.replace(cell("works"), check=check("works", verdict=checks.verdict("works", absorbed=True)))
    assert "already knew part of it" in text(rebase.row(absorbed, EN))
    assert "About 610 would settle it." in text(rebase.row(cell("too close to tell"), EN))
    grouped = check("works", verdict=checks.verdict("works", groups=17))
    assert "200 test questions in 17 groups" in EN.say(figures(grouped))


@pytest.mark.parametrize("metric", ["nll_per_token", "bits_per_byte"])
def test_errors_are_shown_as_errors(metric: str) -> None:
    arms = {name: {metric: value} for name, value in zip(("home", "home_adapter", "new", "new_adapter"), (2.1, 0.9, 2.0, 1.4), strict=True)}
    free = check("weaker", verdict=checks.verdict("weaker", metric=metric, arms=arms, contrasts={metric: checks.contrasts((1, 2, 1, 1.5))}))
    said = EN.say(figures(free))
    assert "1.400" in said and "2.000" in said and "lower is better" in said and "%" not in said.replace("95%", "")


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval(0.26, 0.21, 0.31, "bootstrap"), "+26 points (95% interval +21 to +31)"),
        (Interval(-0.005, -0.02, 0.0, "exact"), "−0.5 points (95% interval −2 to 0)"),
        (Interval(0.1, None, None, "none"), "+10 points (one row gives no interval)"),
    ],
)
def test_differences_carry_sign_and_interval(interval: Interval, said: str) -> None:
    assert EN.say(difference("exact_match", interval)) == said


def test_a_number_that_is_none_is_a_dash() -> None:
    broken = dataclasses.replace(checks.verdict("lost").contrasts["exact_match"].transfer, value=None)
    assert EN.say(difference("exact_match", broken)).startswith("– points")  # type: ignore[arg-type]
    assert EN.say(score("right", float("nan"))) == "–"


# ---------------------------------------------------------------- one cell in full


@pytest.mark.parametrize("t", [EN, ZH], ids=["en", "zh"])
@pytest.mark.parametrize("word", VERDICTS)
def test_the_detail_is_whole_in_both_languages(word: str, t: object) -> None:
    parse(rebase.detail(cell(word), t))  # type: ignore[arg-type]


def test_the_detail_shows_bars_differences_witnesses_weights_findings_and_certainty() -> None:
    full = check("lost", probes=checks.PROBES, retrained=checks.RETRAINED)
    markup = rebase.detail(Cell(adapter("lost"), NEW, full), EN)
    said, tree = text(markup), parse(markup)
    assert [b.get("class") for b in tree.iter("div") if (b.get("class") or "").startswith("bar ")][:4] == [
        "bar base", "bar adapter", "bar base", "bar adapter",
    ]  # fmt: skip
    for part in (
        "What it gives on tiny@2 +1 points (95% interval −4 to +6)",
        "53 questions were right before and are wrong now, 4 the other way round. Lost: 21% to 33% of all questions",
        "2 lamps CA", "(not recorded)", "(nothing)",
        "The same model, trained further: the weights under the adapter moved by 2.1%", "3.80 times the adapter's own size",
        "chat_template_changed", described("chat_template_changed")["explanation"],
        "0.962", "α=0.5: 1.200", "The base is sound", "scores 82%", "recovers R = 0.03", "at most a tenth of its gain",
    ):  # fmt: skip
        assert part in said, part
    assert "/files/rebase/check.html?adapter=orders%401&amp;base=tiny%402" in markup and "check.json?" in markup
    assert len(list(tree.iter("th"))) and all(th.get("scope") for th in tree.iter("th"))


def test_the_cannot_load_detail_has_reasons_and_no_scores() -> None:
    said = text(rebase.detail(cell("cannot load"), EN))
    assert "Forbids it" in said and described("eos_id_moved")["title"] in said and "Answers that match" not in said


def test_a_break_with_evidence_at_home_shows_what_was_at_stake() -> None:
    arms = {"home": {"exact_match": 0.3}, "home_adapter": {"exact_match": 0.8}}
    judged = checks.verdict("cannot load", arms=arms, metric="exact_match", n=200, home_gain=checks.interval(0.5))
    said = EN.say(figures(check("cannot load", verdict=judged)))
    assert "80% with the adapter, 30% without, on 200 test questions" in said
    parse(rebase.detail(Cell(adapter(), NEW, check("cannot load", verdict=judged)), EN))


@pytest.mark.parametrize(("share", "n", "low", "high"), [(0.0, 20, 0.0, 0.168), (1.0, 20, 0.832, 1.0), (0.5, 100, 0.398, 0.602)])
def test_a_score_by_itself_has_an_interval_of_some_width(share: float, n: int, low: float, high: float) -> None:
    judged = checks.verdict("works", n=n)
    assert share_interval(share, judged) == pytest.approx((low, high), abs=1e-3)
    assert share_interval(share, dataclasses.replace(judged, n=7 * n, groups=n)) == share_interval(share, judged), "groups are the units"


def test_drift_of_many_modules_is_pooled_over_their_entries() -> None:
    first, second = checks.weights(layers=1).modules
    alike = [dataclasses.replace(first, drift=0.03), dataclasses.replace(second, drift=0.04)]
    assert moved.pooled(alike) == pytest.approx((0.5 * (0.03**2 + 0.04**2)) ** 0.5), "earlier checks kept no weights"
    sized = [dataclasses.replace(m, weight=size) for m, size in zip(alike, (3.0, 1.0), strict=True)]
    assert moved.pooled(sized) == pytest.approx(((0.09**2 + 0.04**2) / 10) ** 0.5)


def drawn(section: Section) -> str:
    """One section as it stands on the page."""
    telling = dataclasses.replace(tell(check("lost")), sections=(section,))
    return f"<div>{report.sections(telling, EN)}</div>"


def test_the_strip_is_darkest_where_the_weights_moved_most_and_is_told_in_numbers_too() -> None:
    tree = parse(drawn(moved.moved(checks.weights(layers=12))))
    shades = [rect.get("class") for rect in tree.iter("rect")]
    assert len(shades) == 24 and shades[-1] == "s5" and shades[0] in {"s0", "s1"}
    assert "s5" not in shades[:20]
    assert " ".join("11 2.3% 4%".split()) in [" ".join(" ".join(tr.itertext()).split()) for tr in tree.iter("tr")]


@pytest.mark.parametrize("changed", [{"modules": ()}, {"drift": None, "modules": (), "change": "unknown"}, {"exact": False, "error": 0.08}])
def test_weights_that_say_less_are_shown_as_less(changed: dict[str, object]) -> None:
    said = text(drawn(moved.moved(checks.weights(**changed))))
    assert ("estimated" in said) == (changed.get("exact") is False) and ("moved by" in said) == (changed.get("drift", 1) is not None)


# ---------------------------------------------------------------- matrix and lineage

BASES = [base(ref=BaseRef("tiny", "1")), base(ref=BaseRef("tiny", "2"), continues=BaseRef("tiny", "1")), base(ref=BaseRef("aged", "9"))]


def test_the_matrix_is_a_table_whose_cells_are_links_that_say_everything() -> None:
    here, gone = adapter("orders"), adapter("foreign", scores={})
    cells = [Cell(here, HOME), Cell(here, NEW, check("lost")), Cell(gone, HOME), Cell(gone, NEW)]
    tree = parse(rebase.matrix(cells, EN, chosen=NEW))
    heads = [(th.get("scope"), "".join(th.itertext()).strip()) for th in tree.iter("th")]
    assert heads == [("col", "Adapter"), ("col", HOME), ("col", NEW), ("row", "orders v1"), ("row", "foreign v1")]
    labels = [a.get("aria-label") for a in tree.iter("a")]
    assert labels == [
        "orders@1 on tiny@1: Home, 80%",
        "orders@1 on tiny@2: Lost, 80% → 56%",
        "foreign@1 on tiny@1: Home",
        "foreign@1 on tiny@2: Never tested",
    ]
    links = [a.get("href") for a in tree.iter("a")]
    assert links[0] == "/en/adapters?adapter=orders%401" and links[1] == "/en/rebase?base=tiny%402&adapter=orders%401"


def test_a_base_comes_after_the_one_it_continues_even_in_a_ring() -> None:
    late = base(ref=BaseRef("alpha", "1"), continues=BaseRef("zeta", "1"))
    first = base(ref=BaseRef("zeta", "1"))
    assert [str(b.ref) for b in bases_in_order([late, first])] == ["zeta@1", "alpha@1"]
    ring = [dataclasses.replace(first, continues=late.ref), late]
    assert len(bases_in_order(ring)) == 2
    assert [str(b.ref) for b in bases_in_order([base(ref=BaseRef("t", v)) for v in ("10", "9")])] == ["t@9", "t@10"]


def test_retrained_versions_are_linked_by_parents_and_by_name() -> None:
    moved = adapter("orders", 2, base=BaseRef("tiny", "2"))
    mixed = adapter("mixed", parents=("orders@1", "orders@2", "lost@7"))
    again = adapter("orders", 3, base=BaseRef("tiny", "2"))
    pairs = retrained_from([adapter("orders"), moved, mixed, again])
    assert pairs == [("orders@1", "orders@2"), ("orders@1", "mixed@1"), ("orders@2", "mixed@1")], "the same base again is no move"


def test_the_picture_has_bases_left_to_right_adapters_below_and_a_text() -> None:
    adapters = [adapter("orders"), adapter("orders", 2, base=BaseRef("tiny", "2")), adapter("stray", base=BaseRef("gone", "1"))]
    tree = parse(lineage.lineage(BASES, adapters, EN, chosen=NEW))
    svg = tree.find(".//svg")
    assert svg is not None and svg.get("role") == "group"
    assert [svg.find(name).get("id") for name in ("title", "desc")] == svg.get("aria-labelledby", "").split()  # type: ignore[union-attr]
    at = {node.findtext("title") or "": node.find("rect") for node in svg if node.find("rect") is not None}
    x = {name: int(rect.get("x", "0")) for name, rect in at.items()}  # type: ignore[union-attr]
    y = {name: int(rect.get("y", "0")) for name, rect in at.items()}  # type: ignore[union-attr]
    assert x["aged@9"] < x["tiny@1"] < x["tiny@2"] < x["gone@1"] and y["stray"] > y["gone@1"]
    assert len(svg.findall("path[@class='grows']")) == 1 and len(svg.findall("path[@class='again']")) == 1
    said = text(lineage.lineage(BASES, adapters, EN))
    assert "tiny@2 (continues tiny@1) : orders@2 (retrained from orders@1)" in said and "no longer here" in said
    assert "4 base models from left to right, 3 adapters below" in said


# ---------------------------------------------------------------- choosing, bad states, safety


def test_the_question_is_native_radio_buttons() -> None:
    tree = parse(rebase.picker(BASES, NEW, EN))
    assert [(i.get("value"), i.get("checked")) for i in tree.iter("input")] == [(HOME, None), (NEW, "checked"), ("aged@9", None)]
    assert tree.find(".//fieldset/legend") is not None and rebase.picker([], "", EN) == ""


def test_bad_states_say_what_to_do() -> None:
    assert "/en/train" in rebase.no_bases(EN) and "only base model" in text(rebase.one_base(BASES[0], EN))
    assert "Train an adapter first" in text(rebase.answer([], NEW, EN))
    assert "1 adapter was made for tiny@2" in text(rebase.answer([], NEW, EN, at_home=1))
    assert "Check now" in text(rebase.detail(Cell(adapter(), NEW), EN))


def test_the_check_of_an_adapter_that_is_gone_is_told_without_buttons_that_need_it() -> None:
    markup = rebase.gone(check("works", "orders@7"), EN)
    assert "orders@7 is no longer here" in text(markup) and "It said: Works" in text(markup)
    assert "data-do" not in markup and "check.json?adapter=orders%407" in markup


def evil(word: str) -> Check:
    told = checks.verdict(word, because=EVIL, line="")
    found = Structure((Finding(EVIL, "risk", EVIL),), template_diff=EVIL)
    witnesses = tuple(dataclasses.replace(w, prompt=EVIL, expected=EVIL, home=EVIL, new=EVIL) for w in checks.WITNESSES)
    weights = checks.weights(worst=(EVIL,))
    return check(
        word,
        verdict=told,
        structure=found,
        witnesses=witnesses,
        weights=weights,
        warnings=(Finding(EVIL, "risk", EVIL),),
        dataset=EVIL,
        job_id=EVIL,
    )


def test_what_anybody_named_stays_text(docs: Path) -> None:
    named = adapter(EVIL, dataset=EVIL, job_id=EVIL)
    one = Cell(named, NEW, evil("lost"))
    failed = Cell(named, NEW, failed=job(JobState.failed, id=EVIL, error=EVIL))
    parts = [
        rebase.answer([one, failed, Cell(adapter(EVIL, scores={}), EVIL)], EVIL, EN, datasets=[dataset(name=EVIL)]),
        rebase.detail(one, EN),
        rebase.matrix([one], EN),
        lineage.lineage(BASES, [named], EN, chosen=EVIL),
        prose.picture(docs / "images" / "a.svg", EVIL),
    ]
    for markup in parts:
        assert "alert(1)" in markup
        assert [e.tag for e in parse(markup).iter() if e.tag in {"img", "script"} or any(name.startswith("on") for name in e.keys())] == []


# ---------------------------------------------------------------- a text of the docs

_INNER = '<title id="t">T</title><use href="#t" fill="#abc"/>'
SVG = f'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" aria-labelledby="t">{_INNER}</svg>'


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.svg").write_text(SVG, encoding="utf-8")
    body = (
        "# Why\n\nSee [json](json.md) and [paper](https://example.org/x).\n\n![First](images/a.svg)\n\n## More\n\n![Second](images/a.svg)\n"
    )
    (tmp_path / "fork.md").write_text(body, encoding="utf-8")
    return tmp_path


def test_a_text_is_split_at_its_pictures(docs: Path) -> None:
    found = prose.read_text("fork", docs)
    assert [kind for kind, _ in found] == ["text", "picture", "text", "picture"]
    assert found[0][1] == "See json and [paper](https://example.org/x)."


@pytest.mark.parametrize(
    "piece", ["[", "![", "![\n", "[a](", "![a](images/", "\n![a", "[[]", "](", "[a]([", " on", ' id="', "<!--", "\x1b[31m"]
)
def test_reading_a_text_takes_time_in_proportion_to_it(tmp_path: Path, piece: str) -> None:
    def seconds(n: int) -> float:
        (tmp_path / "fork.md").write_text("# T\n" + piece * n, encoding="utf-8")
        (tmp_path / "a.svg").write_text("<svg>" + piece * n, encoding="utf-8")
        began = time.perf_counter()
        prose.read_text("fork", tmp_path)
        prose.picture(tmp_path / "a.svg", "")
        return time.perf_counter() - began

    assert seconds(100_000) < 2.0


def test_pictures_are_inline_with_names_of_their_own(docs: Path) -> None:
    inline = prose.picture(docs / "images" / "a.svg", "First")
    assert (
        'aria-labelledby="a-t"' in inline
        and 'id="a-t"' in inline
        and 'href="#a-t"' in inline
        and 'fill="#abc"' in inline
        and "<?xml" not in inline
    )
    ElementTree.fromstring(inline)


def test_the_docs_of_this_repository_are_found_and_their_pictures_may_stand_in_a_page() -> None:
    """What is drawn inline must neither style the page nor run on it."""
    pictures = [file.read_text(encoding="utf-8") for file in (prose.docs_dir() / "images").glob("*.svg")]
    assert pictures and prose.read_text("fork")
    for svg in pictures:
        assert not re.search(r"<(style|script|foreignObject)\b|\son\w+\s*=", svg, re.IGNORECASE)
