"""Which format a file is in, found out from its columns; what cannot be known is asked, in words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.data.checks import is_label_like
from workbench.data.columns import ANSWERS, CONVERSATIONS, LABELS, QUESTIONS, ROLES
from workbench.data.convert import Context, from_alpaca, from_columns, from_messages, from_prompt_completion, from_text, turns_in
from workbench.data.readers import read_table
from workbench.data.rows import Row
from workbench.data.table import RawTable, letter
from workbench.data.wanted import WATCHED, doubt, split_column
from workbench.errors import DataError, UsageError

__all__ = ["FORMATS", "Recognised", "recognise", "recognise_table"]

Columns = Mapping[str, str]  # names in lower case -> as they are written
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
class Format:
    """One way in which people write training rows."""

    find: Callable[[RawTable, Columns], Recognised | None]  # None: these columns are not of this format
    convert: Callable[[Mapping[str, Any], Context], Row]
    beside: frozenset[str] = frozenset()  # columns that are read as well, under these names


def recognise(path: str | Path, *, mapping: Mapping[str, str] | None = None, form: str | None = None) -> Recognised:
    """Find the format of a file. Raises `DataError` for a file that is no table, `UsageError` for a wrong mapping or form."""
    return recognise_table(read_table(Path(path), WATCHED)[0], mapping, form, None)


def recognise_table(table: RawTable, given: Mapping[str, str] | None, form: str | None, role: str | None) -> Recognised:
    """The format by names or as told, and then what remains to be asked: which rows are good, which are test rows."""
    if form is not None and form not in FORMATS:
        raise UsageError(f"There is no form '{form}'.", hint=f"There are: {', '.join(FORMATS)}.")
    told = {side: column for side, column in (given or {}).items() if side in ("split", "keep")}
    if "split" in told and told["split"] != "none":
        told["split"] = _column_named(table, told["split"])
    recognised = _by_columns(table, {side: column for side, column in (given or {}).items() if side not in told}, form)
    known, asked = {**recognised.mapping, **told}, [recognised.question] if recognised.question else []
    answers: dict[str, str] = {}
    while open_question := doubt(table, known, role):
        asked.append(open_question[0])
        answers |= open_question[1]
        known |= answers
    if not asked:
        return replace(recognised, mapping=known)
    mapping = {**((recognised.mapping | told) if recognised.question else given or {}), **answers}
    options = recognised.flags if mapping == recognised.mapping else flags(mapping)
    return replace(recognised, format=None, mapping=mapping, question=" ".join(asked), flags=options)


def flags(mapping: Mapping[str, str]) -> str:
    """The command-line options that state this mapping."""
    own = {"question", "answer"}
    return " ".join(f"--{r} {shlex.quote(c)}" if r in own else f"--column {r}={shlex.quote(c)}" for r, c in mapping.items())


def _by_columns(table: RawTable, mapping: Mapping[str, str], form: str | None) -> Recognised:
    if mapping:
        return _mapped(table, mapping, form)
    columns = {name.strip().lower(): name for name in reversed(table.columns)}
    if form is not None:
        if (forced := FORMATS[form].find(table, columns)) is None:
            listed = ", ".join(table.columns[:12]) or "none"
            raise DataError(f"These rows are not {form}: the columns are {listed}.", hint="Leave out --form, or name the columns.")
        return forced
    sure = [fits for name in ("messages", "prompt_completion", "alpaca") if (fits := FORMATS[name].find(table, columns))]
    if len(sure) == 1:
        return sure[0]
    if sure:
        names = " or ".join(str(fits.format) for fits in sure)
        question = f"The file can be read as {names}. Read it as {sure[0].format}?"
        return _asking(table, "more than one format fits", sure[0].mapping, question, f"--form {sure[0].format}")
    return _preference(table, columns) or _pair(table, columns) or _plain_text(table, columns) or _ask(table)


def _recognised(table: RawTable, format: str, how: str, mapping: dict[str, str]) -> Recognised:
    used = {*mapping.values(), "split", "id", "form", *FORMATS[format].beside}
    return Recognised(format, table.columns, how, mapping, unused=[name for name in table.columns if name not in used])


def _asking(table: RawTable, how: str, mapping: dict[str, str], question: str, options: str | None = None) -> Recognised:
    return Recognised(None, table.columns, how, mapping, question, options or flags(mapping))


def _conversation(table: RawTable, columns: Columns) -> Recognised | None:
    for column in (columns[known] for known in CONVERSATIONS if known in columns):
        turns = next((turns for row in table.sample if (turns := turns_in(row.get(column)))), None)
        if turns:
            sharegpt = isinstance(turns[0], dict) and "from" in turns[0]
            how = f"conversations in '{column}' (" + ("ShareGPT: from and value)" if sharegpt else "role and content)")
            return _recognised(table, "sharegpt" if sharegpt else "messages", how, {"messages": column})
    return None


def _prompt(table: RawTable, columns: Columns) -> Recognised | None:
    if "prompt" not in columns or "completion" not in columns:
        return None
    mapping = {"question": columns["prompt"], "answer": columns["completion"]}
    return _recognised(table, "prompt_completion", "prompt and completion", mapping | _system(columns))


def _alpaca(table: RawTable, columns: Columns) -> Recognised | None:
    if "instruction" not in columns or "output" not in columns:
        return None
    mapping = {role: columns[name] for name in ("instruction", "input", "output") if name in columns for role in [_ALIASES[name]]}
    return _recognised(table, "alpaca", f"Alpaca: {', '.join(mapping.values())}", mapping)


def _preference(table: RawTable, columns: Columns) -> Recognised | None:
    if "chosen" not in columns or "rejected" not in columns:
        return None
    asked = next((columns[name] for name in ("prompt", "instruction", "question", "input") if name in columns), None)
    mapping = {"messages": columns["chosen"]} if asked is None else {"question": asked, "answer": columns["chosen"]}
    if asked is not None and "input" in columns and asked != columns["input"]:
        mapping["context"] = columns["input"]
    return _asking(table, "preferences", mapping, "These are preferences (chosen and rejected). Learn the chosen answers only?")


def _system(columns: Columns) -> dict[str, str]:
    return {"system": columns["system"]} if "system" in columns else {}


def _pair(table: RawTable, columns: Columns) -> Recognised | None:
    """A column with a question's name beside one with an answer's name."""
    asked = [columns[name] for name in QUESTIONS if name in columns]
    said = [columns[name] for name in ANSWERS if name in columns]
    if not asked or not said:
        return None
    mapping = {"question": asked[0], "answer": said[0], **_system(columns)}
    if "context" in columns:
        mapping["context"] = columns["context"]
    if len(asked) > 1 or any(name.lower() not in LABELS for name in said[1:]):
        return _question(table, mapping)
    how = f"question = '{asked[0]}', answer = '{said[0]}'" + (f", after '{columns['context']}'" if "context" in columns else "")
    return _recognised(table, "columns", how, mapping)


def _plain_text(table: RawTable, columns: Columns) -> Recognised | None:
    return _recognised(table, "text", f"plain text in '{columns['text']}'", {"text": columns["text"]}) if "text" in columns else None


# How rows are written, by the name that `--form` takes. To add a format, add its line.
FORMATS = {
    "messages": Format(_conversation, from_messages, frozenset({"tools", "functions", "system"})),
    "sharegpt": Format(_conversation, from_messages, frozenset({"tools", "functions", "system"})),
    "prompt_completion": Format(_prompt, from_prompt_completion),
    "alpaca": Format(_alpaca, from_alpaca, frozenset({"history", "system"})),
    "columns": Format(_pair, from_columns),
    "text": Format(_plain_text, from_text),
}


def _ask(table: RawTable) -> Recognised:
    """No known names: guess the question from length and the answer from repetition, and ask."""
    parts = split_column(table, {})
    texts = {name: values for name in table.columns if (values := _column(table, name)) and name != parts}
    if not texts:
        names = ", ".join(table.columns[:12]) or "none"
        raise DataError(f"No column holds text. The columns are: {names}.", hint='Write rows such as {"prompt": "…", "completion": "…"}')
    if len(texts) == 1:
        [name] = texts
        return _asking(table, "one column of text", {"text": name}, f"Learn {_describe(table, name)} as plain text?")
    labels = [name for name, values in texts.items() if is_label_like(values)]
    by_length = sorted(texts, key=lambda name: -sum(map(len, texts[name])) / len(texts[name]))
    if labels:
        answer = labels[-1]
        asked = next(name for name in by_length if name != answer)
    else:
        asked, answer = sorted(by_length[:2], key=table.columns.index)
    return _question(table, {"question": asked, "answer": answer})


def _question(table: RawTable, mapping: dict[str, str]) -> Recognised:
    words = ", ".join(f"{role.capitalize()} = {_describe(table, name)}" for role, name in mapping.items())
    return _asking(table, "columns without telling names", mapping, f"{words}?")


def _describe(table: RawTable, name: str) -> str:
    place = f"column {letter(table.columns.index(name))}" if table.lettered else f"'{name}'"
    if table.lettered and table.named:
        place += f" '{name}'"
    values = _column(table, name)
    return f"{place} ({'label' if is_label_like(values) else 'text'}, such as {values[0][:40]!r})" if values else place


def _column(table: RawTable, name: str) -> list[str]:
    return [row[name] for row in table.sample[:2000] if isinstance(row.get(name), str) and row[name].strip()]


def _mapped(table: RawTable, given: Mapping[str, str], form: str | None) -> Recognised:
    mapping = {_ALIASES.get(role, role): _column_named(table, column) for role, column in given.items()}
    if unknown := [role for role in mapping if role not in ROLES]:
        raise UsageError(f"A column cannot be '{unknown[0]}'.", hint=f"A column can be: {', '.join(ROLES)}.")
    how = ", ".join(f"{role} = '{column}'" for role, column in mapping.items()) + ", as told"
    for alone in ("messages", "text"):
        if alone in mapping:
            return _recognised(table, alone, how, mapping)
    if "question" in mapping and "answer" in mapping:
        lists = any(isinstance(row.get(mapping[role]), list) for row in table.sample[:100] for role in ("question", "answer"))
        return _recognised(table, "prompt_completion" if lists or form == "prompt_completion" else "columns", how, mapping)
    beside = _by_columns(table, {}, form)  # only a side column was named: the rest is as recognised
    if beside.format is None:
        return beside
    return _recognised(table, beside.format, f"{beside.how}; {how}", {**beside.mapping, **mapping})


def _column_named(table: RawTable, column: str) -> str:
    if column in table.columns:
        return column
    letters = {letter(i): name for i, name in enumerate(table.columns)} if table.lettered else {}
    if column.upper() in letters:
        return letters[column.upper()]
    raise UsageError(f"There is no column '{column}'.", hint=f"The columns are: {', '.join(table.columns[:20])}.")
