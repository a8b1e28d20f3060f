"""What the engine says, in a reader's words: a message catalogue, as gettext has it, over the sentences in the code.

The engine writes its errors, hints, problems, warnings and notes in English where they arise, for the shell. A page speaks another
language, or has buttons where the shell has commands. `strings/said.<lang>.json` maps a sentence, with `{}` for each value that
the code puts in, to what a page says instead. A text is recognised when it is shown, so what was stored long ago is read too
(the error of a job); a value that is itself such a sentence is looked up in turn; what no entry knows is shown as it is.

`python -m benchmarks.sentences` lists the sentences in the code that a table lacks, and entries whose sentence is gone.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib import resources
from string import Formatter

__all__ = ["Sentences", "sentences"]

_LINE = re.compile(r"^( *(?:- )?)(.+)$", re.MULTILINE)  # of a list, or alone
_GAP = re.compile(r"(?<=[.?!]) +")  # between two sentences
_LONGEST = 6  # sentences that one entry may cover, the values in it included
_WEAK = 6  # letters of its own with which an entry must be right about some value too
_DEEPEST = 4  # values inside values
_MOST = 1500  # characters: nobody writes longer sentences, but strangers' files may
_WORD = re.compile(r"\w+")
_WIDE = re.compile("(?<=[\u3002\uff0c\uff1a\uff1b\uff1f\uff01]) +")  # Chinese has no space after these


@dataclass(frozen=True)
class _Entry:
    pattern: re.Pattern[str]
    words: frozenset[str]  # of its own, whole ones
    letters: int  # of its own
    said: str


class Sentences:
    """One reader's table: call it with a text of the engine.

    >>> Sentences({"{} is a folder.": "{}是一个文件夹。"})("/data is a folder. Take care.")
    '/data是一个文件夹。Take care.'
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self.table = table
        self._best = lru_cache(maxsize=4096)(self._find)

    def __call__(self, text: str) -> str:
        return _LINE.sub(lambda line: line[1] + _WIDE.sub("", self._best(line[2], 0)[1]), text)

    @cached_property
    def _by_word(self) -> dict[str, list[_Entry]]:
        """Each entry under the rarest of its words, without which no text can be its sentence; those that have none under ""."""
        entries = [_entry(text, said) for text, said in self.table.items()]
        common = Counter(word for entry in entries for word in entry.words)
        found: dict[str, list[_Entry]] = defaultdict(list)
        for entry in entries:
            found[min(entry.words, key=lambda word: (common[word], word), default="")].append(entry)
        return found

    def _find(self, text: str, depth: int) -> tuple[int, str]:
        """How many characters of `text` no entry accounts for, and what to say for it: the reading with the fewest.

        A text is a row of sentences, each read by an entry or left as it is; `ways` has the best reading up to each gap.
        """
        gaps = [*_GAP.finditer(text)]
        starts, ends = [0, *(gap.end() for gap in gaps)], [*(gap.start() for gap in gaps), len(text)]
        ways: list[tuple[int, str]] = []
        for last, end in enumerate(ends):
            tried = []
            for first in range(max(0, last - _LONGEST + 1), last + 1):
                cost, said = self._read(text[starts[first] : end], depth)
                before = (ways[first - 1][0], ways[first - 1][1] + gaps[first - 1][0]) if first else (0, "")
                tried.append((before[0] + cost, before[1] + said))
            ways.append(min(tried, key=lambda way: way[0]))
        return ways[-1]

    def _read(self, text: str, depth: int) -> tuple[int, str]:
        """The same for a text that stands for one entry, or none."""
        bare = text.strip()
        if not bare or depth == _DEEPEST or len(bare) > _MOST:
            return len(bare), text
        likely = [entry for word in {"", *_WORD.findall(bare)} for entry in self._by_word.get(word, ())]
        read = min((way for entry in likely for way in self._by(entry, bare, depth)), default=None)
        cost, said = (read[0], read[2]) if read is not None and read[0] < len(bare) else (len(bare), bare)
        return cost, text.replace(bare, said, 1)

    def _by(self, entry: _Entry, text: str, depth: int) -> Iterator[tuple[int, int, str]]:
        """What one entry makes of a text: characters that nothing accounts for, characters in its values, and what to say.

        A full stop may follow a sentence that the code writes without one.
        """
        for given, stop in [(text, ""), (text[:-1], ".")][: 1 + text.endswith(".")]:
            if match := entry.pattern.fullmatch(given):
                values = match.groups()
                read = [self._best(value, depth + 1) for value in values]
                strange = any(" " in value.strip() for value in values)
                if entry.letters >= _WEAK or not strange or any(cost < len(value) for (cost, _), value in zip(read, values, strict=True)):
                    said = entry.said.format(*(value for _, value in read))
                    end = stop if said.isascii() else stop and "\u3002"
                    yield sum(cost for cost, _ in read), sum(map(len, values)), said + end


@cache
def sentences(lang: str) -> Sentences:
    """The table of one language."""
    return Sentences(json.loads(resources.files("workbench").joinpath("strings", f"said.{lang}.json").read_text(encoding="utf-8")))


def _entry(template: str, said: str) -> _Entry:
    """Each value is a group of the pattern; one that `said` leaves out is an English ending."""
    pieces = _literals(template)
    told = {field for _, field, _, _ in Formatter().parse(said) if field is not None}
    groups = ["(.*?)" if "" in told or str(i) in told else "([a-z]*)" for i in range(len(pieces) - 1)]
    written = [re.escape(pieces[0]), *(group + re.escape(piece) for group, piece in zip(groups, pieces[1:], strict=True))]
    words = re.findall(r"(?<![\w\0])\w+(?![\w\0])", "\0".join(pieces))
    return _Entry(re.compile("".join(written)), frozenset(words), sum(map(str.isalpha, "".join(pieces))), said)


def _literals(template: str) -> list[str]:
    """Its own text before, between and after the values: one piece more than there are values."""
    pieces = [""]
    for literal, field, _, _ in Formatter().parse(template.strip()):
        pieces[-1] += literal
        if field is not None:
            pieces.append("")
    return pieces
