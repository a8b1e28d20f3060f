"""What is wrong with a set of rows, row by row, and what is worth knowing about them."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from workbench.data.rows import Row, answer_of, content_of, dumps, place_of, question_of, subject_of, texts_of, uses_tools
from workbench.data.similar import Likeness, normalise

__all__ = [
    "BLOCKING", "KINDS", "LISTED", "Finding", "Report", "RowLength", "add_lengths", "check", "is_label_like", "sound_rows",
]  # fmt: skip

# What can be wrong with a row; `drop` takes these names, and the pages say them in words. The first kinds stop a whole file.
BLOCKING = (
    "broken",  # not a row that can be read
    "tools",  # a tool call, tool result or tool list that is not well formed
    "empty",  # an empty question or answer
    "roles",  # turns in an order that cannot be learned from
    "characters",  # characters that cannot be text
    "split",  # a row of a part that is neither train, validation nor test
    "weight",  # a weight that is neither 0 nor 1
    "overlap",  # a training row that is also a test row
    "answer_lost",  # longer than max_length, so that nothing of the answer is left
    "no_supervised",  # no token to learn from
)
KINDS = (
    *BLOCKING,
    "cut",  # longer than max_length, so that its end is cut off
    "duplicate",  # the same row again
    "conflict",  # the same question with another answer
    "near_duplicate",  # nearly the same question as an earlier row
    "near_overlap",  # a training row nearly the same as a test row
    "garbled",  # a replacement character: some text was lost in an earlier conversion
    "markers",  # chat-template markers inside the text
    "left_out",  # a row left out because the file says that it is not to be learned
    "lost",  # something in the row that is not learned from, such as a picture or a key of a message
    "tool_use",  # a row that offers or calls tools, well formed or not: only ever named by `drop`
    "imbalance",  # some answers are far rarer than others
)
_MARKERS = "<|im_start|> <|im_end|> <|eot_id|> <|endoftext|> <|start_header_id|> <start_of_turn> <end_of_turn> [/INST] </s>".split()
_NOT_TEXT = re.compile("[\\x00-\\x08\\x0b\\x0e-\\x1f\\ud800-\\udfff\\ufdd0-\\ufdef]")  # control characters, half pairs, non-characters
LISTED = 1000  # findings of one kind that are kept; all are counted
_LABEL = 64  # characters of a label, at most
_SHOWN = 60  # characters of a text that a message quotes


@dataclass(frozen=True)
class Finding:
    """One thing found. `row` is the line of a JSONL or CSV file, else the row counted from 1; None means the whole file."""

    kind: str
    row: int | None
    message: str
    file: str = ""  # named only when rows come from two files
    index: int | None = None  # position in the list that was checked; not kept in the report

    def __str__(self) -> str:
        place = f"{self.file} " if self.file else ""
        return f"{place}row {self.row}: {self.message}" if self.row is not None else f"{place}{self.message}"

    def as_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"kind": self.kind, "row": self.row, "message": self.message}
        return {**out, "file": self.file} if self.file else out


@dataclass(frozen=True)
class RowLength:
    """What the real tokenizer and template make of one row; counted in tokens."""

    total: int  # before cutting
    supervised: int  # learned, after it
    cut: bool  # tokens were dropped at the end
    answer_lost: bool  # no token of the last answer is left
    ends: bool = True  # an answer is learned up to its end-of-turn token
    altered: bool = False  # the template drops white space around an answer
    tools_lost: bool = False  # the row offers tools, and the template does not show them


@dataclass
class Report:
    """All findings and figures of one check. `problems` block, `warnings` do not."""

    rows: int = 0
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)  # kind -> rows left out as told
    notes: list[str] = field(default_factory=list)  # how the file was read, in words
    characters: dict[str, Any] = field(default_factory=dict)  # histogram of question + answer
    tokens: dict[str, Any] | None = None  # histogram of whole rows, with "supervised", "cut", "answer_lost"
    answers: dict[str, Any] | None = None  # balance, when answers are short and few
    tool_rows: int = 0
    counted: Counter[str] = field(default_factory=Counter)  # kind -> findings, also those beyond `LISTED`
    listed: Counter[str] = field(default_factory=Counter, repr=False)  # kind -> findings that `add` has listed
    likeness: Likeness | None = field(default=None, repr=False)  # of the rows to each other; for the split
    last: str = ""  # the file whose rows come after those of the other
    drop: Sequence[str] = ()  # kinds of rows that are to be left out
    out: dict[int, str] = field(default_factory=dict, repr=False)  # position of such a row -> its kind; to be taken out, then counted

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def counts(self) -> dict[str, int]:
        """kind -> how many findings, in the order of `KINDS`."""
        counted = self.counted | Counter(f.kind for f in [*self.problems, *self.warnings])
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    @property
    def blocking(self) -> int:
        """How many problems there are; `problems` lists at most `LISTED` of a kind."""
        return sum(n for kind, n in self.counts.items() if kind in BLOCKING)

    def add(self, findings: Iterable[Finding], rows: int = 1) -> None:
        """Take findings in, each of which may stand for several `rows`; those of rows that are to be left out are not listed."""
        for finding in findings:
            kind = finding.kind
            if kind in self.drop and finding.index is not None:
                self.out[finding.index] = kind
            elif kind in self.drop and kind in BLOCKING:  # of a row that was never converted
                self.dropped[kind] += rows
            else:
                if self.listed[kind] < LISTED:
                    self.listed[kind] += 1
                    (self.problems if kind in BLOCKING else self.warnings).append(finding)
                self.counted[kind] += rows

    def sort(self) -> None:
        """Put the problems in the order of the rows."""
        self.problems.sort(key=lambda f: (bool(f.file) and f.file == self.last, f.row or 0))

    def __str__(self) -> str:
        counts = self.counts
        head = f"{self.rows:,} rows: {self.blocking:,} problems, {sum(counts.values()) - self.blocking:,} warnings"
        return "\n".join([head, *map(str, self.problems), *map(str, self.warnings)])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values under stable keys."""
        return {
            "rows": self.rows,
            "ok": self.ok,
            "counts": self.counts,
            "problems": [f.as_dict() for f in self.problems],
            "warnings": [f.as_dict() for f in self.warnings],
            "dropped": dict(self.dropped),
            "notes": list(self.notes),
            "characters": self.characters,
            "tokens": self.tokens,
            "answers": self.answers,
            "tool_rows": self.tool_rows,
        }


def _finding(kind: str, row: Row, i: int, message: str) -> Finding:
    line, file = place_of(row, i)
    return Finding(kind, line, message, file, i)


def _at(rows: Sequence[Row], i: int) -> str:
    line, file = place_of(rows[i], i)
    return f"{file} row {line}" if file else f"row {line}"


def check(rows: Sequence[Row], report: Report | None = None) -> Report:
    """Check canonical rows, which may say where they came from (`rows.place_of`).

    Rows are compared across train and test when they carry a `split`. Nothing is changed; what is found is added to `report`, if given.
    """
    report = report or Report()
    report.rows = len(rows)
    likeness, sides, sizes = Likeness(), [], []
    answers: Counter[str] | None = Counter()
    for i, row in enumerate(rows):
        if uses_tools(row):
            report.tool_rows += 1
            report.out |= {i: "tool_use"} if "tool_use" in report.drop else {}
        report.add(_finding(kind, row, i, message) for kind, message in _row_problems(row))
        likeness.add(normalise(subject_of(row)))
        sides.append(row.get("split"))
        answer = answer_of(row)
        sizes.append(len(question_of(row)) + len(answer))
        answers = _count(answers, answer)
    report.likeness = likeness
    report.add(_repeats(rows, sides, likeness.same, likeness.near))
    report.characters = _histogram(sizes)
    report.answers = _balance(answers) if answers else None
    if report.answers:
        report.add(_rare_answers(report.answers))
    report.sort()
    return report


def sound_rows(rows: Sequence[Row], report: Report) -> Iterator[tuple[int, str, Row]]:
    """(line, file, row) of every row without a problem in its `report`: a chat template may refuse the others."""
    bad = {finding.index for finding in report.problems}
    return ((*place_of(row, i), row) for i, row in enumerate(rows) if i not in bad)


def add_lengths(report: Report, sound: Iterator[tuple[int, str, Row]], lengths_of: Callable[[Sequence[Row]], Sequence[RowLength]]) -> None:
    """Add to a report what rows (of `sound_rows`) are long under a base's own tokenizer and chat template, which `lengths_of` knows."""
    lengths = []
    while batch := list(islice(sound, 10_000)):
        for (line, file, _), length in zip(batch, lengths_of([row for *_, row in batch]), strict=True):
            kind, message = _length_problem(length) or ("", "")
            if kind and kind in report.drop:
                report.dropped[kind] += 1
                report.rows -= 1
                continue
            lengths.append(length)
            if kind:
                report.add([Finding(kind, line, message, file)])
    report.tokens = {
        **_histogram([n.total for n in lengths]),
        "supervised": sum(n.supervised for n in lengths),
        "cut": sum(n.cut for n in lengths),
        "answer_lost": sum(n.answer_lost for n in lengths),
        "no_supervised": sum(n.supervised == 0 for n in lengths),
    }
    report.sort()


def _length_problem(n: RowLength) -> tuple[str, str] | None:
    """(kind, message), where there is one."""
    if n.answer_lost:
        return "answer_lost", f"is longer than max_length ({n.total} tokens) and loses its whole answer."
    if n.supervised == 0:
        return "no_supervised", "has no token to learn from under this base's chat template."
    return ("cut", f"is longer than max_length ({n.total} tokens) and loses its end.") if n.cut else None


def _row_problems(row: Row) -> Iterable[tuple[str, str]]:
    if row["form"] == "messages":
        if problem := _role_problem(row["messages"]):
            yield "roles", problem
        yield from _empty_turns(row["messages"])
    elif not answer_of(row).strip():
        yield "empty", "the text is empty." if row["form"] == "text" else "the completion is empty."
    texts = [*texts_of(row), *([dumps(content_of(row))] if uses_tools(row) else [])]
    if bad := next(filter(None, map(_NOT_TEXT.search, texts)), None):
        character = f"the character U+{ord(bad.group()):04X}"
        yield "characters", f"contains {character}, which cannot be text; was the file read in the right encoding?"
    if any("\ufffd" in text for text in texts):
        yield "garbled", "contains U+FFFD, which stands where a character was lost."
    if row["form"] == "messages" and (marker := next((m for m in _MARKERS if any(m in text for text in texts)), None)):
        yield "markers", f"the text contains {marker}, which a base may read as the end or start of a turn."


_ALLOWED = {("user", "assistant"), ("assistant", "user"), ("assistant", "tool"), ("tool", "tool"), ("tool", "assistant")}


def _role_problem(messages: list[dict[str, Any]]) -> str | None:
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if "assistant" not in turns:
        return "there is no assistant message to learn from."
    if "system" in turns:
        return f"message {len(roles) - roles[::-1].index('system')} is a system message; only the first may be."
    if turns[0] != "user":
        return f"the conversation starts with {turns[0]}, not with user."
    for i, (before, now) in enumerate(zip(turns, turns[1:], strict=False), start=2 + len(roles) - len(turns)):
        if (before, now) not in _ALLOWED:
            return f"message {i} is {now} after {before}; user and assistant take turns."
        if now == "tool" and before == "assistant" and not messages[i - 2].get("tool_calls"):
            return f"message {i} is a tool result, but the assistant called no tool."
    return None if turns[-1] == "assistant" else f"the last message is from {turns[-1]}; it must be the assistant's answer."


def _empty_turns(messages: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    for i, message in enumerate(messages, start=1):
        if not message["content"].strip() and not message.get("tool_calls") and message["role"] != "tool":
            what = {"assistant": "answer", "user": "question", "system": "system message"}[message["role"]]
            yield "empty", f"the {what} (message {i}) is empty."


def _repeats(rows: Sequence[Row], sides: Sequence[str | None], same: Sequence[int], near: Sequence[int]) -> Iterable[Finding]:
    def finding(kind: str, i: int, message: str) -> Finding:
        return _finding(kind, rows[i], i, message)

    tested = _first_test_row(sides, same), _first_test_row(sides, near)
    again = {group for group, n in Counter(same).items() if n > 1}
    seen: dict[tuple[int, str, int], int] = {}  # group and row, or group and answer, to where it came first
    for i, side in enumerate(sides):
        if side == "train" and same[i] in tested[0]:
            yield finding("overlap", i, f"is also in the test part: {_at(rows, tested[0][same[i]])}.")
        elif side == "train" and near[i] in tested[1]:
            yield finding("near_overlap", i, f"is nearly the same as a test row: {_at(rows, tested[1][near[i]])}.")
        if same[i] in again:
            said = answer_of(row := rows[i])
            whole, answer = (same[i], "row", hash(dumps(content_of(row)))), (same[i], "answer", hash(normalise(said)))
            if whole in seen:
                yield finding("duplicate", i, f"is the same as {_at(rows, seen[whole])}.")
            elif answer in seen:
                yield finding("duplicate", i, f"says the same as {_at(rows, seen[answer])}.")
            elif same[i] != i:
                yield finding("conflict", i, f"asks the same as {_at(rows, same[i])} but answers {_quote(said)}.")
            seen.setdefault(whole, i)
            seen.setdefault(answer, i)
        if same[i] == i and near[i] != i:
            yield finding("near_duplicate", i, f"is nearly the same as {_at(rows, near[i])}.")


def _first_test_row(sides: Sequence[str | None], groups: Sequence[int]) -> dict[int, int]:
    first: dict[int, int] = {}
    for i, side in enumerate(sides):
        if side == "test":
            first.setdefault(groups[i], i)
    return first


def _quote(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _histogram(values: Sequence[int]) -> dict[str, Any]:
    """`{"min", "median", "p95", "max", "sum", "edges", "counts"}`; bin i holds values from edges[i] up to edges[i + 1]."""
    if not values:
        return {}
    ordered = sorted(values)
    edges = [0, 16]
    while edges[-1] <= ordered[-1]:
        edges.append(edges[-1] * 2)
    counts = [0] * (len(edges) - 1)
    for value in ordered:
        counts[0 if value < 16 else value.bit_length() - 4] += 1
    return {
        "min": ordered[0],
        "median": statistics.median_low(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "max": ordered[-1],
        "sum": sum(ordered),
        "edges": edges,
        "counts": counts,
    }


def _count(answers: Counter[str] | None, answer: str) -> Counter[str] | None:
    """One answer more; None once they cannot be labels."""
    if answers is None or len(answer) > _LABEL:
        return None
    answers[answer.strip()] += 1
    return answers


def is_label_like(answers: Sequence[str]) -> bool:
    """True when the answers are a few short labels that come back again and again (5 rows a label, on average, at least)."""
    return max(map(len, answers), default=0) <= _LABEL and _balance(Counter(a.strip() for a in answers)) is not None


def _balance(counts: Counter[str]) -> dict[str, Any] | None:
    """How often each answer comes, most frequent first, when answers are label-like; else None."""
    rows, different = counts.total(), {normalise(a) for a in counts}
    if rows < 10 or not 2 <= len(different) <= rows / 5:
        return None
    return {"different": len(counts), "counts": dict(counts.most_common())}


def _rare_answers(answers: dict[str, Any]) -> Iterable[Finding]:
    counts: dict[str, int] = answers["counts"]
    most = max(counts.values())
    rare = [f"{_quote(a)} ({n})" for a, n in counts.items() if n * 20 < most]
    if rare:
        listed = ", ".join(rare[:10]) + (f" and {len(rare) - 10} more" if len(rare) > 10 else "")
        message = f"{len(rare)} answers come less than a twentieth as often as the commonest ({most} rows): {listed}."
        yield Finding("imbalance", None, message)
