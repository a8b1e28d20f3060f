"""Which base comes after which, and which adapter was made from which: read from the records alone."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.records import Adapter, Base

__all__ = ["bases_in_order", "retrained_from"]


def bases_in_order(bases: Sequence[Base]) -> list[Base]:
    """Each base after the one that it continues; otherwise by name and version."""
    known = {str(base.ref): base for base in bases}
    ordered: list[Base] = []

    def place(base: Base) -> None:
        if base in ordered:
            return
        parent = known.get(str(base.continues)) if base.continues else None
        if parent is not None and parent is not base and parent not in waiting:
            waiting.append(base)  # a ring, which no honest record has, must not end the page
            place(parent)
            waiting.remove(base)
        if base not in ordered:
            ordered.append(base)

    waiting: list[Base] = []
    for base in sorted(bases, key=lambda b: (b.ref.family, int(b.ref.version) if b.ref.version.isdigit() else -1, b.ref.version)):
        place(base)
    return ordered


def retrained_from(adapters: Sequence[Adapter]) -> list[tuple[str, str]]:
    """(older, newer) references: recorded parents, else the version before it of the same name on another base."""
    known = {adapter.ref: adapter for adapter in adapters}
    pairs: list[tuple[str, str]] = []
    for adapter in adapters:
        parents = [ref for ref in adapter.parents if ref in known]
        before = known.get(f"{adapter.name}@{adapter.version - 1}")
        if not parents and before is not None and before.base != adapter.base:
            parents = [before.ref]
        pairs += [(parent, adapter.ref) for parent in parents]
    return pairs
