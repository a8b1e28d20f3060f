"""Which rows are the same, or nearly the same, as which other rows.

Two texts are the same when they are equal after normalising, and nearly the same when the sets of their three-word
shingles have a Jaccard similarity of at least `THRESHOLD` (Broder, "On the resemblance and containment of documents",
1997). Pairs are found by prefix filtering (Chaudhuri et al., "A primitive operator for similarity joins", 2006): two sets
that alike must share one of their rarest shingles, so almost no pair is ever compared.
"""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence

__all__ = ["THRESHOLD", "cluster", "normalise"]

THRESHOLD = 0.8
_MIN_SHINGLES = 5  # shorter texts are compared by equality only: one changed word is a different question
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s.,;:!?'\"()]")
_BUCKET = 64  # a shingle shared by more rows than this is compared with its latest neighbours only


def normalise(text: str) -> str:
    """Lower case, one Unicode form, single spaces, no everyday punctuation."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _shingles(text: str) -> frozenset[int]:
    words = text.encode("utf-8", "surrogatepass").split(b" ")  # crc32 and not hash(): the same in every process
    return frozenset(zlib.crc32(b" ".join(words[i : i + 3])) for i in range(len(words) - 2))


class _Groups:
    """Union-find over positions; the root of a group is its smallest member."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        a, b = self.find(i), self.find(j)
        if a != b:
            self.parent[max(a, b)] = min(a, b)


def cluster(texts: Sequence[str], *, near: bool = True) -> list[int]:
    """For each normalised text the position of the first text of its group.

    With `near`, groups are closed over near-duplicates, else only over equal texts. What more than a tenth of the rows
    share (a common instruction) does not count as likeness. Empty texts are each their own group.
    """
    groups = _Groups(len(texts))
    first: dict[str, int] = {}
    for i, text in enumerate(texts):
        if text:
            groups.join(i, first.setdefault(text, i))
    if near:
        _join_near(groups, list(first.values()), texts)
    return [groups.find(i) for i in range(len(texts))]


def _join_near(groups: _Groups, positions: Sequence[int], texts: Sequence[str]) -> None:
    sets = {i: _shingles(texts[i]) for i in positions}
    frequency = Counter(s for shingles in sets.values() for s in shingles)
    common = max(20, len(positions) // 10)
    boilerplate = {s for s, n in frequency.items() if n > common}
    index: dict[int, list[int]] = defaultdict(list)
    for i in positions:
        own = sets[i] - boilerplate if boilerplate else sets[i]
        sets[i] = own
        if len(own) < _MIN_SHINGLES:
            continue
        keep = len(own) - math.ceil(THRESHOLD * len(own)) + 1
        candidates = set()
        for s in sorted(own, key=lambda s: (frequency[s], s))[:keep]:
            if frequency[s] > 1:
                bucket = index[s]
                candidates.update(bucket[-_BUCKET:])
                bucket.append(i)
        for j in candidates:
            small, large = sorted((len(own), len(sets[j])))
            if small >= THRESHOLD * large:
                both = len(own & sets[j])
                if both >= THRESHOLD * (small + large - both):
                    groups.join(i, j)
