"""`workbench rebase`: does an adapter still work on another base?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from workbench.cli.follow import watch
from workbench.cli.groups import LazyGroup, bench, json_option
from workbench.cli.output import ago, fields, note, print_json, say, short, table
from workbench.errors import NotFound, WorkbenchError
from workbench.rebase.result import DEFAULT_STAGES, STAGES, Settings

if TYPE_CHECKING:
    from workbench.rebase.result import Check, Contrasts

__all__ = ["matrix", "rebase", "show"]

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_FAILED = 3  # --fail-on was met; 1 is an error, 2 a wrong call
FAIL_ON = ("too close to tell", "weaker", "lost", "does harm", "cannot load")
_FILE = click.Path(path_type=Path, dir_okay=False)
_COMMANDS = {
    "check": ("workbench.cli.rebase:check", "Check one or more adapters on a new base."),
    "show": ("workbench.cli.rebase:show", "Everything a finished check found."),
    "matrix": ("workbench.cli.rebase:matrix", "Adapters against bases, from the checks made so far."),
    "findings": ("workbench.cli.rebase:findings", "Explain the named findings of the first stage."),
    "selftest": ("workbench.cli.rebase_selftest:selftest", "Try the check on cases whose answer is known, on a real model."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def rebase() -> None:
    """Does an adapter made for one base still work on another?

    Bases of one family are not interchangeable because they have the same shape. The check compares four arms on the adapter's
    frozen test set - the old base and the new one, each without and with the adapter - and says in one word what it means.
    """


def _limit(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=float, metavar="X", help=f"{text} Default: {getattr(Settings, name):.2f}.")


@click.command()
@click.argument("adapters", metavar="ADAPTER...", nargs=-1, required=True)
@click.option("--onto", metavar="BASE", required=True, help="The new base, family@version.")
@click.option("--stages", metavar="LIST", help=f"Comma-separated: {', '.join(STAGES)}. Default: all but probes.")
@click.option("--probes", is_flag=True, help="Also probe both bases with the test prompts, without their answers.")
@click.option("--retrain", is_flag=True, help="Also train on the new base by the stored recipe, for the ceiling. Takes as long as that.")
@click.option("--rows", type=click.IntRange(1), metavar="N", help="Score at most so many test rows: faster, and less is proven.")
@click.option("--fail-on", type=click.Choice(FAIL_ON), help=f"Exit with {EXIT_FAILED} when a verdict is this one or a worse one.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="FILE",
              help="Write the checks as JSON (docs/json.md); - prints them instead of the words.")  # fmt: skip
@click.option("--report", "report_file", type=_FILE, metavar="FILE", help="Write a page that opens offline.")
@_limit("delta", "Share of the gain that the new base may have absorbed.")
@_limit("epsilon", "How much of a success score may go missing.")
@_limit("epsilon_nll", "The same in nats per token.")
@click.option("--detach", "-d", is_flag=True, help="Submit the job and return at once.")
def check(
    adapters: tuple[str, ...],
    onto: str,
    stages: str | None,
    probes: bool,
    retrain: bool,
    rows: int | None,
    fail_on: str | None,
    json_file: Path | None,
    report_file: Path | None,
    detach: bool,
    **limits: float | None,
) -> int:
    """Check ADAPTERs (name, name@3, name@champion) on a new base, which is loaded once for all of them.

    \b
    Exit status: 0 checked; 3 a verdict met --fail-on; 1 it could not be checked; 2 wrongly called.
    From good to bad: works, not needed, no gain at home, too close to tell, weaker, lost, does harm, cannot load.
    """
    work = bench()
    given = {key: value for key, value in limits.items() if value is not None}
    wanted = DEFAULT_STAGES if stages is None else [part.strip() for part in stages.split(",") if part.strip()]
    job = work.rebase.check(adapters, onto=onto, stages=wanted, probes=probes, retrain=retrain, rows=rows, settings=given)
    if detach:
        say(f"Job {job.id}: {job.title}. Follow it: workbench jobs follow {job.id}")
        return 0
    note(f"Job {job.id}. Ctrl-C lets go of it; it goes on.")
    result = watch(job.id).result or {}
    found = [work.rebase.get(one["adapter"], onto) for one in result["checks"]]
    _write(found, json_file, report_file)
    if str(json_file) != "-":
        for one in found:
            print_check(one)
    for adapter, message in result["failed"].items():
        note(f"{adapter} could not be checked: {message}")
    if result["failed"]:
        return 1
    return EXIT_FAILED if fail_on and any(_at_least(one.word, fail_on) for one in found) else 0


def _at_least(word: str | None, limit: str) -> bool:
    """True for a verdict as bad as `limit` or worse. Where nothing was decided, nothing failed."""
    from workbench.rebase.result import VERDICTS

    return word is not None and VERDICTS.index(word) >= VERDICTS.index(limit)


def _write(checks: list[Check], json_file: Path | None, report_file: Path | None) -> None:
    from workbench.rebase.report import html
    from workbench.rebase.store import finite

    if str(json_file) == "-":
        print_json([one.as_dict() for one in checks])
    elif json_file is not None:
        text = json.dumps(finite([one.as_dict() for one in checks]), ensure_ascii=False, indent=1)
        json_file.write_text(text + "\n", encoding="utf-8")
        note(f"Written to {json_file}.")
    if report_file is not None:
        report_file.write_text(html(checks), encoding="utf-8")
        note(f"Written to {report_file}.")


@click.command()
@click.argument("adapter")
@click.option("--onto", metavar="BASE", required=True, help="The base it was checked on.")
@json_option
def show(adapter: str, onto: str, as_json: bool) -> None:
    """Show everything that the newest check of ADAPTER on a base found."""
    found = bench().rebase.get(adapter, onto)
    if as_json:
        print_json(found.as_dict())
        return
    print_check(found)
    _print_weights(found)
    _print_probes(found)
    say()
    fields([("report", bench().rebase.report(found.adapter, onto)), ("made", _when(found)), ("job", found.job_id)])


@click.command()
@click.argument("adapters", metavar="[ADAPTER]...", nargs=-1)
@click.option("--check", "run", is_flag=True, help="First check what was not checked yet, one job per base.")
@json_option
def matrix(adapters: tuple[str, ...], run: bool, as_json: bool) -> None:
    """Adapters against bases: the word of the newest check, and what share of the test set is right without and with the adapter."""
    work = bench()
    bases = sorted((base.ref for base in work.bases.list()), key=lambda ref: (ref.family, _number(ref.version), ref.version))
    rows = [work.adapters.get(ref) for ref in adapters] if adapters else list(work.rebase.newest())
    if run:
        _check_missing(work, rows, bases)
    cells = {(a.ref, str(b)): work.rebase.find(a.ref, b) for a in rows for b in bases}
    if as_json:
        print_json([{"adapter": a, "base": b, "check": c.as_dict() if c else None} for (a, b), c in cells.items()])
        return
    body = []
    for adapter in rows:
        home = [f"home {_home_score(adapter)}" if b == adapter.base else _cell(cells[adapter.ref, str(b)]) for b in bases]
        body.append((adapter.ref, *home))
    table(("adapter", *map(str, bases)), body, empty="No adapters yet. Make one: workbench train --base … --dataset …")
    if safe := _safe(cells, rows, bases):
        say(safe)


def _number(version: str) -> int:
    return int(version) if version.isdigit() else -1


def _check_missing(work: Any, rows: list[Any], bases: list[Any]) -> None:
    for base in bases:
        missing = [a.ref for a in rows if a.base != base and a.scores and work.rebase.find(a.ref, base) is None]
        if missing:
            job = work.rebase.check(missing, onto=base)
            note(f"Job {job.id}: {job.title}.")
            watch(job.id)


def _home_score(adapter: Any) -> str:
    from workbench.evidence import Summary

    if not adapter.scores:
        return "(never scored)"
    scores = Summary.from_dict(adapter.scores)
    metric = "right" if scores.adapter.right is not None else "exact_match"
    return f"{100 * getattr(scores.base, metric):.0f} → {100 * getattr(scores.adapter, metric):.0f} %"


def _cell(found: Check | None) -> str:
    if found is None:
        return "-"
    if found.verdict is None or "new_adapter" not in found.verdict.arms:
        return found.word or "no verdict"
    metric = found.verdict.metric
    before, after = (found.verdict.arms[arm][metric] for arm in ("new", "new_adapter"))
    numbers = f"{100 * before:.0f} → {100 * after:.0f} %" if metric in ("right", "exact_match") else f"{before:.2f} → {after:.2f}"
    return f"{found.word} {numbers}"


def _safe(cells: dict[tuple[str, str], Check | None], rows: list[Any], bases: list[Any]) -> str:
    """Which releases are safe for every adapter, and which adapters are broken with a false discovery rate of 5 %."""
    from workbench.rebase.verdict import broken, safe_for_all

    lines = []
    for base in bases:
        away = [a for a in rows if a.base != base]
        found = [c for a in away if (c := cells[a.ref, str(base)]) is not None and c.word is not None]
        if found and len(found) == len(away) and safe_for_all(found):
            lines.append(f"{base} is safe for all {len(found)} adapters: each one passed on its own.")
        elif names := [c.adapter for c, bad in zip(found, broken(found), strict=True) if bad]:
            lines.append(f"{base} breaks {', '.join(names)} (false discovery rate 5 %, over {len(found)} checked).")
    return "\n".join(lines)


@click.command()
@click.argument("name", required=False)
@json_option
def findings(name: str | None, as_json: bool) -> None:
    """Explain the findings of stage 0, or the one called NAME (the same as docs/findings.md)."""
    from workbench.rebase.findings import CATALOGUE

    if name is not None and name not in CATALOGUE:
        raise NotFound.of("finding", name, sorted(CATALOGUE), command="workbench rebase findings")
    shown = {key: entry for key, entry in CATALOGUE.items() if name in (None, key)}
    if as_json:
        print_json(shown)
        return
    for key, entry in shown.items():
        say(click.style(f"{key}  ({entry.level})", bold=True))
        say(f"  {entry.explanation}\n  {entry.advice}")


# ---------------------------------------------------------------- one check in words


def print_check(found: Check) -> None:
    """The sentence, the numbers behind it, and everything that differs."""
    from workbench.rebase.report import sentence

    say()
    say(click.style(sentence(found), bold=True))
    if found.verdict is not None and found.verdict.contrasts:
        _print_numbers(found)
    if found.structure.findings:
        say("\nWhat differs:")
        fields([(f"  {f.level}  {f.name}", short(f.text, 110)) for f in found.structure.findings])
    if found.weights is not None:
        drift = found.weights.drift
        say(f"\nWeights: {found.weights.change}" + ("" if drift is None else f", moved by {100 * drift:.2g} %"))
    if found.health is not None:
        _print_health(found)
    if found.retrained is not None:
        _print_retrained(found)
    for warning in found.warnings:
        note(f"Note: {warning}")


def _print_numbers(found: Check) -> None:
    from workbench.rebase.report import shown_metrics

    verdict = found.verdict
    assert verdict is not None
    say(f"Because: {verdict.because}")
    units = f"{verdict.n} test rows" + (f" in {verdict.groups} groups" if verdict.groups else "")
    say(f"\n{units}; 95 % intervals; decided by {verdict.metric}.")
    names = (("home", found.home), ("home_adapter", "  + adapter"), ("new", found.base), ("new_adapter", "  + adapter"))
    metrics = shown_metrics(verdict)
    table(("", *metrics), [(label, *(f"{verdict.arms[arm][m]:.3f}" for m in metrics)) for arm, label in names], right=metrics)
    contrasts: tuple[tuple[str, str], ...] = (
        ("gain", "gain at home"), ("transfer", "gain on the new base"), ("served", "what the user feels"), ("alone", "the new base alone"),
    )  # fmt: skip
    table(("", *metrics), [(label, *(_interval(verdict.contrasts[m], key) for m in metrics)) for key, label in contrasts])
    if verdict.lost_rows is not None and verdict.lost_share is not None:
        low, high = verdict.lost_share
        say(
            f"Right before and wrong now: {verdict.lost_rows} of {verdict.n} ({100 * low:.1f} to {100 * high:.1f} %); "
            f"wrong before and right now: {verdict.won_rows}; McNemar p {verdict.flip_p:.2g}."
        )
    if verdict.rows_needed:
        say(f"About {verdict.rows_needed} test rows would settle it.")
    for witness in found.witnesses:
        say(f"  {short(witness.prompt, 100)}")
        fields(
            [
                ("    expected", short(witness.expected, 80)),
                ("    before", short(witness.home or "", 80)),
                ("    now", short(witness.new or "", 80)),
            ]
        )


def _interval(contrasts: Contrasts, key: str) -> str:
    found = getattr(contrasts, key)
    bounds = f" ({found.low:+.3f} to {found.high:+.3f})" if found.low is not None else ""
    return f"{found.value:+.3f}{bounds}"


def _print_health(found: Check) -> None:
    health = found.health
    assert health is not None
    levels = f"{health.new:.3f} bits per byte" + (f", {health.home:.3f} under the old one" if health.home is not None else "")
    word = " The base itself got worse: that is not the adapter's fault." if health.broken else ""
    say(f"Base health: neutral text ({health.passages} passages) costs {levels}.{word}")


def _print_retrained(found: Check) -> None:
    again = found.retrained
    assert again is not None
    share = "the lift is too small to divide by"
    if again.recovered is not None:
        share = f"the copy recovers R = {again.recovered:.2f} of it ({again.recovered_low:.2f} to {again.recovered_high:.2f})"
    say(f"Retrained on {found.base}: {again.metric} {again.score:.3f}; {share}.")


def _print_weights(found: Check) -> None:
    if found.weights is None or not found.weights.modules:
        return
    say()
    worst = sorted(found.weights.modules, key=lambda m: -m.drift)[:10]
    rows = [(m.module, f"{m.drift:.4f}", *(_number_or(v) for v in (m.ratio, m.input, m.output, m.alignment))) for m in worst]
    table(("the modules that moved most", "drift", "ratio", "input", "output", "alignment"), rows)


def _number_or(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _print_probes(found: Check) -> None:
    probes = found.probes
    if probes is None:
        return
    say()
    shown = [
        ("prompts", probes.prompts),
        ("CKA, mean of layers", _number_or(probes.cka_mean)),
        ("same next token", _number_or(probes.top1_agreement)),
        ("divergence (nats)", _number_or(probes.jsd)),
        ("effect: correlation", _number_or(probes.effect_correlation)),
        ("effect: slope", _number_or(probes.effect_slope)),
        ("effect: KL ratio", _number_or(probes.effect_ratio)),
        ("nats per token by dose", "  ".join(f"{alpha}: {nats:.3f}" for alpha, nats in probes.dose.items())),
    ]
    fields(shown)


def _when(found: Check) -> str:
    from datetime import datetime

    if not found.created_at:
        raise WorkbenchError("This check has no date.", hint="Check again.")
    return ago(datetime.fromisoformat(found.created_at))
