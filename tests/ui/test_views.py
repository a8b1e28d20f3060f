"""The pages' words and pictures, made from records without a browser and without Gradio."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from tests.ui.samples import BASE, EVIL, NOW, adapter, base, dataset, job, scores, training
from workbench import Workbench
from workbench.data.checks import KINDS, Finding, Report
from workbench.estimate import Estimate
from workbench.planning import Plan
from workbench.recipe import PRESETS, Recipe, resolve
from workbench.records import JobState, Progress
from workbench.words import Number, words
from workbench_ui.views import adapters, chart, home, jobs, recipe_form, tokens, train
from workbench_ui.views import scores as score_views

EN = words("en")


def parse(markup: str) -> ElementTree.Element:
    """Markup as a tree: raises when a tag is left open or a character was not escaped."""
    closed = re.sub(r"<(br|img|input)([^>]*?)/?>", r"<\1\2/>", markup)
    return ElementTree.fromstring(re.sub(r" (download|autofocus)(?=[ >])", r' \1=""', f"<div>{closed}</div>"))


def text(markup: str) -> str:
    return " ".join(" ".join(parse(markup).itertext()).split())


def test_views_load_without_gradio_or_torch() -> None:
    modules = "home, train, jobs, adapters, scores, chart, tokens, recipe_form"
    code = f"import sys; from workbench_ui.views import {modules}; print([m for m in ('gradio', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---------------------------------------------------------------- numbers and times


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: t.say(Number(0.784, "share")), "78.4%"),
        (lambda t: t.say(Number(0.9996, "share")), "99.9%"),  # never a hundred that is none
        (lambda t: t.say(Number(0.0004, "share")), "0.1%"),  # never a nought that is none
        (lambda t: t.say(Number(1, "share")), "100%"),
        (lambda t: t.bytes(1_100_000_000), "1.1 GB"),
        (lambda t: t.bytes(270_000_000), "270 MB"),
        (lambda t: t.duration(3), "5 s"),
        (lambda t: t.duration(58), "1 min"),
        (lambda t: t.duration(5000), "83 min"),
        (lambda t: t.duration(7500), "2 h 5 min"),
        (lambda t: t.elapsed(185), "3 min 05 s"),
        (lambda t: t.tokens(31_250), "31 thousand"),
        (lambda t: t.ago(NOW - timedelta(seconds=5), NOW), "just now"),
        (lambda t: t.ago(NOW - timedelta(hours=30), NOW), "30 h ago"),
        (lambda t: t.n("data.rows", 1), "1 example"),
        (lambda t: t.n("data.rows", 1204), "1,204 examples"),
    ],
)
def test_figures_in_words(call: object, said: str) -> None:
    assert call(EN) == said  # type: ignore[operator]


# ---------------------------------------------------------------- the curve


def test_downsampling_keeps_both_ends_and_the_mean() -> None:
    points = [(i, float(i % 10)) for i in range(5000)]
    few = chart.downsample(points, 300)
    assert len(few) == 300 and few[0] == points[0] and few[-1] == points[-1]
    assert sum(v for _, v in few) / 300 == pytest.approx(4.5, abs=0.1)
    assert [s for s, _ in few] == sorted({s for s, _ in few})


def test_smoothing_follows_a_constant_exactly_and_calms_noise() -> None:
    assert all(v == pytest.approx(2.0) for _, v in chart.smooth([(i, 2.0) for i in range(100)]))
    noisy = [(i, 2.0 + (-1) ** i) for i in range(300)]
    assert max(abs(v - 2.0) for _, v in chart.smooth(noisy)[10:-10]) < 0.05
    cliff = [(i, 9.0 if i < 100 else 1.0) for i in range(200)]
    assert chart.smooth(cliff)[105] == (105, 1.0), "it does not lag behind a fall"


@pytest.mark.parametrize(("low", "high"), [(0, 2.83), (0.31, 0.34), (5.4, 6.1), (0, 0), (1e-6, 3e-6), (2, 2)])
def test_ticks_are_round_few_and_enclose_the_values(low: float, high: float) -> None:
    ticks = chart.nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    steps = {f"{b - a:.3g}" for a, b in zip(ticks, ticks[1:], strict=False)}
    assert len(steps) == 1 and steps.pop().strip("0.e-+").rstrip("0")[:1] in "125"


def test_the_curve_is_drawn_where_the_numbers_say() -> None:
    markup = chart.loss_chart([(0, 4.0), (50, 2.0), (100, 1.0)], [(50, 2.5), (100, 2.0)], EN)
    tree = parse(markup)
    lines = {line.get("class"): line.get("points", "") for line in tree.iter("polyline")}
    assert lines["raw"] == "0.0,0.0 500.0,200.0 1000.0,300.0"
    assert lines["eval"] == "500.0,150.0 1000.0,200.0"
    assert tree.find(".//div[@class='wb-plot']").get("aria-label", "").startswith("The error went from 4 to ")  # type: ignore[union-attr]
    assert "lowest, 2, at step 100" in markup and markup.count('class="dot') == 2


def test_a_long_run_stays_small_and_a_broken_number_is_left_out() -> None:
    points = [(i, math.nan if i == 7 else 3 - i / 5000) for i in range(5000)]
    assert len(chart.loss_chart(points, [], EN)) < 15_000
    assert "nan" not in chart.loss_chart(points, [(3, math.inf)], EN)
    assert "begins with the first" in chart.loss_chart([], [], EN)


# ---------------------------------------------------------------- jobs


def test_the_test_phase_does_not_touch_the_figures_of_learning() -> None:
    lines = [*training(range(1, 61)), Progress(2000.0, "testing", step=10, total_steps=800, seconds_left=9)]
    run = jobs.series(lines)
    assert run.learned is not None and run.learned.total_steps == 60
    assert run.latest is not None and run.latest.total_steps == 800 and run.latest.loss is None
    live = text(jobs.job_live(job(), run, EN, now=NOW))
    assert "Step 60 of 60" in live and "Answering the questions set aside" in live and "about 9 s left" in live


def test_a_running_job_says_how_far_it_is_and_that_the_page_may_be_closed() -> None:
    run = jobs.series(training(range(1, 31)))
    tree = parse(jobs.job_live(job(), run, EN, now=NOW))
    bar = next(e for e in tree.iter() if e.get("role") == "progressbar")
    assert bar.get("aria-valuenow") == "50"
    said = " ".join(tree.itertext())
    assert "You can close this page." in said and "about 30 s left" in said and "Learning from your examples" in said


def test_no_time_left_is_not_said_while_something_is_left() -> None:
    line = Progress(1.0, "training", step=60, total_steps=60, seconds_left=0.0)
    running = job(progress=line)
    assert "left" not in text(jobs.job_live(running, jobs.series([line]), EN, now=NOW)) + text(jobs.job_list([running], EN, now=NOW))


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_words(state: JobState) -> None:
    shown = job(state, result={"adapter": "orders@1", "scores": scores(2, 160)}, error="Not enough memory at step 1.\nShorten the rows.")
    live = text(jobs.job_live(shown, jobs.Series(), EN, now=NOW))
    assert live and text(jobs.job_list([shown], EN, now=NOW))
    assert ("Not enough memory at step 1. Shorten the rows." in live) == (state in {JobState.failed, JobState.failed_permanently})
    assert ("orders@1 is ready. Right answers rose from 1% to 80% on 200 test questions." in live) == (state is JobState.succeeded)


def test_a_job_shows_its_own_frozen_settings() -> None:
    said = text(jobs.frozen_settings(job(), EN))
    assert "base tiny@1" in said and "bf16 –" in said and "packing false" in said


def test_sample_answers_show_the_first_beside_the_newest() -> None:
    def ask(answer: str, step: int) -> Progress:
        return Progress(1.0, "training", step=step, samples=[{"prompt": "2+2?", "expected": "4", "answer": answer}])

    said = text(jobs.job_samples(jobs.series([ask("five", 10), ask("4", 20)]), EN))
    assert "At the first check five" in said and "Now 4 ✓ right" in said and "at step 20" in said
    assert jobs.job_samples(jobs.series([]), EN) == ""


# ---------------------------------------------------------------- scores and adapters


@pytest.mark.parametrize(
    ("given", "says", "verdict"),
    [
        (scores(2, 160), "Right answers rose from 1% to 80% on 200 test questions.", "better"),
        (scores(160, 2), "Right answers fell from 80% to 1% on 200 test questions: it does harm.", "worse"),
        (scores(100, 101), "Right answers: 50% before, 50.5% after, on 200 test questions. Too close to tell.", "unclear"),
        (
            scores(0, 0, scorer=None),
            "Its error on 200 test questions: 1.037 nats a token before, 1.037 nats a token after. Too close to tell.",
            "unclear",
        ),
    ],
)
def test_a_score_is_a_sentence_with_both_raw_values(given: dict[str, object], says: str, verdict: str) -> None:
    assert score_views.score_sentence(given, EN) == says
    assert f"wb-{ {'better': 'good', 'worse': 'bad', 'unclear': 'warn'}[verdict] }" in score_views.score_bars(given, EN)


def test_the_bars_carry_the_interval() -> None:
    given = scores(2, 160)
    said = text(score_views.score_bars(given, EN))
    low, high = (100 * given["gain"]["right"][end] for end in ("low", "high"))
    assert f"+79 points (95% interval {low:+.1f} to {high:+.1f})".replace(".0 ", " ") in said
    whisker = next(e for e in parse(score_views.score_bars(given, EN)).iter("i"))
    left, width = map(float, re.findall(r"[\d.]+(?=%)", whisker.get("style", "")))
    assert left == pytest.approx(1 + low, abs=0.1) and left + width == pytest.approx(min(100, 1 + high), abs=0.1)


def test_adapters_are_listed_newest_version_first_and_unscored_ones_say_so() -> None:
    listed = [adapter("orders", 2), adapter("orders", 1), adapter("old", created_at=NOW - timedelta(days=9), scores={})]
    tree = parse(adapters.adapter_list(listed, EN, now=NOW))
    assert [a.get("href") for a in tree.iter("a")] == ["/en/adapters?adapter=orders%402", "/en/adapters?adapter=old%401"]
    assert "2 versions" in " ".join(tree.itertext()) and "not tested" in " ".join(tree.itertext())


def test_ten_thousand_adapters_are_leafed_through() -> None:
    many = [adapter(f"team-{i:05}", created_at=NOW - timedelta(minutes=i)) for i in range(10_000)]
    many.insert(0, adapter("team-00000", 2, created_at=NOW))
    first = adapters.adapter_page(many, EN, now=NOW)
    assert len(first) < 60_000
    links = [a.get("href") for a in parse(first).iter("a")]
    assert len(links) == 51 and links[0] == "/en/adapters?adapter=team-00000%402" and links[-1] == "/en/adapters?page=2"
    assert "Page 1 of 200" in text(first) and "2 versions" in text(first)
    last = text(adapters.adapter_page(many, EN, page=999_999, now=NOW))
    assert "Page 200 of 200" in last and "team-09999" in last and "Older" not in last
    found = parse(adapters.adapter_page(many, EN, find=" TEAM-0012 ", now=NOW))
    assert len([a for a in found.iter("a")]) == 10 and "Page" not in " ".join(found.itertext())
    second = adapters.adapter_page(many, EN, find="tiny@1", page=2, now=NOW)
    assert [a.get("href") for a in parse(second).iter("a")][-1] == "/en/adapters?page=3&find=tiny%401", "the base is looked at too"
    nothing = adapters.adapter_page(many, EN, find=EVIL, now=NOW)
    assert [e.tag for e in parse(nothing).iter("img")] == [] and "No adapter has" in text(nothing)
    assert adapters.adapter_page(many[:3], EN, now=NOW) == adapters.adapter_list(many[:3], EN, now=NOW), "few need no search"


def test_a_long_family_names_only_its_newest_versions() -> None:
    family = [adapter("orders", n) for n in range(5000, 0, -1)]
    assert adapters.adapter_facts(family[0], family, EN).count("<a ") == 51


def test_an_adapter_tells_what_it_learned_from_and_links_its_family() -> None:
    shown = adapter("orders", 3, parents=("orders@2",), aliases=("champion",))
    assert adapters.learned(shown, dataset(), EN) == "Learned from 800 examples of order-codes, on tiny@1."
    assert adapters.learned(shown, dataset(sha256="00"), EN) == "Learned from order-codes, on tiny@1."  # other rows by now
    facts = adapters.adapter_facts(shown, [shown, adapter("orders", 1)], EN)
    links = [a.get("href") for a in parse(facts).iter("a")]
    assert links == ["/en/jobs?job=job1", "/en/adapters?adapter=orders%402", "/en/adapters?adapter=orders%401"]
    assert "orders@champion" in text(facts)


def test_the_code_to_load_it_is_python_and_names_both_folders() -> None:
    code = adapters.peft_code(adapter(), base())
    compile(code, "snippet", "exec")
    assert "'/home/bases/tiny/1'" in code and "'/home/adapters/orders/v1'" in code and "workbench" not in code


# ---------------------------------------------------------------- train


def plan(**changed: object) -> Plan:
    found = resolve({"base": "tiny@1", "dataset": "order-codes"}, preset="quick")
    values = {
        "recipe": found.recipe,
        "origin": found.origin,
        "base": base(),
        "dataset": dataset(),
        "publishes": "order-codes (next version)",
        "lengths": {},
        "estimate": Estimate(31_000, 60, 240.0, 1_100_000_000, "measured on this machine by job 4f2a"),
    }
    return Plan(**{**values, **changed})  # type: ignore[arg-type]


def test_the_summary_says_time_memory_and_what_blocks() -> None:
    said = text(train.summary_card(plan(problems=["The dataset has no training rows."], warnings=["3 rows are cut."]), EN))
    for part in ("about 4 min", "about 1.1 GB", "tiny@1 learns from 800 examples", "no training rows", "3 rows are cut", "earlier run"):
        assert part in said


def test_presets_carry_their_cost_where_it_is_known() -> None:
    choices = train.preset_choices({"quick": plan(), "standard": None}, EN)
    assert [value for _, value in choices] == list(PRESETS)
    assert choices[0][0].splitlines()[-1] == "≈ 4 min · 1.1 GB" and "GB" not in choices[1][0]


def test_a_file_report_names_rows_and_keeps_long_lists_short() -> None:
    report = Report(rows=100, notes=["CSV, question = 'a'"])
    assert "100 examples can be used" in text(train.file_report(report, EN))
    report.add(Finding("empty", i, "the answer is empty.") for i in range(1, 21))
    said = text(train.file_report(report, EN))
    assert "row 1: the answer is empty." in said and "12 more" in said and "can be used" not in said


def test_a_file_report_counts_findings_that_are_too_many_to_be_listed() -> None:
    report = Report(rows=3)
    report.add(Finding("broken", i, "is not JSON.") for i in range(5000))
    report.add([Finding("left_out", None, "4,000 rows left out.")], 4000)
    said = text(train.file_report(report, EN))
    assert "… and 4,992 more." in said and said.count("more.") == 1


def test_the_form_covers_every_field_of_the_recipe_once() -> None:
    assert sorted([*recipe_form.FIELDS, *recipe_form.ON_THE_PAGE]) == sorted(Recipe.model_fields)
    assert {field.kind for field in recipe_form.FIELDS.values()} == {"number", "text", "list", "flag", "choice", "choices"}


@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_form_shows_comes_back_unchanged(preset: str) -> None:
    values = recipe_form.preset_values(preset)
    raw = {name: recipe_form.to_form(field, values[name]) for name, field in recipe_form.FIELDS.items()}
    assert recipe_form.changed(raw, preset) == {}


def test_changed_fields_become_the_same_recipe_in_the_shell_and_here() -> None:
    edits = {"lora_r": 32.0, "bf16": "false", "packing": True, "lora_target_modules": "q_proj, v_proj", "eval_steps": 5, "seed": None}
    edits |= {"early_stopping_patience": None, "report_to": ["trackio"]}
    values = recipe_form.preset_values("standard")
    raw = {name: recipe_form.to_form(field, values[name]) for name, field in recipe_form.FIELDS.items()} | edits
    changes = recipe_form.changed(raw, "standard")
    assert changes == {
        "lora_r": 32,
        "bf16": False,
        "packing": True,
        "lora_target_modules": ["q_proj", "v_proj"],
        "eval_steps": 5,
        "early_stopping_patience": None,  # the preset's 3 was taken out
        "report_to": ["trackio"],
    }  # and a seed that was emptied stays as it was
    line = recipe_form.command_line({"base": "tiny@1", "dataset": "order-codes"} | changes, "standard")
    assert from_shell(line) == resolve({"base": "tiny@1", "dataset": "order-codes"} | changes, preset="standard").recipe


def test_a_recipe_finds_its_preset_again() -> None:
    for preset in PRESETS:
        recipe = resolve({"base": "tiny@1", "dataset": "orders", "max_steps": 7}, preset=preset).recipe
        assert recipe_form.nearest_preset(recipe.model_dump(mode="json")) == preset


def from_shell(line: str) -> Recipe:
    """The recipe that the real command line makes of it."""
    import shlex

    from workbench.cli.recipe_options import given_values
    from workbench.cli.train import train as command

    program, verb, *arguments = shlex.split(line)
    assert (program, verb) == ("workbench", "train")
    params = command.make_context("train", arguments).params
    return resolve(given_values(params), preset=params["preset"]).recipe


def test_a_row_as_the_model_sees_it_is_the_exact_text() -> None:
    row = [
        ("<|im_start|>user\n", "template"),
        ("2 ", "prompt"),
        ("+ 2?", "prompt"),
        ("\n", "template"),
        ("4", "learned"),
        ("<|im_end|>", "learned"),
    ]
    tree = parse(tokens.row_preview([row, row], 3, EN))
    shown = tree.find(".//div[@class='text']")
    assert shown is not None
    assert "".join(shown.itertext()).replace("⏎", "") == "".join(part for part, _ in row)
    assert [span.get("class") for span in shown.iter("span")] == ["template", "prompt", "template", "learned"]
    assert "Example 2 of 2" in text(tokens.row_preview([row, row], 3, EN))


# ---------------------------------------------------------------- names that bite


def test_nothing_a_person_names_becomes_markup() -> None:
    evil_job = job(
        JobState.failed, title=EVIL, error=EVIL, spec={"recipe": {"name": EVIL, "base": EVIL, "dataset": EVIL}}, result={"adapter": EVIL}
    )
    evil_adapter = adapter(EVIL, dataset=EVIL, aliases=(EVIL,), parents=(EVIL,), job_id=EVIL)
    row = [{"prompt": EVIL, "expected": EVIL, "answer": EVIL, "base": EVIL, "adapter": EVIL}]
    run = jobs.series([Progress(1.0, "training", step=1, loss=1.0, message=EVIL, samples=row)])
    report = Report(rows=1, notes=[EVIL])
    report.add([Finding("empty", 1, EVIL)])
    pieces = [
        jobs.job_list([evil_job], EN),
        jobs.job_live(evil_job, run, EN),
        jobs.job_live(job(JobState.succeeded, result={"adapter": EVIL}), run, EN),
        jobs.job_live(job(kind="fetch"), jobs.series([Progress(1.0, "preparing", message=EVIL)]), EN),
        jobs.job_samples(run, EN),
        jobs.frozen_settings(evil_job, EN),
        adapters.adapter_list([evil_adapter], EN),
        adapters.adapter_facts(evil_adapter, [evil_adapter, adapter(EVIL, 2)], EN),
        adapters.adapter_use(evil_adapter, base(path=EVIL), EN),
        adapters.adapter_answers(row, EN),
        adapters.adapter_actions(evil_adapter, EN),
        train.dataset_card(dataset(name=EVIL), {}, EN),
        train.summary_card(plan(dataset=dataset(name=EVIL), publishes=EVIL, problems=[EVIL], warnings=[EVIL]), EN),
        train.file_report(report, EN),
        train.column_question(EVIL, EN),
        train.as_code(EVIL, EVIL, EN),
        tokens.row_preview([[(EVIL, "prompt")]], 0, EN),
        home.home([evil_job], [evil_adapter], EN),
    ]
    for piece in pieces:
        assert "onerror" not in [key for element in parse(piece).iter() for key in element.keys()], piece
        assert not list(parse(piece).iter("img")), piece


def test_what_the_engine_says_is_chinese_on_chinese_pages() -> None:
    """Stored errors of jobs, problems and notes of files, warnings and problems of a plan, the terms of licences."""
    zh = words("zh")
    stored = (
        "None of its sources can be used:\n  - hub:org/x: org/x is gated: its publisher asks you to accept a licence first. "
        "Accept it at https://huggingface.co/org/x, then log in: hf auth login\nGive another one with --source."
    )
    killed = "It crashed 3 times; the last time: The process was killed by SIGKILL (out of memory? The kernel's log would say so.)"
    report = Report(
        rows=9, notes=["JSONL, UTF-8; prompt and completion; left out: image", "white space around an answer was kept (2 times)"]
    )
    report.add([Finding("broken", 3, "has no 'completion'."), Finding("duplicate", 4, "is the same as row 3.")])
    warnings = ["3 rows are cut at max_length 64 tokens."]
    problems = [
        "lora_target_modules: this base has no x; it has q_proj, v_proj; all-linear takes them all.",
        "The dataset has no training rows.",
    ]
    pieces = [
        jobs.job_list([job(JobState.failed, error=stored, kind="fetch", spec={}, title="Fetch x@1")], zh, now=NOW),
        jobs.job_live(job(JobState.failed, error=stored, kind="fetch"), jobs.Series(), zh),
        jobs.job_live(job(JobState.failed_permanently, error=killed), jobs.Series(), zh),
        jobs.job_live(job(kind="fetch"), jobs.series([Progress(1.0, "preparing", message="Locking: tensor 3 of 9")]), zh),
        train.file_report(report, zh),
        train.summary_card(plan(problems=problems, warnings=warnings), zh),
        *(train.catalogue_card(entry, zh) for entry in Workbench().bases.catalogue()),
    ]
    for piece in pieces:
        said = re.sub("Gemma is provided .*gemma/terms|Built with \\S+( Llama \\d)?|hf auth login", "", text(piece))
        assert not re.search(r"\b[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}\b", said), said


def test_home_leads_a_newcomer_to_the_example_and_others_to_their_work() -> None:
    new = text(home.home([], [], EN))
    assert new.index("Try the example") < new.index("Start with my data") and "Bring examples" in new
    busy = text(home.home([job()], [adapter()], EN, now=NOW))
    assert "Running now" in busy and "Your newest adapters" in busy and "Bring examples" not in busy


def test_every_kind_of_finding_has_a_name() -> None:
    said = text(train.dataset_card(dataset(), {"counts": dict.fromkeys(KINDS, 2)}, EN))
    assert all(EN(f"finding.{kind}") in said for kind in KINDS)


def test_a_base_is_described_by_size_licence_and_origin() -> None:
    assert train.base_choice(base()) == "tiny@1 · 135 M · Apache-2.0"
    assert "continues" in text(train.base_card(base(continues=BASE), EN)).lower()
