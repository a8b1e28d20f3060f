"""Is the new base itself broken? Neutral text under both bare bases: what a broken base loses is not the adapter's fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources

from workbench.evidence import summary
from workbench.rebase.result import Health
from workbench.records import ItemScore

__all__ = ["Passage", "compare", "neutral_passages"]

BROKEN = 0.10  # of the old base's bits per byte: a base that is worse by more, beyond doubt, is called broken

Passage = tuple[float, int]  # nats and UTF-8 bytes of one text under a bare base


def neutral_passages() -> list[str]:
    """Twenty short texts about nothing in particular, written for this purpose: how well a base predicts them says how well it is."""
    text = resources.files("workbench.rebase").joinpath("neutral.txt").read_text(encoding="utf-8")
    return text.strip().split("\n\n")


def compare(old: Sequence[Passage] | None, new: Sequence[Passage]) -> Health:
    """The same passages under both bases; `old` is None where that base is gone."""
    if old is None:
        return Health(len(new), None, _bits(new), None, False)
    sides = [[ItemScore(str(i), nats, 1, size, False) for i, (nats, size) in enumerate(side)] for side in (old, new)]
    change = summary(sides[0], sides[1]).gain["bits_per_byte"]
    broken = change.high is not None and change.high < -BROKEN * _bits(old)
    return Health(len(new), _bits(old), _bits(new), change, broken)


def _bits(passages: Sequence[Passage]) -> float:
    """Per byte."""
    return sum(nats for nats, _ in passages) / math.log(2) / sum(size for _, size in passages)
