"""Turn a row into exactly what the trainer sees: token ids, and which of them are learned.

The whole row is rendered by the base's own chat template and tokenised once, with character offsets. Where the
assistant's turns lie is found by rendering the conversation up to them, so that any template will do: it needs no
`{% generation %}` markers. The end-of-turn token is learned; the line break that many templates put after it is not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from workbench.data.checks import RowLength
from workbench.errors import DataError

__all__ = ["IGNORED", "Rendered", "Span", "end_of_turn_id", "prompt_ids", "prompt_text", "render", "supervised"]

IGNORED = -100  # the label of a token that is not learned, as in PyTorch's cross entropy
Span = tuple[str, str]  # (text, "template" | "prompt" | "learned" | "cut")
_Range = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """A row as the trainer sees it. `input_ids` and `labels` are equally long, at most `max_length`."""

    input_ids: list[int]
    labels: list[int]  # the id where the token is learned, else IGNORED
    answer_start: int  # index of the first token of the last answer (before cutting)
    length: RowLength  # what the data check and the plan need to know of the row
    _text: str = field(repr=False, default="")
    _offsets: list[_Range] = field(repr=False, default_factory=list)
    _contents: list[_Range] = field(repr=False, default_factory=list)

    @cached_property
    def spans(self) -> list[Span]:
        """One (text, kind) per token, in order; the texts joined give the rendered row. Cut tokens form the last one."""
        found: list[Span] = []
        at = 0
        for i, label in enumerate(self.labels):
            start, end = self._offsets[i]
            text, at = self._text[at : max(at, end)], max(at, end)
            kind = "learned" if label != IGNORED else "prompt" if _overlaps(start, end, self._contents) else "template"
            found.append((text, kind))
        rest = self._text[at:]
        return [*found, (rest, "cut" if self.length.cut else "template")] if rest else found


def render(tokenizer: Any, row: dict[str, Any], *, max_length: int, assistant_only: bool = True, completion_only: bool = True) -> Rendered:
    """Render one canonical row (`messages`, `prompt` + `completion`, or `text`).

    With `assistant_only` a conversation is learned in the assistant's turns only; with `completion_only` a raw
    prompt and completion is learned in the completion only; a text is always learned whole. An assistant's turn
    whose message says `"train": false` is shown and never learned.
    Rows longer than `max_length` tokens are cut at the end. Raises `DataError` when the template cannot show the row.
    """
    kept_out: list[_Range] = []
    altered = tools_lost = False
    if "messages" in row:
        messages, tools = row["messages"], row.get("tools")
        text, answers, kept_out, contents, altered = _conversation(tokenizer, messages, tools)
        learned = answers if assistant_only else [(0, len(text))]
        tools_lost = bool(tools) and text == _apply(tokenizer, messages, None)
    else:
        prompt = str(row.get("prompt", ""))
        text = prompt + str(row["completion"] if "completion" in row else row["text"])
        text += "" if text.endswith(tokenizer.eos_token) else tokenizer.eos_token
        answers = [(len(prompt), len(text))]
        learned = answers if completion_only else [(0, len(text))]
        contents = [(0, len(text))]
    encoded = _encode(tokenizer, text, special="messages" not in row)
    ids: list[int] = list(encoded["input_ids"])
    offsets: list[_Range] = [(start, end) for start, end in encoded["offset_mapping"]]
    if "messages" not in row and len(ids) > 1 and ids[-1] == ids[-2] == tokenizer.eos_token_id:
        ids, offsets = ids[:-1], offsets[:-1]  # the tokenizer adds one of its own
    # The first token is predicted from nothing, so it has no loss.
    labels = [
        t if i and _overlaps(*at, learned) and not _overlaps(*at, kept_out) else IGNORED
        for i, (t, at) in enumerate(zip(ids, offsets, strict=True))
    ]
    kept = max((end for _, end in offsets[:max_length]), default=0)  # characters
    last = (*_special_tokens(tokenizer), tokenizer.eos_token)
    starts = [i for i in range(len(ids)) if _overlaps(*offsets[i], answers[-1:])]
    answer_start = starts[0] if starts else len(ids)
    return Rendered(
        input_ids=ids[:max_length],
        labels=labels[:max_length],
        answer_start=answer_start,
        length=RowLength(
            total=len(ids),
            supervised=supervised(labels[:max_length]),
            cut=len(ids) > max_length,
            answer_lost=answer_start >= max_length or not starts,
            ends=any(end <= kept and text.endswith(last, 0, end) for _, end in answers),
            altered=altered,
            tools_lost=tools_lost,
        ),
        _text=text,
        _offsets=offsets,
        _contents=contents,
    )


def supervised(labels: Sequence[int]) -> int:
    """Number of learned tokens."""
    return sum(label != IGNORED for label in labels)


def prompt_text(tokenizer: Any, row: dict[str, Any]) -> str:
    """What the model is shown before it gives its last answer; "" for a plain text."""
    if "messages" in row:
        return _apply(tokenizer, row["messages"][:-1], row.get("tools"), ask=True)
    return str(row.get("prompt", ""))


def prompt_ids(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    """`prompt_text` as token ids, at least one of them."""
    chat = "messages" in row
    ids: list[int] = list(tokenizer(prompt_text(tokenizer, row), add_special_tokens=not chat)["input_ids"])
    if not chat and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()  # some tokenizers close every text; an answer has to follow here
    return ids or [tokenizer.eos_token_id]


def end_of_turn_id(tokenizer: Any) -> int:
    """The token that ends an assistant's turn under this chat template; the end-of-text token where none does."""
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    learned = [label for label in render(tokenizer, row, max_length=1_000_000).labels if label != IGNORED]
    token = tokenizer.convert_ids_to_tokens(learned[-1]) if learned else None
    return learned[-1] if token in _special_tokens(tokenizer) else int(tokenizer.eos_token_id)


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The tokens that stand for themselves; cached, because some tokenizers have thousands."""
    return tuple(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)


def _overlaps(start: int, end: int, ranges: Sequence[_Range]) -> bool:
    return any(start < stop and end > begin for begin, stop in ranges)


def _encode(tokenizer: Any, text: str, *, special: bool) -> Any:
    try:
        return tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what the tokenizers library raises is none of Exception
            raise
        raise DataError(f"The base's tokenizer breaks on this text: {str(error)[:300]}.", hint="Use another base.") from None


def _apply(tokenizer: Any, messages: Sequence[dict[str, Any]], tools: Any, *, ask: bool = False) -> str:
    """The conversation as the chat template writes it; with `ask`, ready for the assistant's next turn."""
    plain = [{**{key: m[key] for key in m if key != "train"}, "content": m.get("content") or ""} for m in messages]
    try:
        return str(tokenizer.apply_chat_template(plain, tools=tools or None, tokenize=False, add_generation_prompt=ask))
    except MemoryError:
        raise
    except Exception as error:  # templates are programs: they raise jinja2 errors, TypeErrors, whatever they like
        raise DataError(
            f"The base's chat template refuses this conversation: {error}", hint="Check the roles and their order: workbench data check"
        ) from None


class _Placed(NamedTuple):
    """A rendered conversation, and where its parts lie in the text."""

    text: str
    answers: list[_Range]  # with their end-of-turn tokens
    kept_out: list[_Range]  # the answers that are not to be learned
    contents: list[_Range]  # of the other messages, and those answers
    altered: bool  # white space around an answer was dropped


def _conversation(tokenizer: Any, messages: list[dict[str, Any]], tools: Any) -> _Placed:
    text = _apply(tokenizer, messages, tools)
    answers: list[_Range] = []
    kept_out: list[_Range] = []
    contents: list[_Range] = []
    altered, at = False, 0
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            start, end = _answer(tokenizer, text, messages, i, tools)
            _check_tool_calls(message, text[start:end])
            if message.get("train", True):
                answers.append((start, end))
            else:
                kept_out.append((start, end))
                contents.append((start, end))
            said = str(message.get("content") or "")
            altered |= said not in text[start:end] and said.strip() in text[start:end]
            at = max(at, end)
        else:
            content = str(message.get("content") or "").strip()
            start = text.find(content, at)
            if content and start >= 0:
                at = start + len(content)
                contents.append((start, at))
    if not answers:
        raise DataError("This conversation has no assistant turn, so there is nothing to learn.", hint="End it with an assistant's answer.")
    return _Placed(text, answers, kept_out, contents, altered)


def _answer(tokenizer: Any, text: str, messages: list[dict[str, Any]], i: int, tools: Any) -> _Range:
    """Where turn `i`, the assistant's, lies in `text`: from what is generated first to its end-of-turn token."""
    bare, before = (_apply(tokenizer, messages[:i], tools, ask=ask) if i else "" for ask in (False, True))
    upto = text if i + 1 == len(messages) else _apply(tokenizer, messages[: i + 1], tools)
    if before != bare and text.startswith(before) and text.startswith(upto):
        return len(before), _end_of_turn(tokenizer, text, len(before), len(upto))
    # The template rewrites earlier turns, or has no generation prompt: find the content by changing it.
    content = str(messages[i].get("content") or "")
    changed = _apply(tokenizer, [*messages[:i], {**messages[i], "content": f"\u2603{content}\u2603"}, *messages[i + 1 :]], tools)
    start = _common(text, changed)
    end = len(text) - _common(text[start:][::-1], changed[::-1])
    return start, _end_of_turn(tokenizer, text, start, len(text) if i + 1 == len(messages) else end, content_end=end)


def _end_of_turn(tokenizer: Any, text: str, start: int, stop: int, *, content_end: int | None = None) -> int:
    """Where the turn's end-of-turn token ends: `stop` less the white space after the token, if there is a token."""
    special = _special_tokens(tokenizer)
    if content_end is not None:
        rest = text[content_end:].lstrip()
        following = [len(token) for token in special if rest.startswith(token)]
        return len(text) - len(rest) + max(following) if following else content_end
    stripped = text[start:stop].rstrip()
    return start + len(stripped) if stripped.endswith(special) else stop


def _common(a: str, b: str) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _check_tool_calls(message: dict[str, Any], shown: str) -> None:
    for call in message.get("tool_calls") or ():
        name = str(call.get("function", {}).get("name", ""))
        if name and name not in shown and json.dumps(name)[1:-1] not in shown:
            raise DataError(
                f"The base's chat template has no place for tool calls, so the call of '{name}' would be lost.",
                hint="Use a base whose template writes tool calls, or drop these rows: workbench data add … --drop tools",
            )
