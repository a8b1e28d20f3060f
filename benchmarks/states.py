"""True states of the world for the simulation of the rule (simulate.py): what the four arms do in the long run.

Success states give the chance of each outcome of one row in the arms (home, home_adapter, new, new_adapter), "0101" being wrong,
right, wrong, right. Loss states give mean losses in nats a token. The word that is true is the rule's on the exact differences.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["STATES", "WRONG", "State"]

WRONG = 0.9  # nats a token that a wrong answer costs more than a right one, in success states


@dataclass(frozen=True)
class State:
    name: str
    rows: dict[str, float] = field(default_factory=dict)  # outcome of a row -> chance; empty for text without a success score
    loss: tuple[float, float, float, float] = (0.1, 0.1, 0.1, 0.1)  # of right answers, by arm; of all answers in loss states
    limit: bool = False  # it sits on a limit of the rule, so that no word is plainly true
    # spread of the row's loss: shared by the arms (as a factor, loss states only) and each arm's own, nats
    shared: float = 0.5
    own: float = 0.15


STATES = (
    State("copy as good", {"0101": 0.88, "0100": 0.01, "0001": 0.01, "0000": 0.10}),
    State("one point lost", {"0101": 0.87, "0100": 0.02, "0001": 0.01, "0000": 0.10}),
    State("two points lost: the limit", {"0101": 0.86, "0100": 0.03, "0001": 0.01, "0000": 0.10}, limit=True),
    State("three points lost", {"0101": 0.85, "0100": 0.04, "0001": 0.01, "0000": 0.10}),
    State("ten points lost", {"0101": 0.77, "0100": 0.12, "0001": 0.02, "0000": 0.09}),
    State("half lost, all of the loss gain kept", {"0101": 0.52, "0100": 0.48}, loss=(6.0, 0.0, 6.6, 0.0)),
    State("a tenth left: the limit", {"0101": 0.089, "0100": 0.801, "0000": 0.11}, limit=True),
    State("three points left", {"0101": 0.02, "0100": 0.87, "0001": 0.01, "0000": 0.10}),
    State("nothing left", {"0100": 0.89, "0000": 0.11}),
    State("below the bare new base", {"0111": 0.40, "0110": 0.20, "0101": 0.03, "0100": 0.27, "0000": 0.10}),
    State(
        "three points of harm behind a better base",
        {"0111": 0.54, "0110": 0.03, "0101": 0.03, "0011": 0.12, "0010": 0.08, "0001": 0.05, "0000": 0.15},
    ),
    State("lost, and worse than bare in loss only", {"0100": 0.90, "0000": 0.10}, loss=(1.0, 0.1, 1.0, 1.2)),
    State("new base as good alone", {"0111": 0.87, "0100": 0.01, "0011": 0.01, "0000": 0.11}),
    State(
        "half of the gain known to the new base",
        {"1111": 0.20, "0111": 0.29, "0101": 0.30, "0100": 0.01, "0011": 0.01, "0001": 0.02, "0000": 0.17},
    ),
    State("no gain at home", {"1111": 0.36, "1010": 0.04, "0101": 0.04, "0000": 0.56}),
    State("loss: copy as good", loss=(2.0, 1.0, 2.0, 1.0)),
    State("loss: half of epsilon lost", loss=(2.0, 1.0, 2.0, 1.01)),
    State("loss: epsilon lost: the limit", loss=(2.0, 1.0, 2.0, 1.02), limit=True),
    State("loss: a fifth lost", loss=(2.0, 1.0, 2.0, 1.2)),
    State("loss: three hundredths left", loss=(2.0, 1.0, 2.0, 1.97)),
    State("loss: below the bare new base", loss=(2.0, 1.0, 2.0, 2.05)),
    State("loss: harm behind a better base", loss=(2.0, 1.5, 1.0, 1.04), own=0.3),
    State("loss: new base as good alone", loss=(2.0, 1.0, 1.0, 1.0)),
    State("loss: half known to the new base", loss=(2.0, 1.0, 1.45, 0.95)),
    State("loss: no gain at home", loss=(2.0, 2.0, 2.0, 2.0)),
)
