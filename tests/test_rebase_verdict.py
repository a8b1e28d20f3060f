"""The rule: each word from row scores, the bounds it rests on, and what stands beside it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from workbench.errors import UsageError
from workbench.evidence import Evidence
from workbench.rebase.contrasts import tabulate
from workbench.rebase.result import Check, Finding, Settings, Structure, Verdict
from workbench.rebase.verdict import (
    broken,
    cannot_load,
    judge,
    safe_for_all,
    witnesses,
)
from workbench.records import ItemScore
from workbench.stats import flip_interval, mcnemar, share_interval

QUICK = Settings(resamples=1000)


def arm(exact: Sequence[bool], nll: Sequence[float] | float | None = None, right: Sequence[bool] | None = None) -> list[ItemScore]:
    if nll is None:
        nll = [0.1 + 2.0 * (not e) + 0.01 * (i % 7) for i, e in enumerate(exact)]
    losses = [nll] * len(exact) if isinstance(nll, float) else nll
    rights = right if right is not None else [None] * len(exact)
    return [ItemScore(f"r{i}", x, 4, 10, bool(e), r) for i, (e, x, r) in enumerate(zip(exact, losses, rights, strict=True))]


def share(n: int, k: int, seed: int = 0) -> list[bool]:
    """k of n rows right, scattered."""
    chosen = set(random.Random(seed).sample(range(n), k))
    return [i in chosen for i in range(n)]


def verdict(home: Sequence[bool], tuned: Sequence[bool], new: Sequence[bool], copied: Sequence[bool], **more: object) -> Verdict:
    options: dict = {"scorer": "exact", "same_tokenizer": True, "settings": QUICK, **more}
    return judge(Evidence(arm(home), arm(tuned)), Evidence(arm(new), arm(copied)), **options)


NONE, ALL = [False] * 400, [True] * 400


@pytest.mark.parametrize(
    ("home", "tuned", "new", "copied", "word"),
    [
        (NONE, ALL, NONE, ALL, "works"),
        (NONE, ALL, NONE, NONE, "lost"),
        (NONE, ALL, NONE, share(400, 24), "lost"),
        (NONE, ALL, NONE, share(400, 208), "weaker"),
        (NONE, ALL, share(400, 100), NONE, "does harm"),
        (NONE, ALL, ALL, ALL, "not needed"),
        (NONE, NONE, NONE, NONE, "no gain at home"),
        (NONE, share(400, 240), share(400, 200, 1), share(400, 300, 2), "works"),
        (NONE, ALL, NONE, share(400, 392), "too close to tell"),
    ],
)
def test_each_word(home: list[bool], tuned: list[bool], new: list[bool], copied: list[bool], word: str) -> None:
    result = verdict(home, tuned, new, copied)
    assert result.word == word, result.because
    assert result.metric == "exact_match"
    assert "400 test questions" in result.because and "95% interval" in result.because


def test_the_same_base_changes_nothing_and_is_not_called_absorbed() -> None:
    for gain in (80, 160, 400):
        tuned = share(400, gain)
        result = verdict(NONE, tuned, NONE, tuned)
        assert (result.word, result.absorbed, result.lost_rows, result.won_rows) == ("works", False, 0, 0)
        c = result.contrasts["exact_match"]
        assert c.gain.value == c.transfer.value and c.served.value == 0 and c.served.method == "exact"
        assert c.kept.low is not None and (c.kept.low > 0) is (gain > 80), "a gain of 20 % in 400 rows is too small to prove 90 % kept"
    assert result.lost_share == pytest.approx((0.0, 3.69 / 400), rel=0.01)


def test_absorbed_when_the_new_base_knew_half() -> None:
    result = verdict(NONE, share(400, 300), share(400, 200, 1), share(400, 320, 2))
    assert (result.word, result.absorbed) == ("works", True)
    assert "already knew part" in result.because


def test_zero_flips_in_100_rows_are_too_few_and_183_would_do() -> None:
    result = verdict([False] * 100, [True] * 100, [False] * 100, [True] * 100)
    assert (result.word, result.rows_needed) == ("too close to tell", 183)
    assert verdict([False] * 182, [True] * 182, [False] * 182, [True] * 182).word == "too close to tell"
    assert verdict([False] * 183, [True] * 183, [False] * 183, [True] * 183).word == "works"
    wider = Settings(epsilon=0.05, resamples=1000)
    assert verdict([False] * 60, [True] * 60, [False] * 60, [True] * 60, settings=wider).rows_needed == 72


def test_rows_needed_come_from_the_variance_seen() -> None:
    """A true loss of nothing with 20 % of the rows flipping: n = 7.84 * 0.2 / 0.02^2 = 3,920."""
    tuned = [i % 5 != 0 for i in range(400)]
    copied = [i % 5 != 1 for i in range(400)]  # 80 lost, 80 won: 40 % discordant
    result = verdict(NONE, tuned, NONE, copied)
    assert result.word == "too close to tell" and result.lost_rows == result.won_rows == 80
    assert result.rows_needed == pytest.approx(7.84 * 0.4 / 0.02**2, rel=0.1)


def test_success_decides_where_the_adapter_improves_it_and_not_the_loss() -> None:
    """The pilot's int4 base: 103 % of the loss gain kept, and half the answers wrong."""
    n = 200
    home = Evidence(arm([False] * n, 24.0), arm([True] * n, 0.01))
    new = Evidence(arm([False] * n, 26.0), arm(share(n, 104), 0.4))
    result = judge(home, new, scorer="exact", same_tokenizer=True, settings=QUICK)
    cost = result.contrasts["nll_per_token"]
    assert cost.transfer.value > cost.gain.value, "more than the whole gain in loss"
    assert (result.word, result.metric) == ("weaker", "exact_match")
    text = judge(
        dataclasses.replace(home, adapter=arm([False] * n, 0.01)), dataclasses.replace(new, adapter=arm([False] * n, 0.02)),
        scorer=None, same_tokenizer=True, settings=QUICK,
    )  # fmt: skip
    assert (text.word, text.metric, text.lost_rows) == ("works", "nll_per_token", None)


def test_harm_in_the_loss_counts_where_success_says_nothing() -> None:
    n = 200
    home = Evidence(arm([False] * n, 24.0), arm(share(n, 150), 8.0))
    new = Evidence(arm([False] * n, 12.0), arm([False] * n, 16.0))
    result = judge(home, new, scorer="exact", same_tokenizer=True, settings=QUICK)
    assert (result.word, result.metric) == ("does harm", "nll_per_token")


def test_a_better_base_does_not_hide_an_adapter_that_may_harm_it() -> None:
    """A new base that beats the adapter by itself, and an adapter that costs it some points: the user still gains over home.
    On few rows that harm is not ruled out, so the rule waits for more."""
    n = 100
    home, tuned = [False] * n, share(n, 60, 3)
    new = [t or i % 3 == 0 for i, t in enumerate(tuned)]
    copied = list(new)
    right = [i for i in range(n) if new[i]]
    wrong = [i for i in range(n) if not new[i]]
    for i in right[:4] + wrong[:1]:
        copied[i] = not copied[i]
    arms = Evidence(arm(home, 2.0), arm(tuned, 1.0)), Evidence(arm(new, 1.5), arm(copied, 0.9))
    table = tabulate(*arms, same_tokenizer=True, settings=QUICK)
    assert table.contrasts["exact_match"].transfer.value == pytest.approx(-0.03)
    assert table.contrasts["exact_match"].served.low > -QUICK.epsilon, "the user loses nothing"
    guarded = judge(*arms, scorer="exact", same_tokenizer=True, settings=QUICK)
    assert guarded.word == "too close to tell" and "not ruled out" in guarded.because


def test_an_adapter_that_is_not_needed_is_not_called_lost_on_few_rows() -> None:
    known = [i >= 10 for i in range(100)]
    arms = Evidence(arm([False] * 100, 2.0), arm(known, 0.1)), Evidence(arm(known, 0.1), arm(known, 0.1))
    c = tabulate(*arms, same_tokenizer=True, settings=QUICK).contrasts["exact_match"]
    assert c.transfer.high < 0.1 * c.gain.low, "less than a tenth of its gain is left"
    found = judge(*arms, scorer="exact", same_tokenizer=True, settings=QUICK)
    assert (found.word, found.rows_needed) == ("too close to tell", 183)


def test_a_copy_that_is_plainly_broken_does_not_pass_as_too_close_to_tell() -> None:
    """Seven of 48 are right, all were: whether seven are something or nothing is open, that the user loses is not."""
    few = [i < 7 for i in range(48)]
    arms = Evidence(arm([False] * 48, 2.0), arm([True] * 48, 0.1)), Evidence(arm([False] * 48, 2.0), arm(few, 1.5))
    found = judge(*arms, scorer="exact", same_tokenizer=True, settings=QUICK)
    assert found.word == "weaker" and "whether anything is left" in found.because


def test_other_tokenizers_are_compared_by_the_byte() -> None:
    """Twice the tokens at half the loss each is the same answer at the same cost."""
    n = 200
    finer = [ItemScore(f"r{i}", 2.0, 8, 10, False) for i in range(n)]
    result = judge(
        Evidence(arm([False] * n, 8.0), arm([False] * n, 2.0)), Evidence(arm([False] * n, 8.0), finer),
        scorer=None, same_tokenizer=False, settings=QUICK,
    )  # fmt: skip
    assert "nll_per_token" not in result.contrasts and result.metric == "bits_per_byte"
    assert result.word == "works" and result.contrasts["bits_per_byte"].served.value == pytest.approx(0)
    assert result.arms["new_adapter"]["bits_per_byte"] == pytest.approx(2.0 / math.log(2) / 10)


def test_groups_are_resampled_as_units_and_copies_add_no_certainty() -> None:
    rng = np.random.default_rng(1)
    tuned, copied = rng.random(40) < 0.9, rng.random(40) < 0.6
    tenfold = [np.repeat(a, 10).tolist() for a in (np.zeros(40, bool), tuned, np.zeros(40, bool), copied)]
    groups = [f"g{i // 10}" for i in range(400)]
    rows = verdict(*tenfold)
    home = Evidence(arm(tenfold[0]), arm(tenfold[1]), groups)
    grouped = judge(home, Evidence(arm(tenfold[2]), arm(tenfold[3])), scorer="exact", same_tokenizer=True, settings=QUICK)
    wide, narrow = (v.contrasts["exact_match"].served for v in (grouped, rows))
    assert (grouped.groups, rows.groups, grouped.n) == (40, None, 400)
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)
    assert grouped.lost_share[1] - grouped.lost_share[0] > 2 * (rows.lost_share[1] - rows.lost_share[0])


def test_one_resample_serves_all_arms() -> None:
    """alone = served - transfer and kept = transfer - (1 - delta) gain hold draw by draw, to the last digits."""
    rng = np.random.default_rng(0)
    arms = [arm(list(rng.random(300) < p)) for p in (0.2, 0.8, 0.3, 0.7)]
    table = tabulate(Evidence(arms[0], arms[1]), Evidence(arms[2], arms[3]), same_tokenizer=True, settings=QUICK)
    for metric in ("exact_match", "nll_per_token"):
        draws = {name: estimate.draws for name, estimate in table.estimates[metric].items()}
        np.testing.assert_allclose(draws["alone"], draws["served"] - draws["transfer"], atol=1e-12)
        np.testing.assert_allclose(draws["kept"], draws["transfer"] - 0.9 * draws["gain"], atol=1e-12)


def test_p_worse_is_the_interval_inverted() -> None:
    few = verdict(NONE, ALL, NONE, share(400, 385))
    assert few.contrasts["exact_match"].served.method == "exact" and few.lost_rows == 15
    assert flip_interval(0, 15, 400, level=1 - 2 * few.p_worse).high == pytest.approx(-0.02, abs=1e-6)
    many = verdict(NONE, ALL, NONE, share(400, 200))
    assert many.p_worse == pytest.approx(1 / 1001), "never zero"
    assert verdict(NONE, ALL, NONE, ALL).p_worse == 1.0


@pytest.mark.parametrize(("scorer", "right", "told"), [(None, False, False), ("label", False, True), (None, True, True)])
def test_flips_are_told_where_success_means_something(scorer: str | None, right: bool, told: bool) -> None:
    """Loss decides here. An exact match of text without a scorer is luck, and so is a flip of it."""
    before, after = share(100, 8), share(100, 5, 1)
    rights = (before, after) if right else (None, None)
    home = Evidence(arm(before, 8.0, rights[0]), arm(before, 2.0, rights[0]))
    new = Evidence(arm(before, 8.0, rights[0]), arm(after, 2.0, rights[1]))
    settings = Settings(resamples=1000, level=0.8)
    result = judge(home, new, scorer=scorer, same_tokenizer=True, settings=settings)
    lost, won = (sum(a and not b for a, b in zip(*pair, strict=True)) for pair in ((before, after), (after, before)))
    assert result.metric == "nll_per_token"
    served, exact = result.contrasts["exact_match"].served, flip_interval(won, lost, 100, level=0.8)
    assert (served.low, served.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert (result.lost_rows, result.won_rows) == ((lost, won) if told else (None, None))
    assert result.lost_share == (share_interval(lost, 100, level=0.8) if told else None)
    assert result.flip_p == (pytest.approx(mcnemar(won, lost)) if told else None)


def test_losses_between_tokenizers_need_the_length_of_the_answers() -> None:
    bare = [dataclasses.replace(score, bytes=0) for score in arm(NONE)]
    with pytest.raises(UsageError, match="how long the answers are"):
        judge(Evidence(bare, arm(ALL)), Evidence(arm(NONE), arm(ALL)), scorer="exact", same_tokenizer=False)
    assert (
        judge(Evidence(bare, arm(ALL)), Evidence(arm(NONE), arm(ALL)), scorer="exact", same_tokenizer=True, settings=QUICK).word == "works"
    )


def test_a_break_decides_without_arms_on_the_new_base() -> None:
    found = [Finding("target_missing", "break", "There is no layer 30."), Finding("shape", "break", "2048 is 576.")]
    bare = cannot_load(found)
    assert bare.word == "cannot load" and "target_missing, shape" in bare.because and bare.contrasts == {}
    assert (bare.n, bare.groups, bare.absorbed) == (0, None, False)
    home = Evidence(arm(NONE), arm(ALL))
    known = cannot_load(found, home, settings=QUICK)
    assert known.word == "cannot load" and known.arms["home_adapter"]["exact_match"] == 1 and "layer 30" in known.because
    idle = cannot_load(found, Evidence(arm(NONE), arm(NONE)), settings=QUICK)
    assert idle.word == "no gain at home", "the first line of the rule that matches"
    assert (known.n, known.groups, known.arms.keys()) == (400, None, {"home", "home_adapter"})
    halves = cannot_load(found, Evidence(arm(NONE), arm(ALL), [f"g{i // 2}" for i in range(400)]))
    assert halves.groups == 200


@pytest.mark.parametrize("wrong", ["rows", "order", "nan", "nan at home", "none", "groups"])
def test_arms_that_do_not_fit_are_one_clear_error(wrong: str) -> None:
    home, new = Evidence(arm(NONE), arm(ALL)), Evidence(arm(NONE), arm(ALL))
    match wrong:
        case "rows":
            new = Evidence(arm(NONE)[:-1], arm(ALL)[:-1])
        case "order":
            new = Evidence(arm(NONE)[::-1], arm(ALL)[::-1])
        case "nan":
            new = Evidence(arm(NONE), arm(ALL, float("nan")))
        case "nan at home":
            home = Evidence(arm(NONE, float("inf")), arm(ALL))
        case "none":
            home, new = Evidence([], []), Evidence([], [])
        case "groups":
            home = Evidence(arm(NONE), arm(ALL), ["g"])
    with pytest.raises(UsageError) as error:
        judge(home, new, scorer="exact", same_tokenizer=True)
    assert error.value.hint
    said = {"nan": "The new base with the adapter gives nan as the loss of row r0", "nan at home": "The old base gives inf"}
    assert said.get(wrong, "") in str(error.value)


def test_one_row_is_no_evidence() -> None:
    assert verdict([False], [True], [False], [True]).word == "no gain at home"
    assert verdict([False] * 5, [True] * 5, [False] * 5, [False] * 5).word in ("lost", "too close to tell")


def test_witnesses_are_flips_first_and_say_both_answers() -> None:
    rows = [
        {"id": f"r{i}", "form": "messages", "messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
        for i in range(6)
    ]
    before = arm([True] * 5 + [False], [0.1] * 6)
    after = arm([True, False, False, True, True, False], [0.2, 3.0, 7.0, 0.1, 0.05, 20.0])
    after[1] = dataclasses.replace(after[1], answer="said 1")
    home, new = Evidence(arm([False] * 6), before), Evidence(arm([False] * 6), after)
    found = witnesses(home, new, rows)
    assert [w.id for w in found] == ["r2", "r1", "r5"], "flips by growth of their loss, then the row whose loss grew most"
    assert (found[1].prompt, found[1].expected, found[1].home, found[1].new) == ("q1", "a1", "a1", "said 1")
    assert found[2].home is None and found[0].new_nll == 7.0 / 4
    assert witnesses(home, Evidence(home.base, before), rows) == []
    finer = [dataclasses.replace(score, tokens=8, nll=2 * score.nll) for score in before]
    assert witnesses(home, Evidence(home.base, finer), rows) == [], "as much per token, in twice the tokens"


def check(word: str, p: float | None) -> Check:
    verdict = Verdict(word, False, "right", "", 100, None, {}, {}, p_worse=p)
    return Check("a@1", "", "b@1", "", "b@2", "", None, Structure(()), verdict=verdict)


def test_many_adapters_on_one_release() -> None:
    checks = [check("lost", 0.001), check("works", 0.8), check("cannot load", None), check("no gain at home", 0.001)]
    assert broken(checks) == [True, False, True, False]
    assert broken([check("weaker", 0.05)]) == [True] and broken([check("weaker", 0.051)]) == [False] == broken([check("works", None)])
    assert broken([check("weaker", 0.02), check("works", 0.9)], q=0.03) == [False, False]
    assert safe_for_all([check("works", 1), check("not needed", 1)]) and not safe_for_all(checks) and not safe_for_all([])
    bare = dataclasses.replace(checks[1], verdict=None)
    assert not safe_for_all([bare]), "not tested is not safe"
