"""A check in one sentence, many checks in one headline, and all of it as one page that opens offline (report_parts.py draws it).

A sentence always holds both raw scores, the number of test rows and an interval: a share of gain kept says nothing without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from workbench.evidence import SUCCESS
from workbench.rebase import report_parts as parts
from workbench.rebase.contrasts import ARMS
from workbench.rebase.report_parts import esc
from workbench.rebase.result import BROKEN, VERDICTS, Check, Contrasts, Verdict
from workbench.rebase.rule import aside, score, span
from workbench.rebase.verdict import broken, safe_for_all

__all__ = ["headline", "html", "sentence", "shown_metrics"]


def sentence(check: Check) -> str:
    """What came out, for anybody: `a@1 works on b@2 as it is: exactly right on 91.0 % of 400 test rows, 91.5 % on b@1 before …`."""
    name, base, home, verdict = check.adapter, check.base, check.home, check.verdict
    if check.word == "cannot load":
        reasons = "; ".join(finding.text.rstrip(".") for finding in check.structure.breaks)
        tested = f" On {home} it scored {_home(verdict)}." if verdict is not None and "home_adapter" in verdict.arms else ""
        return f"{name} cannot be used on {base}: {reasons or (verdict.because.rstrip('.') if verdict else 'a break stands')}.{tested}"
    if verdict is None:
        return f"{name} was not tested on {base}, so there is no verdict: the behavioural stage did not run."
    m, arms = verdict.metric, verdict.arms
    if m not in verdict.contrasts or "new_adapter" not in arms:  # stopped at the first line of the rule
        return f"{name} on {base}: {verdict.word}. {verdict.because}"
    s = {arm: score(m, values[m]) for arm, values in arms.items()}
    c, rows = verdict.contrasts[m], f"{verdict.n:,} test rows"
    verb = {"right": "right on", "exact_match": "exactly right on"}.get(m, "predicting the answers at")
    there = f"{verb} {s['new_adapter']} of {rows}" if m in SUCCESS else f"{verb} {s['new_adapter']} over {rows}"
    with_both = f"{there}, {s['home_adapter']} on {home} before ({aside(m, c.served)}); without it {base} has {s['new']}"
    before = f"on {home} it took {s['home']} to {s['home_adapter']} ({aside(m, c.gain)})"
    gain = f"{there}, {s['new']} without it ({aside(m, c.transfer)}); {before}"
    words = {
        "works": f"{name} works on {base} as it is: {with_both}." + (_absorbed(m, c, base) if verdict.absorbed else ""),
        "not needed": f"{name} is not needed on {base}, which alone has {s['new']} on {rows}; {home} had {s['home_adapter']} with it "
        f"({aside(m, c.alone)}), and here it adds {span(m, c.transfer)}.",
        "no gain at home": f"{name} has no gain to carry over: on {rows}, {home} has {s['home_adapter']} with it, {s['home']} without it "
        f"({aside(m, c.gain)}). With it {base} has {s['new_adapter']}, without it {s['new']}.",
        "too close to tell": f"Whether {name} works on {base} is too close to tell: {with_both}. {_needs(verdict)}",
        "weaker": f"{name} still helps on {base}, but less: {with_both}."
        if (c.transfer.low or 0.0) > 0
        else f"{name} serves worse on {base}, and {rows} do not tell whether anything of its gain is left: {with_both}.",
        "lost": f"{name} loses its gain on {base}: {gain}.",
        "does harm": f"{name} makes {base} worse: {gain}.",
    }
    return words.get(verdict.word, f"{name} on {base}: {verdict.word}. {verdict.because}")


def _home(verdict: Verdict) -> str:
    arms, m = verdict.arms, verdict.metric
    return f"{score(m, arms['home_adapter'][m])} with the adapter and {score(m, arms['home'][m])} without it, on {verdict.n:,} test rows"


def _absorbed(metric: str, c: Contrasts, base: str) -> str:
    return f" {base} already knew part of it: the gain is {span(metric, c.transfer)}, it was {span(metric, c.gain)}."


def _needs(verdict: Verdict) -> str:
    if verdict.rows_needed is None:
        return "It sits on a limit of the rule, or there are too few rows to say how many would settle it."
    return f"About {verdict.rows_needed:,} test rows would settle it."


def headline(checks: Sequence[Check], base: str) -> str:
    """`Moving to b@2: 1 of 4 adapters works as it is, 1 is not needed, 2 need retraining.`, and whether it is safe for all."""
    if not checks:
        return f"Moving to {base}: no adapter was checked."
    count = Counter("not tested" if check.word is None else check.word for check in checks)
    bad = sum(count[word] for word in BROKEN)
    said = [
        f"{count['works']} of {len(checks)} {'adapters' if len(checks) > 1 else 'adapter'} "
        f"{'work' if count['works'] != 1 else 'works'} as {'they are' if count['works'] != 1 else 'it is'}",
        *(f"{count[word]} {'are' if count[word] > 1 else 'is'} {word}" for word in ("not needed", "too close to tell") if count[word]),
        *([f"{count['no gain at home']} had no gain to begin with"] if count["no gain at home"] else []),
        *([f"{bad} {'need' if bad > 1 else 'needs'} retraining or {'stay' if bad > 1 else 'stays'} where {_they(bad)}"] if bad else []),
        *([f"{count['not tested']} {'were' if count['not tested'] > 1 else 'was'} not tested"] if count["not tested"] else []),
    ]
    text = f"Moving to {base}: {', '.join(said)}."
    if len(checks) > 1 and safe_for_all(checks):
        text += " Safe for all of them."
    return text


def _they(n: int) -> str:
    return "they are" if n > 1 else "it is"


# ---------------------------------------------------------------- the page


def html(checks: Check | Sequence[Check]) -> str:
    """One page for one check or many, worst first. Needs no network, no script and no file beside it; every name is escaped."""
    found = [checks] if isinstance(checks, Check) else list(checks)
    found.sort(key=_badness)
    bases = list(dict.fromkeys(check.base for check in found))
    title = headline(found, bases[0]) if len(bases) == 1 else f"{len(found)} rebase checks on {len(bases)} bases"
    several = len(found) > 1
    body = [f"<h1>{esc(title if several or not found else _title(found[0]))}</h1>"]
    if several:
        body.append(_overview(found))
    body += [_section(check, f"check-{i}", headed=several) for i, check in enumerate(found)]
    return parts.page(title, "\n".join(body))


def _badness(check: Check) -> int:
    return -VERDICTS.index(check.word) if check.word in VERDICTS else 1


def _title(check: Check) -> str:
    return f"{check.adapter} on {check.base}: {check.word or 'not tested'}"


def _overview(checks: Sequence[Check]) -> str:
    rows = [
        (parts.link(f"check-{i}", check.adapter), esc(check.base), parts.badge(check.word), esc(sentence(check)))
        for i, check in enumerate(checks)
    ]
    named = [check.adapter for check, yes in zip(checks, broken(checks), strict=True) if yes]
    note = f"Broken by this change, at a false discovery rate of 5 %: {', '.join(named)}." if named else "None is shown to be broken."
    table = parts.table("The adapters, the worst first", ("adapter", "new base", "verdict", "in one sentence"), rows)
    return f"{table}\n<p>{esc(note)}</p>"


def _section(check: Check, anchor: str, *, headed: bool) -> str:
    level = 3 if headed else 2
    head = f"<h2>{esc(_title(check))}</h2>" if headed else ""
    blocks = [
        ("The four arms", _scores(check)),
        ("Rows that changed", _flips(check)),
        ("What differs between the bases", parts.findings(check.structure)),
        ("The weights", parts.drift(check.weights) if check.weights else ""),
        ("What both models do on prompts without labels", parts.probes(check.probes) if check.probes else ""),
        ("Is the new base healthy by itself?", parts.health(check.health) if check.health else ""),
        ("What retraining would give", _retrained(check)),
        ("How sure is this?", _sure(check)),
        ("How it was measured", _how(check)),
    ]
    shown = "\n".join(f"<h{level}>{esc(title)}</h{level}>\n{text}" for title, text in blocks if text)
    first = f'<p class="verdict">{parts.badge(check.word)} {esc(sentence(check))}</p>'
    why = f"<p>{esc(check.verdict.because)}</p>" if check.verdict is not None else ""
    return f'<section id="{anchor}">\n{head}\n{first}\n{why}\n{shown}\n</section>'


_ARM_NAMES = {"home": "{home}", "home_adapter": "{home} with {adapter}", "new": "{base}", "new_adapter": "{base} with {adapter}"}
_DIFFERENCES = {
    "gain": "gain at home: what the adapter gives on {home}",
    "transfer": "gain now: what it gives on {base}",
    "served": "what the user sees: {base} with it, against {home} with it",
    "alone": "{base} alone, against {home} with it",
    "kept": "gain now, less {share} of the gain at home",
}


def _fill(text: str, check: Check) -> str:
    return text.format(home=check.home, base=check.base, adapter=check.adapter)


def _scores(check: Check) -> str:
    verdict = check.verdict
    if verdict is None or not verdict.arms:
        return ""
    names = [(arm, _fill(_ARM_NAMES[arm], check)) for arm in ARMS if arm in verdict.arms]
    blocks = []
    for metric in shown_metrics(verdict):
        blocks.append(parts.bars(metric, [(name, verdict.arms[arm][metric]) for arm, name in names], verdict))
        if metric in verdict.contrasts:
            blocks.append(_differences(check, metric, verdict.contrasts[metric], verdict))
    return "\n".join(blocks)


def shown_metrics(verdict: Verdict) -> list[str]:
    """The metric that decided, then the others; an exact match that says the same as the dataset's scorer is left out."""
    known = [m for m in (verdict.metric, *verdict.contrasts) if all(m in values for values in verdict.arms.values())]
    twice = "right" in known and all(values["right"] == values.get("exact_match") for values in verdict.arms.values())
    return [m for m in dict.fromkeys(known) if not (twice and m == "exact_match" != verdict.metric)]


def _differences(check: Check, metric: str, c: Contrasts, verdict: Verdict) -> str:
    share = f"{100 * (1 - verdict.settings.delta):.0f} %"
    rows = [
        (esc(key), esc(text.replace("{share}", share).format(home=check.home, base=check.base)), esc(span(metric, getattr(c, key))),
         esc(getattr(c, key).method))
        for key, text in _DIFFERENCES.items()
    ]  # fmt: skip
    caption = f"Differences in {parts.METRICS[metric]}, n = {verdict.n:,} test rows; positive is good news"
    return parts.table(caption, ("", "difference", "value", "interval by"), rows)


def _flips(check: Check) -> str:
    verdict, text = check.verdict, ""
    if verdict is not None and verdict.lost_rows is not None and verdict.lost_share is not None:
        low, high = verdict.lost_share
        text = (
            f"<p>Of {verdict.n:,} test rows, {verdict.lost_rows:,} were right on {esc(check.home)} with the adapter and are wrong now "
            f"({100 * verdict.lost_rows / verdict.n:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f}); "
            f"{verdict.won_rows or 0:,} went the other way (exact McNemar p {parts.p_value(verdict.flip_p)}).</p>"
        )
    return text + (parts.witnesses(check.witnesses, check.home, check.base) if check.witnesses else "")


def _retrained(check: Check) -> str:
    one = check.retrained
    if one is None:
        return ""
    lift = "The lift of retraining is too small to divide by, so no recovered lift is given."
    if one.recovered is not None:
        ends = "" if one.recovered_low is None or one.recovered_high is None else f" ({one.recovered_low:.2f} to {one.recovered_high:.2f})"
        lift = f"Recovered lift R = {one.recovered:.2f}{ends}: the share of the gain of retraining that the copy has."
    verdict = check.verdict
    raw = ""
    if verdict is not None and one.metric in verdict.arms.get("new_adapter", {}):
        new = {arm: score(one.metric, verdict.arms[arm][one.metric]) for arm in ("new", "new_adapter")}
        raw = f" {check.base} has {new['new']} without the adapter and {new['new_adapter']} with the copy, n = {verdict.n:,}."
    text = f"Trained anew on {check.base} in {one.seconds:.0f} s it has {score(one.metric, one.score)}, {span(one.metric, one.headroom)}"
    return f"<p>{esc(text)} more than the copy.{esc(raw)} {esc(lift)}</p>"


def _sure(check: Check) -> str:
    verdict = check.verdict
    if verdict is None:
        return "<p>Nothing was tested. Structure, weights and probes explain; they do not decide.</p>"
    if not verdict.n:
        return "<p>A structural break needs no test rows.</p>"
    s = verdict.settings
    facts: dict[str, object] = {
        "test rows": f"{verdict.n:,}",
        "groups resampled as one": verdict.groups,
        "p that the user loses no more than the limit": parts.p_value(verdict.p_worse) if verdict.p_worse is not None else None,
        "test rows that would settle it": f"{verdict.rows_needed:,}" if verdict.rows_needed else None,
        "limits": f"{100 * s.epsilon:g} points of success, {s.epsilon_nll:g} nats a token or bits a byte, {100 * s.delta:g} % of the gain",
        "intervals": f"{100 * s.level:g} %, {s.resamples:,} resamples shared by all arms (seed {s.seed}); "
        "exact bounds where fewer than 20 rows differ",
    }
    few = (
        "<p>Fewer than 500 test rows: small differences in success cannot be seen.</p>"
        if verdict.n < 500 and verdict.metric in SUCCESS
        else ""
    )
    return parts.facts(facts) + few


def _how(check: Check) -> str:
    record: Mapping[str, object] = {
        "adapter": f"{check.adapter}, manifest sha256 {check.adapter_sha256[:16]}",
        "old base": f"{check.home}, lock sha256 {check.home_lock_sha256[:16]}",
        "new base": f"{check.base}, lock sha256 {check.base_lock_sha256[:16]}",
        "dataset": check.dataset,
        **{key.replace("_", " "): parts.plain(value) for key, value in check.how.items()},
        "checked": check.created_at,
        "job": check.job_id,
    }
    return parts.facts(record) + "".join(f"<p>Note: {esc(warning)}</p>" for warning in check.warnings)
