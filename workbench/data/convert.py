"""From one raw row to one canonical row, for each format. A row that does not fit raises `RowError` with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.data.json_file import loads
from workbench.data.rows import Row
from workbench.data.table import RowError
from workbench.data.wanted import LeftOut, as_flag

__all__ = ["Context", "from_alpaca", "from_columns", "from_messages", "from_prompt_completion", "from_text", "turns_in"]

_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "function", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
# OpenAI's and Mistral's, then axolotl's, then ms-swift's: is this turn learned?
_TURN_FLAGS = ("weight", "train", "training", "loss", "loss_weight")
_TURN_KEYS = {"role", "from", "content", "value", "tool_calls", "tool_call_id", "name", *_TURN_FLAGS}
_TOOL_COLUMNS = ("tools", "functions")


@dataclass
class Context:
    """How to convert, and what was noticed on the way."""

    mapping: Mapping[str, str] = field(default_factory=dict)  # role ("question", "answer", …) -> column
    raw: bool = False
    system: str | None = None
    noticed: Counter[str] = field(default_factory=Counter)  # note -> rows
    lost: Counter[str] = field(default_factory=Counter)  # what of the rows is not learned from -> rows
    left: Counter[str] = field(default_factory=Counter)  # why rows were left out, as the file says -> rows


def _text(row: Mapping[str, Any], key: str, ctx: Context, *, answer: bool = False) -> str:
    """The value of a column as text: numbers and objects are written out, a missing value is empty.

    White space around it is removed, but not around an answer: there it may be an indent, which has to be learned. One
    space alone is what raw prompts are set apart from their completions with, and is removed there too.
    """
    value = row.get(key, "")
    if isinstance(value, str):
        out = value
    elif value is None or value != value:  # NaN: how tables write that nothing is there
        out = ""
    elif isinstance(value, bytes | bytearray):
        raise RowError("broken", f"'{key}' holds bytes, not text.")
    elif isinstance(value, bool | dict | list | int | float):
        try:
            out = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_written)
        except ValueError as error:
            raise RowError("broken", f"'{key}' holds what cannot be written as JSON ({error}).") from None
        if isinstance(value, dict | list):
            ctx.noticed[f"'{key}' holds objects, which were written out as JSON"] += 1
    else:
        out = str(value)
    if ctx.raw or out == out.strip():
        return out
    keep = answer and out != f" {out.strip()}"
    ctx.noticed["white space around an answer was kept" if keep else "space around the text was removed"] += 1
    return out if keep else out.strip()


def _written(value: Any) -> str:
    """A date or decimal as text, for JSON."""
    if isinstance(value, bytes | bytearray):
        raise ValueError("bytes")
    return str(value)


def _need(row: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        if key not in row:
            raise RowError("broken", f"has no '{key}'.")


def from_messages(row: Mapping[str, Any], ctx: Context) -> Row:
    """A list of turns, in OpenAI's or ShareGPT's words."""
    key = ctx.mapping["messages"]
    _need(row, key)
    if ctx.raw:
        raise RowError("broken", "is a conversation, which has no raw form.")
    turns = turns_in(row[key])
    if turns is None:
        raise RowError("broken", "the conversation is not a list of messages.")
    return _conversation(_turns(turns, ctx), row, ctx, _tools(row, ctx))


def from_prompt_completion(row: Mapping[str, Any], ctx: Context) -> Row:
    """TRL's prompt and completion: two strings, or two lists of messages."""
    question, answer = ctx.mapping["question"], ctx.mapping["answer"]
    if not isinstance(row.get(question), list) and not isinstance(row.get(answer), list):
        return from_columns(row, ctx)
    _need(row, question, answer)
    if ctx.raw:
        raise RowError("broken", "is a conversation, which has no raw form.")
    before = _turns(row[question], ctx) if isinstance(row[question], list) else [_said("user", _text(row, question, ctx))]
    after = _turns(row[answer], ctx) if isinstance(row[answer], list) else [_said("assistant", _text(row, answer, ctx, answer=True))]
    if any(m["role"] == "assistant" for m in before):
        # as in TRL, where the completion alone is learned
        before = [{**m, "train": False} if m["role"] == "assistant" else m for m in before]
        ctx.noticed["an assistant turn inside the prompt is context, not learned; turns to be learned belong in 'messages'"] += 1
    return _conversation([*before, *after], row, ctx, _tools(row, ctx))


def from_alpaca(row: Mapping[str, Any], ctx: Context) -> Row:
    """An instruction with its input below it, and `history` ([[question, answer], …]) where it is."""
    question, context, answer = _pair_of(row, ctx)
    question = "\n".join(part for part in (question, context) if part)
    history = row.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(h, list) and len(h) == 2 and all(isinstance(t, str) for t in h) for h in history
    ):
        raise RowError("broken", "'history' is not a list of [question, answer] pairs.")
    if ctx.raw and history:
        raise RowError("broken", "has a history, which has no raw form.")
    return _pair(row, ctx, question, answer, [turn for asked, said in history for turn in (_said("user", asked), _said("assistant", said))])


def from_columns(row: Mapping[str, Any], ctx: Context) -> Row:
    """A question and an answer, with a context in front of the question where there is one."""
    question, context, answer = _pair_of(row, ctx)
    return _pair(row, ctx, f"{context}\n\n{question}" if context else question, answer)


def from_text(row: Mapping[str, Any], ctx: Context) -> Row:
    """Plain text, learned whole."""
    key = ctx.mapping["text"]
    _need(row, key)
    if not isinstance(row[key], str):
        raise RowError("broken", f"'{key}' is not text.")
    return {"form": "text", "text": row[key]}


def _pair_of(row: Mapping[str, Any], ctx: Context) -> tuple[str, str, str]:
    """Question, context ("" where there is none) and answer."""
    _need(row, ctx.mapping["question"], ctx.mapping["answer"])
    context = _text(row, ctx.mapping["context"], ctx) if "context" in ctx.mapping else ""
    return _text(row, ctx.mapping["question"], ctx), context, _text(row, ctx.mapping["answer"], ctx, answer=True)


def _pair(row: Mapping[str, Any], ctx: Context, question: str, answer: str, before: Sequence[dict[str, Any]] = ()) -> Row:
    if ctx.raw:
        return {"form": "prompt_completion", "prompt": question, "completion": answer}
    return _conversation([*before, _said("user", question), _said("assistant", answer)], row, ctx, [])


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _conversation(turns: list[dict[str, Any]], row: Mapping[str, Any], ctx: Context, tools: list[dict[str, Any]]) -> Row:
    if not turns:
        raise RowError("empty", "the conversation has no messages.")
    own = row.get(ctx.mapping.get("system", "system"))
    if turns[0]["role"] != "system":
        own = own if isinstance(own, str) and own.strip() else None
        if (system := own or ctx.system) is not None:
            turns = [_said("system", system), *turns]
    if ctx.system is not None and turns[0]["content"] != ctx.system:
        ctx.noticed["the row's own system message was kept"] += 1
    out: Row = {"form": "messages", "messages": _up_to_the_last_learned(turns, ctx)}
    if tools:
        called = {call["function"]["name"] for turn in turns for call in turn.get("tool_calls", ())}
        if unknown := called - {tool["function"]["name"] for tool in tools}:
            raise RowError("tools", f"calls {sorted(unknown)[0]!r}, which is not among its tools.")
        out["tools"] = tools
    return out


def _up_to_the_last_learned(turns: list[dict[str, Any]], ctx: Context) -> list[dict[str, Any]]:
    """Turns after the last learned answer teach nothing, and what a row is tested on is its last answer."""
    said = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    learned = [i for i in said if turns[i].get("train", True)]
    if said and not learned:
        raise LeftOut("none of its answers is to be learned")
    if learned == said or learned[-1] == said[-1]:
        return turns
    ctx.lost["the turns after the last answer that is to be learned were left out"] += 1
    return turns[: learned[-1] + 1]


def turns_in(value: Any) -> list[Any] | None:
    """The turns of a conversation: a list, or the JSON of one (as CSV and some Parquet files hold it); else None."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def _turns(value: list[Any], ctx: Context) -> list[dict[str, Any]]:
    return [_turn(i, turn, ctx) for i, turn in enumerate(value, start=1)]


def _turn(i: int, turn: Any, ctx: Context) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowError("broken", f"message {i} is not an object with a role and content.")
    named = turn.get("role", turn.get("from"))
    if not isinstance(named, str):
        raise RowError("roles", f"message {i} has no role.")
    role = _ROLES.get(named.strip().lower())
    if role is None:
        raise RowError("roles", f"message {i} has the role {named[:40]!r}; known are system, user, assistant and tool.")
    content = _content(i, turn)
    for key in turn.keys() - _TURN_KEYS:
        if turn[key] not in (None, "", [], {}):
            ctx.lost[f"the key {key[:40]!r} of its messages was left out"] += 1
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(i, content), **_flags(i, turn, "assistant", ctx)}
    out = {**_said(role, content), **_flags(i, turn, role, ctx)}
    if turn.get("tool_calls"):
        if role != "assistant":
            raise RowError("tools", f"message {i} calls a tool, but is not from the assistant.")
        out["tool_calls"] = _calls(i, turn["tool_calls"])
    if role == "tool":
        out.update({key: turn[key] for key in ("tool_call_id", "name") if isinstance(turn.get(key), str)})
    return out


def _flags(i: int, turn: Mapping[str, Any], role: str, ctx: Context) -> dict[str, Any]:
    """`{"train": False}` for an answer that is not to be learned."""
    given = {key: turn[key] for key in _TURN_FLAGS if turn.get(key) not in (None, "")}
    flags = {key: as_flag(value) for key, value in given.items()}
    for key, flag in flags.items():
        if flag is None:
            raise RowError(
                "weight", f"message {i} has the {key} {str(given[key])[:20]!r}; a turn is learned (1) or not (0), nothing between."
            )
    if role != "assistant":
        if any(flags.values()):
            ctx.lost[f"a {role} turn is marked as learned, but only the assistant's turns are"] += 1
        return {}
    return {} if all(flags.values()) else {"train": False}


def _content(i: int, turn: Mapping[str, Any]) -> str:
    value = turn.get("content", turn.get("value"))
    if value is None:
        return ""
    if isinstance(value, list):
        parts = [
            p if isinstance(p, str) else p.get("text", p.get("value")) if isinstance(p, dict) and p.get("type", "text") == "text" else None
            for p in value
        ]
        if not all(isinstance(part, str) for part in parts):
            raise RowError("broken", f"message {i} holds more than text (a picture or sound), which cannot be learned from here.")
        return "".join(map(str, parts))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        raise RowError("broken", f"the content of message {i} is not text.")
    return value


def _calls(i: int, value: Any) -> list[dict[str, Any]]:
    """Tool calls as chat templates expect them: `{"type": "function", "function": {"name", "arguments": {…}}}`."""
    value = _from_json(value, f"the tool call in message {i} is not JSON.")
    return [_call(i, call) for call in (value if isinstance(value, list) else [value])]


def _call(i: int, call: Any) -> dict[str, Any]:
    inner = call.get("function", call) if isinstance(call, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or not isinstance(name, str) or not name:
        raise RowError("tools", f"the tool call in message {i} names no tool.")
    arguments = inner.get("arguments", inner.get("parameters", {}))
    arguments = {} if arguments == "" else _from_json(arguments, f"the arguments of {name[:40]!r} in message {i} are not JSON.")
    _shallow(arguments)
    if not isinstance(arguments, dict):
        raise RowError("tools", f"the arguments of {name[:40]!r} in message {i} are not an object.")
    out: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if isinstance(call.get("id"), str):
        out["id"] = call["id"]
    return out


def _from_json(value: Any, problem: str) -> Any:
    """What a text says in JSON; any other value as it is."""
    try:
        return loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise RowError("tools", problem) from None


def _shallow(value: Any) -> None:
    """Refuse what is nested more than 50 deep: no real tool is, and reading it back would overflow."""
    level = [value]
    for _ in range(50):
        level = [inner for v in level if isinstance(v, dict | list) for inner in (v.values() if isinstance(v, dict) else v)]
        if not level:
            return
    raise RowError("tools", "a tool or its arguments are nested too deeply.")


def _tools(row: Mapping[str, Any], ctx: Context) -> list[dict[str, Any]]:
    """The tools a row offers, as `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    columns = (ctx.mapping["tools"],) if "tools" in ctx.mapping else _TOOL_COLUMNS
    value = next((row[column] for column in columns if row.get(column)), None)
    value = None if isinstance(value, str) and not value.strip() else _from_json(value, "the list of tools is not JSON.")
    if not value:
        return []
    tools = []
    for tool in value if isinstance(value, list) else [value]:
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
            raise RowError("tools", "a tool in its list has no name.")
        if not isinstance(inner.get("parameters", {}), dict):
            raise RowError("tools", f"the parameters of tool {inner['name'][:40]!r} are not an object.")
        _shallow(inner)
        tools.append({"type": "function", "function": inner})
    return tools
