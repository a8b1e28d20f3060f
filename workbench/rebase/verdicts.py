"""The words of a check, each with everything that is known of it: the one place that lists them.

A ninth verdict is a line here, a line of the rule (rule.py), and its sentences in both string tables:
`rebase.word.*` names it, `rebase.says.*` says what it means for whoever uses the adapter, `rebase.rule.*` when it is given,
`rebase.head.*` counts it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALARMS", "BROKEN", "PASSING", "STATES", "VERDICTS", "State", "badness", "state"]


@dataclass(frozen=True)
class State:
    """What one adapter on one base can be."""

    name: str  # as records and JSON have it: "too close to tell"
    tone: str  # good | info | idle | warn | bad | open: the colour, as a class of every style sheet
    mark: str  # one character that tells it from the others without colour
    verdict: bool = True  # given by a check; the others say why there is no verdict to go by
    passes: bool = False  # whoever uses the adapter may move
    broken: bool = False  # it has to be retrained, or stay where it is
    waits: bool = False  # a check is what it needs

    @property
    def key(self) -> str:
        """The end of its keys in the string tables: `too_close_to_tell`."""
        return self.name.replace(" ", "_")


# From the best news to the worst: the order of `--fail-on` and, reversed, of every list.
_ALL = (
    State("home", "good", "\u2302", verdict=False),  # the base it was made for
    State("works", "good", "\u2713", passes=True),
    State("not needed", "info", "\u2212", passes=True),
    State("no gain at home", "idle", "\u25cb"),
    State("looked", "idle", "\u2026", verdict=False),  # checked without the test
    State("too close to tell", "warn", "\u2248"),
    State("untested", "open", "?", verdict=False),  # the adapter has no evidence
    State("unchecked", "open", "?", verdict=False, waits=True),
    State("stale", "warn", "\u21bb", verdict=False, waits=True),  # the adapter or the base has changed since
    State("busy", "info", "\u25d4", verdict=False),
    State("weaker", "warn", "\u25bc", broken=True),
    State("lost", "bad", "\u2717", broken=True),
    State("does harm", "bad", "\u26a0", broken=True),
    State("cannot load", "bad", "\u2298", broken=True),
)
STATES = {known.name: known for known in _ALL}
VERDICTS = tuple(known.name for known in _ALL if known.verdict)
BROKEN = frozenset(known.name for known in _ALL if known.broken)
PASSING = frozenset(known.name for known in _ALL if known.passes)
ALARMS = tuple(name for name in VERDICTS if STATES[name].tone in {"warn", "bad"})  # what `--fail-on` can be told


def state(word: str | None) -> State:
    """Of a check's word; None is a check without the test."""
    return STATES[word or "looked"]


def badness(word: str | None) -> int:
    """Grows with how bad the news is."""
    return list(STATES).index(word or "looked")
