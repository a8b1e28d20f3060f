"""Stage 0, chat templates: five probe conversations rendered with both, as transformers renders them."""

from __future__ import annotations

import copy
import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.bases.files import read_json
from workbench.bases.lock import Lock
from workbench.errors import IntegrityError
from workbench.rebase.findings import found
from workbench.rebase.result import Finding
from workbench.rebase.tokenizers import Loaded

__all__ = ["PROBES", "Rendering", "compare_templates", "render_probes"]

_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
_SYSTEM = {"role": "system", "content": "Answer in one word."}
_ASK = {"role": "user", "content": "What is the capital of Norway?"}
_TURNS: list[dict[str, Any]] = [_ASK, {"role": "assistant", "content": "Oslo."}, {"role": "user", "content": "And of Peru?"}]
_TOOL_TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": "Is it cold in Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "-4 degrees"},
]
# name -> (messages, tools, add_generation_prompt)
PROBES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None, bool]] = {
    "system and user": ([_SYSTEM, _ASK], None, True),
    "several turns": (_TURNS, None, True),
    "tool call": (_TOOL_TURNS, [_TOOL], True),
    "no generation prompt": ([*_TURNS, {"role": "assistant", "content": "Lima."}], None, False),
    "empty system": ([{"role": "system", "content": ""}, _ASK], None, True),
}
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Rendering:
    """One template over all probes."""

    texts: dict[str, str]  # probe -> what it renders to, or "refused: …"
    refused: frozenset[str]

    @property
    def readable(self) -> bool:
        return len(self.refused) < len(self.texts)


def render_probes(template: str, tokens: dict[str, str]) -> Rendering:
    """Render every probe. A template is a program that may refuse a conversation, and refusing is part of what it does."""
    from jinja2.exceptions import TemplateError

    texts: dict[str, str] = {}
    refused = set()
    try:
        compiled = _environment().from_string(template)
    except TemplateError as error:
        return Rendering(dict.fromkeys(PROBES, f"refused: {error}"), frozenset(PROBES))
    for name, (messages, tools, ask) in PROBES.items():
        given = copy.deepcopy({"messages": messages, "tools": tools, "documents": None})
        try:
            texts[name] = compiled.render(**given, add_generation_prompt=ask, **tokens)
        except Exception as error:  # templates raise whatever they like: TypeError, OverflowError, SecurityError, …
            texts[name] = f"refused: {error}"
            refused.add(name)
    return Rendering(texts, frozenset(refused))


def _environment() -> Any:
    """The sandbox of transformers: immutable, blocks trimmed, `break` and `{% generation %}` known. The date stands still."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what the assistant says and writes nothing itself."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(pattern: str) -> str:
        from datetime import datetime

        return datetime(2025, 1, 31, 12, 0, 0).strftime(pattern)  # any fixed day: the same one for both templates

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return made


def special_tokens(folder: Path) -> dict[str, str]:
    """The texts of bos_token, eos_token, … of a base folder, which templates may write."""
    named = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    texts = {key: value.get("content") if isinstance(value := named.get(key), dict) else value for key in _SPECIAL}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def compare_templates(home: Lock, new: Lock, loaded: Loaded) -> tuple[list[Finding], str]:
    """(findings, unified diff of the probes as both templates render them)."""
    changed = home.chat_template_sha256 != new.chat_template_sha256
    try:
        after = special_tokens(loaded.new_folder)
        before = after if loaded.home_folder is None else special_tokens(loaded.home_folder)
    except IntegrityError as error:
        if not changed:
            return [], ""
        return [found("chat_template_unreadable", problems=[error.message])], ""
    if not changed and (before == after or home.chat_template is None):
        return [], ""
    if home.chat_template is None:
        return [found("chat_template_added")], ""
    if new.chat_template is None:
        return [found("chat_template_removed")], ""
    old, now = render_probes(home.chat_template, before), render_probes(new.chat_template, after)
    broken = [(which, side) for which, side in (("old", old), ("new", now)) if not side.readable]
    if broken:
        said = "both" if len(broken) == 2 else broken[0][0]
        why = next(iter(broken[0][1].texts.values())).removeprefix("refused: ").rstrip(".")
        rendered = {side: dict(each.texts) for side, each in broken}
        return [found("chat_template_unreadable", said, problem=why, rendered=rendered)], ""
    if not changed and old.texts == now.texts:
        return [], ""
    return _judged(old, now, changed, _token_ids(loaded, (old, now)))


def _token_ids(loaded: Loaded, sides: tuple[Rendering, Rendering]) -> dict[str, Any]:
    """How many tokens each probe has before and after, and which probes have other ids; {} where the text alone decides that."""
    if loaded.same:
        return {}
    try:
        pair = loaded.pair()
    except IntegrityError as error:
        return {"tokens_unknown": error.message}
    tokens: dict[str, list[int]] = {}
    differ = []
    for name in PROBES:
        if any(name in side.refused for side in sides):
            continue
        ids = [t.encode(side.texts[name], add_special_tokens=False).ids for t, side in zip(pair, sides, strict=True)]
        tokens[name] = [len(ids[0]), len(ids[1])]
        if ids[0] != ids[1]:
            differ.append(name)
    return {"tokens": tokens, "ids_differ": differ}


def _judged(old: Rendering, now: Rendering, changed: bool, ids: dict[str, Any]) -> tuple[list[Finding], str]:
    differ = [name for name in PROBES if old.texts[name] != now.texts[name]]
    if not differ:
        cut = len(ids.get("ids_differ", ()))
        more = ["cut_otherwise"] if cut else []
        return [found("chat_template_text_changed", "text", *more, of=len(PROBES), cut=cut, **ids)], ""
    refused = [name for name in differ if name in now.refused and name not in old.refused]
    said = ["text", *(["refused"] if refused else []), *(["same_template"] if not changed else [])]
    lines: list[str] = []
    for name in differ:
        x, y = old.texts[name].splitlines(), now.texts[name].splitlines()
        lines += difflib.unified_diff(x, y, f"old: {name}", f"new: {name}", n=2, lineterm="")
        if x == y:  # only the last line break differs
            lines += [f"--- old: {name}", f"+++ new: {name}", f"-{old.texts[name][-20:]!r}", f"+{now.texts[name][-20:]!r}"]
    return [found("chat_template_changed", *said, count=len(differ), of=len(PROBES), differ=differ, refused=refused, **ids)], "\n".join(
        lines
    )
