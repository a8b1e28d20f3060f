"""Which format a file is in, found out from its columns; what cannot be known is asked, in words."""

from __future__ import annotations

import shlex
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.data.checks import Finding, Report, is_label_like
from workbench.data.columns import ANSWERS, CONVERSATIONS, LABELS, QUESTIONS, ROLES
from workbench.data.convert import CONVERTERS, Context, turns_in
from workbench.data.readers import read_source
from workbench.data.rows import Row, RowFile, texts_of
from workbench.data.source import RowError, Source, letter, shown
from workbench.data.wanted import WATCHED, LeftOut, Wanted, doubt, split_column, wanted
from workbench.errors import DataError, UsageError

__all__ = ["FORMATS", "Parsed", "Recognised", "read_rows", "recognise"]

FORMATS = tuple(CONVERTERS)
_MEDIA = ("image", "video", "audio")
_ALIASES = {"prompt": "question", "instruction": "question", "completion": "answer", "output": "answer", "input": "context"}


@dataclass(frozen=True)
class Recognised:
    """What a file turned out to be. `question` is set when that cannot be known; `flags` answer it with yes."""

    format: str | None  # one of FORMATS, or None with a question
    columns: list[str]
    how: str
    mapping: dict[str, str] = field(default_factory=dict)
    question: str | None = None
    flags: str = ""
    unused: list[str] = field(default_factory=list)  # columns that the format has no place for


@dataclass(frozen=True)
class Parsed:
    """Canonical rows without ids, the line each came from, and what went wrong or was noticed on the way."""

    rows: Any  # a list, or the `RowFile` that was given
    lines: array[int]
    report: Report  # of the rows that could not be converted, or were left out
    notes: list[str]
    recognised: Recognised
    sha256: str  # of the bytes that were read

    @property
    def problems(self) -> list[Finding]:
        return self.report.problems


def recognise(path: str | Path, *, mapping: Mapping[str, str] | None = None, form: str | None = None) -> Recognised:
    """Find the format of a file. Raises `DataError` for a file that is no table, `UsageError` for a wrong mapping or form."""
    return _recognise(read_source(Path(path), WATCHED)[0], mapping, form, None)


def read_rows(
    path: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    form: str | None = None,
    raw: bool = False,
    system: str | None = None,
    role: str | None = None,
    into: RowFile | None = None,
) -> Parsed:
    """Read and convert a file. Raises `DataError` when it is no table or its format has to be asked for.

    With `raw`, prompt and completion stay as they are and no chat template is used. `system` is put in front of every
    row that has no system message of its own. `role` is "train" or "test" where that is what the whole file is given for.
    Rows are added to `into`, if given.
    """
    path = Path(path)
    source, sha256 = read_source(path, WATCHED)
    found = _recognise(source, mapping, form, role)
    if found.format is None:
        raise DataError(f"{shown(path.name)}: {found.question}", hint=f"If so, add: {found.flags}")
    if system is not None and not system.strip():
        raise UsageError("The system message is empty.", hint="Leave out --system.")
    if system is not None and (raw or found.format == "text"):
        raise UsageError("A system message belongs to a conversation; these rows have none.", hint="Leave out --system.")
    ctx = Context(mapping=found.mapping, raw=raw, system=system)
    decide = wanted(source, found.mapping, role)
    rows: Any = into if into is not None else []
    lines, report, left = array("L"), Report(), Counter[str]()
    for number, value in source.read():
        try:
            rows.append(_convert(value, str(found.format), ctx, decide, role))
            lines.append(number)
        except LeftOut as reason:
            left[str(reason)] += 1
        except (RecursionError, ValueError) as error:
            report.add([_as_finding(number, error)])
    for kind, words, counter in (("left_out", "left out", left), ("lost", "of", ctx.lost)):
        for text, n in counter.most_common():
            report.add([Finding(kind, None, f"{n:,} row{'s' if n > 1 else ''} {words}: {text}.")], n)
    unused = ", ".join([name for name in found.unused if name not in decide.columns][:12])
    notes = [f"{source.how}; {found.how}" + (f"; left out: {unused}" if unused else ""), *source.notes, *decide.notes]
    notes += [f"{note} ({n} times)" if n > 1 else note for note, n in ctx.noticed.most_common()]
    return Parsed(rows, lines, report, notes, found, sha256)


def _convert(value: dict[str, Any] | RowError, format: str, ctx: Context, decide: Wanted, role: str | None) -> Row:
    if isinstance(value, RowError):
        raise value
    side = decide(value) or role
    row = CONVERTERS[format](value, ctx)
    _notice_lost(row, value, ctx)
    return row if side is None else {**row, "split": side}


def _as_finding(number: int, error: Exception) -> Finding:
    if isinstance(error, RowError):
        return Finding(error.kind, number, str(error))
    return Finding("broken", number, "is nested too deeply." if isinstance(error, RecursionError) else "holds a number that is not finite.")


def _notice_lost(row: Row, value: Mapping[str, Any], ctx: Context) -> None:
    """Pictures, sounds and rejected answers of a row are not learned from."""
    if value.get("rejected"):
        ctx.lost["its rejected answer was left out"] += 1
    for text in texts_of(row):
        if "<" in text:
            for tag in _MEDIA:
                if f"<{tag}>" in text:
                    ctx.lost[f"its text holds <{tag}>, but the {tag} itself is not learned from"] += 1
    for tag in _MEDIA:
        for column in (tag, f"{tag}s"):
            if value.get(column) and column not in ctx.mapping.values():
                ctx.lost[f"what its column '{column}' holds was left out"] += 1


def _recognise(source: Source, given: Mapping[str, str] | None, form: str | None, role: str | None) -> Recognised:
    """The format by names or as told, and then what remains to be asked: which rows are good, which are test rows."""
    if form is not None and form not in FORMATS:
        raise UsageError(f"There is no form '{form}'.", hint=f"There are: {', '.join(FORMATS)}.")
    told = {role: column for role, column in (given or {}).items() if role in ("split", "keep")}
    if "split" in told and told["split"] != "none":
        told["split"] = _column_named(source, told["split"])
    others = {role: column for role, column in (given or {}).items() if role not in told}
    found = _by_columns(source, others, form)
    known, asked = {**found.mapping, **told}, [found.question] if found.question else []
    answers: dict[str, str] = {}
    while open_question := doubt(source, known, role):
        asked.append(open_question[0])
        answers |= open_question[1]
        known |= answers
    if not asked:
        return replace(found, mapping=known)
    mapping = {**((found.mapping | told) if found.question else given or {}), **answers}
    return replace(
        found, format=None, mapping=mapping, question=" ".join(asked), flags=found.flags if mapping == found.mapping else flags(mapping)
    )


def _by_columns(source: Source, mapping: Mapping[str, str], form: str | None) -> Recognised:
    if mapping:
        return _mapped(source, mapping, form)
    if form is not None:
        return _forced(source, form)
    columns = {name.strip().lower(): name for name in reversed(source.columns)}
    matches = [found for found in (_conversation(source, columns), _prompt(source, columns), _alpaca(source, columns)) if found]
    if len(matches) == 1:
        return matches[0]
    if matches:
        first = matches[0]
        names = " or ".join(str(m.format) for m in matches)
        question = f"The file can be read as {names}. Read it as {first.format}?"
        return Recognised(None, source.columns, "more than one format fits", first.mapping, question, f"--form {first.format}")
    return _preference(source, columns) or _pair(source, columns) or _plain_text(source, columns) or _ask(source)


def _found(source: Source, format: str, words: str, mapping: dict[str, str]) -> Recognised:
    used = set(mapping.values()) | {"split", "id", "form"}
    used |= {"messages": {"tools", "functions", "system"}, "alpaca": {"history", "system"}}.get(
        "messages" if format == "sharegpt" else format, set()
    )
    return Recognised(format, source.columns, words, mapping, unused=[name for name in source.columns if name not in used])


def _conversation(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    for known in CONVERSATIONS:
        column = columns.get(known, "")
        turns = next((found for row in source.sample if (found := turns_in(row.get(column)))), None)
        if turns:
            sharegpt = isinstance(turns[0], dict) and "from" in turns[0]
            words = f"conversations in '{column}' (" + ("ShareGPT: from and value)" if sharegpt else "role and content)")
            return _found(source, "sharegpt" if sharegpt else "messages", words, {"messages": column})
    return None


def _prompt(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    if "prompt" in columns and "completion" in columns:
        mapping = {"question": columns["prompt"], "answer": columns["completion"]}
        return _found(source, "prompt_completion", "prompt and completion", _with_system(columns, mapping))
    return None


def _alpaca(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    if "instruction" in columns and "output" in columns:
        mapping = {key: columns[key] for key in ("instruction", "input", "output") if key in columns}
        return _found(source, "alpaca", "Alpaca: " + ", ".join(mapping), mapping)
    return None


def _preference(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    if "chosen" not in columns or "rejected" not in columns:
        return None
    question = "These are preferences (chosen and rejected). Learn the chosen answers only?"
    asked = next((columns[name] for name in ("prompt", "instruction", "question", "input") if name in columns), None)
    if asked is not None:
        mapping = {"question": asked, "answer": columns["chosen"]}
        if "input" in columns and asked != columns["input"]:
            mapping["context"] = columns["input"]
    else:
        mapping = {"messages": columns["chosen"]}
    return Recognised(None, source.columns, "preferences", mapping, question, flags(mapping))


def _with_system(columns: Mapping[str, str], mapping: dict[str, str]) -> dict[str, str]:
    return {**mapping, "system": columns["system"]} if "system" in columns else mapping


def _pair(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    """A column with a question's name beside one with an answer's name."""
    asked = [columns[name] for name in QUESTIONS if name in columns]
    said = [columns[name] for name in ANSWERS if name in columns]
    if not asked or not said:
        return None
    mapping = _with_system(columns, {"question": asked[0], "answer": said[0]})
    if "context" in columns:
        mapping["context"] = columns["context"]
    others = [name for name in said[1:] if name.lower() not in LABELS]
    if len(asked) > 1 or others:
        return _question(source, mapping)
    words = f"question = '{asked[0]}', answer = '{said[0]}'" + (f", after '{columns['context']}'" if "context" in columns else "")
    return _found(source, "columns", words, mapping)


def _plain_text(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    return _found(source, "text", f"plain text in '{columns['text']}'", {"text": columns["text"]}) if "text" in columns else None


def _ask(source: Source) -> Recognised:
    """No known names: guess the question from length and the answer from repetition, and ask."""
    texts = {name: _column(source, name) for name in source.columns}
    parts = split_column(source, {})
    texts = {name: values for name, values in texts.items() if values and name != parts}
    if not texts:
        names = ", ".join(source.columns[:12]) or "none"
        raise DataError(f"No column holds text. The columns are: {names}.", hint='Write rows such as {"prompt": "…", "completion": "…"}')
    if len(texts) == 1:
        mapping = {"text": next(iter(texts))}
        return Recognised(
            None,
            source.columns,
            "one column of text",
            mapping,
            f"Learn {_describe(source, mapping['text'])} as plain text?",
            flags(mapping),
        )
    labels = [name for name, values in texts.items() if is_label_like(values)]
    by_length = sorted(texts, key=lambda name: -sum(map(len, texts[name])) / len(texts[name]))
    if labels:
        answer = labels[-1]
        asked = next(name for name in by_length if name != answer)
    else:
        pair = by_length[:2]
        asked, answer = sorted(pair, key=source.columns.index)
    return _question(source, {"question": asked, "answer": answer})


def _question(source: Source, mapping: dict[str, str]) -> Recognised:
    words = ", ".join(f"{role.capitalize()} = {_describe(source, name)}" for role, name in mapping.items())
    return Recognised(None, source.columns, "columns without telling names", mapping, f"{words}?", flags(mapping))


def _describe(source: Source, name: str) -> str:
    place = f"column {letter(source.columns.index(name))}" if source.kind == "csv" else f"'{name}'"
    if source.kind == "csv" and source.named:
        place += f" '{name}'"
    values = _column(source, name)
    return f"{place} ({'label' if is_label_like(values) else 'text'}, such as {values[0][:40]!r})" if values else place


def _column(source: Source, name: str) -> list[str]:
    return [row[name] for row in source.sample[:2000] if isinstance(row.get(name), str) and row[name].strip()]


def flags(mapping: Mapping[str, str]) -> str:
    """The command-line options that state this mapping."""
    own = {"question", "answer"}
    return " ".join(f"--{r} {shlex.quote(c)}" if r in own else f"--column {r}={shlex.quote(c)}" for r, c in mapping.items())


def _mapped(source: Source, given: Mapping[str, str], form: str | None) -> Recognised:
    mapping = {_ALIASES.get(role, role): _column_named(source, column) for role, column in given.items()}
    if unknown := [role for role in mapping if role not in ROLES]:
        raise UsageError(f"A column cannot be '{unknown[0]}'.", hint=f"A column can be: {', '.join(ROLES)}.")
    words = ", ".join(f"{role} = '{column}'" for role, column in mapping.items()) + ", as told"
    if "messages" in mapping:
        return _found(source, "messages", words, mapping)
    if "text" in mapping:
        return _found(source, "text", words, mapping)
    if "question" in mapping and "answer" in mapping:
        lists = any(isinstance(row.get(mapping[role]), list) for row in source.sample[:100] for role in ("question", "answer"))
        return _found(source, "prompt_completion" if lists or form == "prompt_completion" else "columns", words, mapping)
    beside = _by_columns(source, {}, form)  # only a side column was named: the rest is as recognised
    if beside.format is None:
        return beside
    return _found(source, beside.format, f"{beside.how}; {words}", {**beside.mapping, **mapping})


def _column_named(source: Source, column: str) -> str:
    if column in source.columns:
        return column
    letters = {letter(i): name for i, name in enumerate(source.columns)} if source.kind == "csv" else {}
    if column.upper() in letters:
        return letters[column.upper()]
    raise UsageError(f"There is no column '{column}'.", hint=f"The columns are: {', '.join(source.columns[:20])}.")


def _forced(source: Source, form: str) -> Recognised:
    columns = {name.strip().lower(): name for name in reversed(source.columns)}
    finders: dict[str, Any] = {
        "messages": _conversation, "sharegpt": _conversation, "prompt_completion": _prompt,
        "alpaca": _alpaca, "columns": _pair, "text": _plain_text,
    }  # fmt: skip
    found: Recognised | None = finders[form](source, columns)
    if found is None:
        raise DataError(
            f"These rows are not {form}: the columns are {_list(source.columns)}.", hint="Leave out --form, or name the columns."
        )
    return found


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) or "none"
