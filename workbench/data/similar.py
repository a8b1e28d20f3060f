"""Which rows are the same, or nearly the same, as which other rows.

Two texts are the same when they are equal after normalising, and nearly the same when the sets of their three-word
shingles have a Jaccard similarity of at least `THRESHOLD` (Broder, "On the resemblance and containment of documents",
1997). Pairs are found by MinHash in bands (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4) and then
compared exactly, so none is ever wrong; a pair just at the threshold is missed once in 3,000. Time and memory grow with
the number of rows, whatever they hold: four bytes a shingle, and `_PATIENCE` comparisons in vain for each row.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
import zlib
from array import array
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Likeness", "normalise"]

THRESHOLD = 0.8
_SALT = "workbench test part 1\n"  # never change: it decides which rows are test rows
_MIN_SHINGLES = 5  # shorter texts are compared by equality only: one changed word is a different question
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s.,;:!?'\"()]")
_PUNCTUATION, _SYMBOL = str.maketrans(dict.fromkeys(".,;:!?'\"()", " ")), re.compile(r"[^\w\s]")
_BANDS, _DEPTH = 20, 5  # two sets that are alike by J share a band with probability 1 - (1 - J^5)^20
_NEIGHBOURS = 4  # rows of one band that a row is compared with
_PATIENCE = 8  # comparisons in vain after which a row is left alone
_BLOCK = 4096  # rows worked on at once
_CELLS = 22  # bits of a shingle that tell it from others when they are counted


def normalise(text: str) -> str:
    """Lower case, one Unicode form, single spaces, no everyday punctuation."""
    if text.isascii():  # the same, six times as fast
        return " ".join(_SYMBOL.sub(r" \g<0> ", text.lower().translate(_PUNCTUATION)).split())
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


class Likeness:
    """Which normalised texts are alike. `same[i]` is the first text equal to text i, `near[i]` the first of its group of alike ones.

    What more than a tenth of the texts share (a common instruction) does not count as likeness. Empty texts are each their own
    group. `keys[i]` is a number that depends on text i alone, the same in every process: their order is that of no file.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.same: list[int] = []
        self.keys = array("Q")
        self._first: dict[int, int] = {}
        self._words: list[list[int]] = []  # of the texts not yet turned into shingles
        self._rows = array("L")  # which text each set of shingles is of
        self._sizes = array("L")  # how many shingles it has
        self._shingles = array("I")  # all sets, one after the other
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        i = len(self.same)
        key = int.from_bytes(hashlib.sha256((_SALT + text).encode("utf-8", "surrogatepass")).digest()[:8], "big")
        self.keys.append(key)
        self.same.append(self._first.setdefault(key, i) if text else i)
        if text and self.same[i] == i:
            words = text.encode("utf-8", "surrogatepass").split(b" ")
            if len(words) >= _MIN_SHINGLES + 2:
                self._rows.append(i)
                self._words.append([zlib.crc32(word) for word in words])  # and not hash(): the same in every process
                if len(self._words) >= _BLOCK // 8:
                    self._flush()

    def _flush(self) -> None:
        """Turn words into sets of shingles."""
        import numpy as np

        lengths = np.array([len(words) for words in self._words])
        words = np.fromiter((word for words in self._words for word in words), np.uint32, lengths.sum())
        self._words.clear()
        mixed = words[:-2] * np.uint32(0x9E3779B1) ^ words[1:-1] * np.uint32(0x85EBCA77) ^ words[2:] * np.uint32(0xC2B2AE3D)
        owner = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
        inside = owner[:-2] == owner[2:]  # three words of one text
        sets = np.unique(owner[:-2][inside] << np.uint64(32) | mixed[inside])
        self._shingles.frombytes((sets & np.uint64(0xFFFFFFFF)).astype(np.uint32).tobytes())
        self._sizes.extend(np.bincount((sets >> np.uint64(32)).astype(np.int64), minlength=len(lengths)).tolist())

    @cached_property
    def near(self) -> list[int]:
        """For each text the first text of its group, where the nearly same are one group."""
        import numpy as np

        if self._words:
            self._flush()
        groups = _Groups(self.same)
        if self._sizes:
            sizes = np.array(self._sizes, np.int64)
            flat, sizes = _without_boilerplate(np.frombuffer(self._shingles, np.uint32), sizes, max(20, len(self._first) // 10))
            enough = sizes >= _MIN_SHINGLES
            if not enough.all():
                flat = flat[np.repeat(enough, sizes)]
            _Sets(flat, sizes[enough], np.array(self._rows, np.int64)[enough]).join(groups)
        return [groups.find(i) for i in range(len(self.same))]


class _Groups:
    """Union-find over positions; the root of a group is its smallest member."""

    def __init__(self, parent: list[int]) -> None:
        self.parent = parent[:]

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        a, b = self.find(i), self.find(j)
        if a != b:
            self.parent[max(a, b)] = min(a, b)


def _without_boilerplate(flat: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], common: int) -> tuple[Any, Any]:
    """The sets without the shingles that more than `common` of them hold."""
    import numpy as np

    seen, shift, step = np.zeros(1 << _CELLS, np.int64), np.uint32(32 - _CELLS), 1 << 20
    for at in range(0, len(flat), step):
        seen += np.bincount(flat[at : at + step] >> shift, minlength=len(seen))
    often = seen > common
    if not often.any():
        return flat, sizes
    rare = np.concatenate([~often[flat[at : at + step] >> shift] for at in range(0, len(flat), step)])
    return flat[rare], np.add.reduceat(rare, np.cumsum(sizes) - sizes, dtype=np.int64)


class _Sets:
    """Sets of shingles, one after the other in `flat`; set k is of text rows[k]."""

    def __init__(self, flat: Any, sizes: Any, rows: Any) -> None:
        self.flat, self.rows = flat, rows
        self.ends = sizes.cumsum()
        self.starts = self.ends - sizes

    def join(self, groups: _Groups) -> None:
        """Join the texts that are nearly the same."""
        import numpy as np

        rng = np.random.default_rng(1)
        vain = np.zeros(len(self.rows), np.int64)
        for _ in range(_BANDS):
            keys = self._band(rng.integers(1, 1 << 32, (_DEPTH, 2), np.uint32) | np.uint32(1))
            order = np.argsort(keys, kind="stable")
            roots = np.array([groups.find(i) for i in self.rows.tolist()], np.int64)[order]
            for step in range(1, _NEIGHBOURS + 1):
                hits = np.flatnonzero((keys[order[step:]] == keys[order[:-step]]) & (roots[step:] != roots[:-step]))
                for a, b in zip(order[hits].tolist(), order[hits + step].tolist(), strict=True):
                    i, j = int(self.rows[a]), int(self.rows[b])
                    if vain[b] < _PATIENCE and groups.find(i) != groups.find(j):
                        if self._alike(a, b):
                            groups.join(i, j)
                        else:
                            vain[b] += 1

    def _band(self, numbers: Any) -> Any:
        """One number for each set: that of its smallest shingles under `_DEPTH` random orders."""
        import numpy as np

        keys = np.zeros(len(self.rows), np.uint64)
        for at in range(0, len(keys), _BLOCK):
            low, high = self.starts[at], self.ends[min(at + _BLOCK, len(keys)) - 1]
            block, starts = self.flat[low:high], self.starts[at : at + _BLOCK] - low
            for add, times in numbers:
                smallest = np.minimum.reduceat((block ^ add) * times, starts)
                keys[at : at + _BLOCK] = keys[at : at + _BLOCK] * np.uint64(0x9E3779B97F4A7C15) + smallest
        return keys

    def _alike(self, a: int, b: int) -> bool:
        import numpy as np

        first, second = self.flat[self.starts[a] : self.ends[a]], self.flat[self.starts[b] : self.ends[b]]
        small, large = sorted((len(first), len(second)))
        if small < math.ceil(THRESHOLD * large):
            return False
        both = len(np.intersect1d(first, second, assume_unique=True))
        return both >= THRESHOLD * (small + large - both)
