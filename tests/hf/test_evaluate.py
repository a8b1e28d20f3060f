"""Scores of base and adapter: against a plain pass row by row, and against real generation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from tests.hf.tiny_adapter import order_rows, tiny_adapter
from tests.tiny_base import make_tiny_base
from workbench.data.scorers import score as is_right
from workbench.errors import DataError, IntegrityError, JobError
from workbench.evidence import summary
from workbench.hf.evaluate import Evaluator, Test, evaluate
from workbench.hf.generate import answer
from workbench.hf.load import load_adapter, load_base, load_tokenizer
from workbench.hf.render import render
from workbench.records import ItemScore, Progress

pytestmark = pytest.mark.torch
ROWS = order_rows()


@pytest.fixture(scope="module")
def base(pico_base: Path) -> Path:
    return pico_base


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return tiny_adapter(base)


def row_by_row(base: Path, adapter: Path | None) -> list[tuple[float, int, bool]]:
    """(nll, tokens, exact) by plain transformers and peft: whole rows, full head, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    tokenizer, found = load_tokenizer(base), []
    for row in ROWS:
        one = render(tokenizer, row, max_length=512)
        with torch.no_grad():
            logits = model(torch.tensor([one.input_ids])).logits[0, :-1].float()
        labels = torch.tensor(one.labels[1:])
        at = labels != -100
        nll = torch.nn.functional.cross_entropy(logits[at], labels[at], reduction="sum")
        found.append((float(nll), int(at.sum()), bool((logits[at].argmax(-1) == labels[at]).all())))
    return found


def assert_same(scores: list[ItemScore], plain: list[tuple[float, int, bool]]) -> None:
    for score, (nll, tokens, exact) in zip(scores, plain, strict=True):
        assert score.nll == pytest.approx(nll, abs=1e-4, rel=1e-5)
        assert (score.tokens, score.exact) == (tokens, exact)


def test_scores_equal_a_plain_pass_with_and_without_the_shared_start(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = row_by_row(base, None), row_by_row(base, adapter)
    exact = sum(exact for _, _, exact in plain[1])
    assert 10 < exact < 40, "the tiny adapter must get some rows right and some wrong"
    for share in (True, False):
        if not share:
            monkeypatch.setattr("workbench.hf.scoring.common_prefix", lambda rows, limit: 0)
        found = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32)
        assert (found.report["shared_prefix_tokens"] > 0) is share
        assert_same(found.base, plain[0])
        assert_same(found.adapter, plain[1])
        assert [s.id for s in found.base] == [row["id"] for row in ROWS]
        assert found.base[0].bytes == len("Cairo/red/1")
        assert all(s.right is None and s.answer is None for s in found.base + found.adapter)
    result = summary(found.base, found.adapter)
    assert result.gain["exact_match"].above_zero and result.gain["nll_per_token"].above_zero


def test_real_generation_confirms_teacher_forced_exact_match(base: Path, adapter: Path) -> None:
    found = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32)
    for arm in ("base", "adapter"):
        assert found.report[arm]["agreement"] == {"rows": 8, "agree": 8}
    model = load_adapter(load_base(base, dtype=torch.float32), adapter)
    said = answer(model, load_tokenizer(base), ROWS, max_new_tokens=30)
    assert [text == row["messages"][-1]["content"] for text, row in zip(said, ROWS, strict=True)] == [s.exact for s in found.adapter]


def test_a_false_exact_flag_would_be_noticed(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads the prompts anew: break the teacher-forced pass and it disagrees."""
    import workbench.hf.scoring as scoring

    judge = scoring._judge
    monkeypatch.setattr(scoring, "_judge", lambda logits, targets: (judge(logits, targets)[0], targets))
    found = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32)
    assert found.report["base"]["agreement"]["agree"] == 0


@pytest.mark.parametrize("scorer", ["normalised", "label", "exact"])
def test_scorers_judge_what_the_model_would_say(base: Path, adapter: Path, scorer: str) -> None:
    found = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32, scorer=scorer)
    model = load_adapter(load_base(base, dtype=torch.float32), adapter)
    said = answer(model, load_tokenizer(base), ROWS, max_new_tokens=30)
    wanted = [is_right(scorer, row["messages"][-1]["content"], text) for text, row in zip(said, ROWS, strict=True)]
    assert [s.right for s in found.adapter] == wanted
    for score, text in zip(found.adapter, said, strict=True):
        if scorer == "exact" or score.exact:
            assert score.answer is None, "known without generating"
        elif scorer == "normalised":
            assert score.answer and (score.answer.startswith(text) or text.startswith(score.answer))
    assert found.report["adapter"]["generated"] == sum(s.answer is not None for s in found.adapter)


def test_answers_go_on_from_the_scored_prompt_or_from_a_new_one_alike(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with sliding windows cannot be continued behind a mask; then the prompt is read again."""
    import workbench.hf.scoring as scoring

    continued = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32, scorer="numeric")
    monkeypatch.setattr(scoring, "plain_cache", lambda cache: False)
    anew = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32, scorer="numeric")
    assert [s.answer for s in anew.base + anew.adapter] == [s.answer for s in continued.base + continued.adapter]


def test_scoring_is_deterministic_and_batches_do_not_matter(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import workbench.hf.scoring as scoring

    first, again = (evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32) for _ in range(2))
    assert (first.base, first.adapter) == (again.base, again.adapter), "bit for bit"
    monkeypatch.setattr(scoring, "_CELLS", 400 * 30)  # a few rows a batch
    small = evaluate(base, adapter, list(reversed(ROWS)), max_length=512, dtype=torch.float32)
    for one, other in zip(first.adapter, reversed(small.adapter), strict=True):
        assert other == dataclasses.replace(one, nll=pytest.approx(one.nll, abs=1e-4))


def test_several_adapters_share_one_load_and_one_bare_pass(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import workbench.hf.evaluate as module

    loads: list[Path] = []

    def counted(folder: Path, **options: Any) -> Any:
        loads.append(folder)
        return load_base(folder, **options)

    monkeypatch.setattr(module, "load_base", counted)
    other = tiny_adapter(base, steps=3, seed=1)
    lines: list[Progress] = []
    arms, test = Evaluator(base, arms=4, report=lines.append), Test(ROWS, None, 512, torch.float32)
    scored = [arms.score(test, one) for one in (adapter, other, adapter)]
    assert loads == [base]
    assert scored[0].base is scored[1].base and scored[0].adapter == scored[2].adapter
    assert scored[0].adapter == evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32).adapter
    assert [s.nll for s in scored[1].adapter] != [s.nll for s in scored[0].adapter]
    steps = [line.step for line in lines]
    assert steps == sorted(steps) and steps[-1] == lines[-1].total_steps == 4 * len(ROWS)


def test_an_adapter_that_changes_the_base_leaves_no_trace(base: Path, adapter: Path, tmp_path: Path) -> None:
    pissa = tiny_adapter(base, steps=1, init_lora_weights="pissa")
    evaluator = Evaluator(base)
    test = evaluator.prepare(Test(ROWS[:8], None, 512, torch.float32))
    before = evaluator.arm(test).scores
    evaluator.arm(test, pissa)
    evaluator.arm(test, adapter)
    assert evaluator.arm(test).scores == before
    with pytest.raises(IntegrityError):
        evaluator.arm(test, tmp_path)
    assert evaluator.arm(test).scores == before


def test_full_weights_are_an_arm_by_themselves(base: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", 1)
    found = evaluate(base, other, ROWS[:8], max_length=512, dtype=torch.float32)
    alone = evaluate(other, None, ROWS[:8], max_length=512, dtype=torch.float32)
    assert alone.adapter == [] and found.adapter == alone.base and found.base != alone.base


def test_a_quantised_base_serves_both_arms(base: Path) -> None:
    trained_on_4_bits = tiny_adapter(base, quantized="nf4")
    found = evaluate(base, trained_on_4_bits, ROWS[:24], max_length=512, dtype=torch.float32, quantized="nf4", scorer="exact")
    assert summary(found.base, found.adapter, "exact").gain["right"].above_zero
    assert found.report["quantized"] == "nf4"


@pytest.mark.parametrize("scorer", [None, "normalised"])
def test_samples_are_what_each_arm_answers(base: Path, adapter: Path, scorer: str | None) -> None:
    found = evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32, samples=6, scorer=scorer)
    assert [sample["id"] for sample in found.samples] == [f"row{i}" for i in (0, 8, 16, 24, 32, 40)]
    by_id = {row["id"]: row for row in ROWS}
    rows = [by_id[sample["id"]] for sample in found.samples]
    model = load_adapter(load_base(base, dtype=torch.float32), adapter)
    said = answer(model, load_tokenizer(base), rows, max_new_tokens=96)
    for sample, row, text in zip(found.samples, rows, said, strict=True):
        assert sample["prompt"] == row["messages"][1]["content"] and sample["expected"] == row["messages"][2]["content"]
        assert sample["adapter"] == text or text.startswith(sample["adapter"].removesuffix(" …"))
        assert sample["base"] != sample["expected"]
    assert evaluate(base, adapter, ROWS, max_length=512, dtype=torch.float32).samples == []


def test_long_rows_are_skipped_or_marked_never_called_exact(base: Path, adapter: Path) -> None:
    tokenizer = load_tokenizer(base)
    lengths = {row["id"]: render(tokenizer, row, max_length=512) for row in ROWS}
    limit = sorted(one.answer_start for one in lengths.values())[len(ROWS) // 2] + 2
    found = evaluate(base, adapter, ROWS, max_length=limit, dtype=torch.float32)
    lost = [i for i, one in lengths.items() if one.answer_start >= limit]
    assert found.report["skipped"] == lost and lost
    assert [s.id for s in found.adapter] == [row["id"] for row in ROWS if row["id"] not in lost]
    cut = found.report["cut"]
    assert cut and not any(s.exact for s in found.adapter if s.id in cut)
    with pytest.raises(DataError, match="within 8 tokens"):
        evaluate(base, adapter, ROWS, max_length=8)
    with pytest.raises(DataError, match="no test rows"):
        evaluate(base, adapter, [], max_length=512)


def test_raw_and_plain_text_rows_and_groups(base: Path, adapter: Path) -> None:
    rows = [
        {"id": "a", "form": "prompt_completion", "prompt": "ship 3 red", "completion": " lamps", "group": "g"},
        {"id": "b", "form": "text", "text": "the quick brown fox"},
    ]
    found = evaluate(base, adapter, rows, max_length=512, dtype=torch.float32)
    assert found.groups == ["g", None]
    assert [s.bytes for s in found.base] == [len(" lamps"), len("the quick brown fox")]
    assert all(s.tokens > 1 for s in found.base)


def test_scoring_reports_and_stops_on_request(base: Path, adapter: Path) -> None:
    lines: list[Progress] = []
    with pytest.raises(JobError, match="stopped as asked, after"):
        evaluate(base, adapter, ROWS, max_length=512, report=lines.append, stopping=lambda: True)
    assert [line.phase for line in lines] == ["testing"]
    assert lines[0].tokens_per_second > 0 and lines[0].total_steps == 2 * len(ROWS)


SLIDING = {"sliding_window": 9, "final_logit_softcapping": 5.0}  # shorter than the shared start
FAMILIES = {
    "mistral": {"sliding_window": 9},
    "gemma3_text": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16},
    "bloom": {"n_layer": 2, "n_head": 4},  # ALiBi: no position ids
    "mixtral": {"num_local_experts": 4},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_share_starts_and_go_on_from_prompts_alike(
    pico_base: Path, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workbench.hf.scoring as scoring

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"vocab_size": 400, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 512}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**sizes, **ids, **FAMILIES[family]}))
    for weight in model.parameters():
        weight.data.mul_(5 if weight.ndim > 1 else 1)
    folder = tmp_path / family
    load_tokenizer(pico_base).save_pretrained(folder)
    model.save_pretrained(folder)
    options = {"max_length": 512, "dtype": torch.float32, "scorer": "numeric"}
    shared = evaluate(folder, None, ROWS[:16], **options)
    monkeypatch.setattr(scoring, "plain_cache", lambda cache: False)
    monkeypatch.setattr("workbench.hf.scoring.common_prefix", lambda rows, limit: 0)
    plain = evaluate(folder, None, ROWS[:16], **options)
    assert shared.report["shared_prefix_tokens"] > 9
    assert shared.base == [dataclasses.replace(score, nll=pytest.approx(score.nll, abs=1e-4)) for score in plain.base]
    assert shared.report["base"]["agreement"] == plain.report["base"]["agreement"] == {"rows": 8, "agree": 8}
