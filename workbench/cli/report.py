"""Prints what a check of training rows found: problems and warnings by row, lengths, balance of the answers."""

from __future__ import annotations

import sys
from typing import Any

import click

from workbench.cli.output import count, say, short

__all__ = ["print_report", "summary_line"]

_FEW = 8  # warnings of one kind that are shown without --all
_BAR = 30


def print_report(report: dict[str, Any], *, everything: bool = False) -> None:
    """Print `Report.as_dict()`: every problem, the first few warnings of each kind, and the figures."""
    for text in report["notes"]:
        say(text)
    say(summary_line(report))
    if report["problems"]:
        say(click.style("\nProblems, which block:", fg="red"))
        for finding in report["problems"]:
            say(f"  {_finding(finding)}")
        kinds = dict.fromkeys(finding["kind"] for finding in report["problems"])
        if (more := _total(report, "problems") - len(report["problems"])) > 0:
            say(f"  … and {count(more)} more")
        say(f"Mend the rows, or leave them out: workbench data add … {' '.join(f'--drop {kind}' for kind in kinds)}")
    if report["warnings"]:
        say(click.style("\nWarnings:", fg="yellow"))
        _print_warnings(report["warnings"], everything)
    _print_lengths("characters", report.get("characters"))
    _print_lengths("tokens", report.get("tokens"))
    _print_answers(report.get("answers"), everything)


def summary_line(report: dict[str, Any]) -> str:
    """`1,200 rows: no problems, 3 warnings (3 near_duplicate). Left out: 2 empty.`"""
    parts = []
    for key, word in (("problems", "problem"), ("warnings", "warning")):
        n = _total(report, key)
        parts.append(f"{count(n) if n else 'no'} {word}{'' if n == 1 else 's'}")
    kinds = ", ".join(f"{count(n)} {kind}" for kind, n in report["counts"].items())
    dropped = ", ".join(f"{count(n)} {kind}" for kind, n in report["dropped"].items())
    text = f"{count(report['rows'])} rows: {', '.join(parts)}{f' ({kinds})' if kinds else ''}."
    return text + (f" Left out as told: {dropped}." if dropped else "")


def _total(report: dict[str, Any], key: str) -> int:
    """How many problems or warnings there are; a report lists only so many of a kind."""
    return sum(report["counts"][kind] for kind in {finding["kind"] for finding in report[key]})


def _finding(finding: dict[str, Any]) -> str:
    place = f"row {finding['row']}: " if finding["row"] is not None else ""
    file = f"{finding['file']} " if finding.get("file") else ""
    return f"{file}{place}{finding['message']}"


def _print_warnings(warnings: list[dict[str, Any]], everything: bool) -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for finding in warnings:
        by_kind.setdefault(finding["kind"], []).append(finding)
    for kind, findings in by_kind.items():
        shown = findings if everything else findings[:_FEW]
        for finding in shown:
            say(f"  {_finding(finding)}")
        if len(findings) > len(shown):
            say(f"  … and {count(len(findings) - len(shown))} more of the kind {kind}: add --all")


def _print_lengths(unit: str, figures: dict[str, Any] | None) -> None:
    if not figures:
        return
    middle, longest, total = (count(figures[key]) for key in ("median", "max", "sum"))
    say(f"\nLength in {unit}: median {middle}, longest {longest}, {total} in all")
    if unit == "tokens":
        lost = f"{count(figures['cut'])} rows cut, {count(figures['answer_lost'])} of them lose their whole answer"
        say(f"  {count(figures['supervised'])} of them learned; {lost}")
    most = max(figures["counts"]) or 1
    block = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    for low, high, n in zip(figures["edges"], figures["edges"][1:], figures["counts"], strict=False):
        if n:
            say(f"  {f'{low}-{high - 1}':>13}  {block * max(1, round(_BAR * n / most)):<{_BAR}}  {count(n):>7}")


def _print_answers(answers: dict[str, Any] | None, everything: bool) -> None:
    if not answers:
        return
    counts = list(answers["counts"].items())
    (most, m), (least, n) = counts[0], counts[-1]
    say(f"\nAnswers: {answers['different']} different; commonest {most!r} ({count(m)}), rarest {least!r} ({count(n)})")
    for answer, n in counts if everything else []:
        say(f"  {n:>7}  {short(answer, 60)}")
