"""Which format a file is in, found out from its columns; what cannot be known is asked, in words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.data.checks import Finding, is_label_like
from workbench.data.columns import ANSWERS, CONVERSATIONS, LABELS, QUESTIONS, ROLES
from workbench.data.convert import CONVERTERS, Context, RowError, turns_in
from workbench.data.readers import read_source
from workbench.data.rows import Row
from workbench.data.source import Source, letter, shown
from workbench.errors import DataError, UsageError

__all__ = ["FORMATS", "Parsed", "Recognised", "read_rows", "recognise"]

FORMATS = tuple(CONVERTERS)
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


@dataclass(frozen=True)
class Parsed:
    """Canonical rows without ids, the line each came from, and what went wrong or was noticed on the way."""

    rows: list[Row]
    lines: list[int]
    problems: list[Finding]
    notes: list[str]
    recognised: Recognised


def recognise(path: str | Path, *, mapping: Mapping[str, str] | None = None, form: str | None = None) -> Recognised:
    """Find the format of a file. Raises `DataError` for a file that is no table, `UsageError` for a wrong mapping or form."""
    return _recognise(read_source(Path(path)), mapping, form)


def read_rows(
    path: str | Path, *, mapping: Mapping[str, str] | None = None, form: str | None = None, raw: bool = False, system: str | None = None
) -> Parsed:
    """Read and convert a file. Raises `DataError` when it is no table or its format has to be asked for.

    With `raw`, prompt and completion stay as they are and no chat template is used. `system` is put in front of every
    row that has no system message of its own.
    """
    path = Path(path)
    source = read_source(path)
    found = _recognise(source, mapping, form)
    if found.format is None:
        raise DataError(f"{shown(path.name)}: {found.question}", hint=f"If so, add: {found.flags}")
    if system is not None and not system.strip():
        raise UsageError("The system message is empty.", hint="Leave out --system.")
    if system is not None and (raw or found.format == "text"):
        raise UsageError("A system message belongs to a conversation; these rows have none.", hint="Leave out --system.")
    ctx = Context(mapping=found.mapping, raw=raw, system=system)
    rows, lines, problems = [], [], list(source.broken)
    splits = _splits(source)
    for number, value in source.rows:
        try:
            row = CONVERTERS[found.format](value, ctx)
        except RowError as error:
            problems.append(Finding(error.kind, number, str(error)))
            continue
        except RecursionError:
            problems.append(Finding("broken", number, "is nested too deeply."))
            continue
        rows.append({**row, "split": value["split"]} if splits else row)
        lines.append(number)
    notes = [f"{source.how}; {found.how}", *source.notes]
    if splits:
        notes.append("the file says which rows are train and test, and that was kept")
    notes += [f"{note} ({n} times)" if n > 1 else note for note, n in ctx.noticed.most_common()]
    problems.sort(key=lambda finding: finding.row or 0)
    return Parsed(rows, lines, problems, notes, found)


def _splits(source: Source) -> bool:
    """True when each row carries a split of train or test, as the files of this workbench do."""
    return {row.get("split") if isinstance(row.get("split"), str) else None for _, row in source.rows} == {"train", "test"}


def _recognise(source: Source, mapping: Mapping[str, str] | None, form: str | None) -> Recognised:
    if form is not None and form not in FORMATS:
        raise UsageError(f"There is no form '{form}'.", hint=f"There are: {', '.join(FORMATS)}.")
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
    left = [name for name in source.columns if name not in used]
    return Recognised(format, source.columns, words + (f"; left out: {', '.join(left[:12])}" if left else ""), mapping)


def _conversation(source: Source, columns: Mapping[str, str]) -> Recognised | None:
    for known in CONVERSATIONS:
        column = columns.get(known, "")
        turns = next((found for _, row in source.rows if (found := turns_in(row.get(column)))), None)
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
    if "prompt" in columns:
        mapping = {"question": columns["prompt"], "answer": columns["chosen"]}
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
    texts = {name: values for name, values in texts.items() if values}
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
    return [row[name] for _, row in source.rows[:2000] if isinstance(row.get(name), str) and row[name].strip()]


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
        lists = any(isinstance(row.get(mapping[role]), list) for _, row in source.rows[:100] for role in ("question", "answer"))
        return _found(source, "prompt_completion" if lists or form == "prompt_completion" else "columns", words, mapping)
    beside = _recognise(source, None, form)  # only a side column was named: the rest is as recognised
    if beside.format is None:
        return beside
    return _found(source, beside.format, f"{beside.how.split(';')[0]}; {words}", {**beside.mapping, **mapping})


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
