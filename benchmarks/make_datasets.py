"""Write the example sets in `datasets/`. Run it again and you get the same bytes: python benchmarks/make_datasets.py

Everything is made up here, from the tables below and a seed. Nothing was copied from anywhere.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from workbench.data.checks import check  # noqa: E402
from workbench.data.prepare import write_rows  # noqa: E402
from workbench.data.similar import Likeness, normalise  # noqa: E402
from workbench.data.split import split_rows  # noqa: E402
from workbench.data.store import publish  # noqa: E402
from workbench.files import room  # noqa: E402

HERE = Path(__file__).resolve().parent.parent / "datasets"

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
ITEMS = {
    "bags": "BG", "boots": "BT", "chairs": "CH", "clocks": "CL", "coats": "CT", "desks": "DS",
    "drums": "DR", "lamps": "LM", "maps": "MP", "pens": "PN", "ropes": "RP", "tents": "TT",
}  # fmt: skip
COLOURS = {"red": "R", "blue": "B", "green": "G", "white": "W", "black": "K", "grey": "Y"}
CITIES = {
    "Berlin": "BE", "Cairo": "CA", "Delhi": "DE", "Dublin": "DB", "Lima": "LI", "London": "LO",
    "Madrid": "MA", "Oslo": "OS", "Paris": "PA", "Rome": "RO", "Tokyo": "TO", "Vienna": "VI",
}  # fmt: skip
DAYS = {"Monday": "M", "Tuesday": "T", "Wednesday": "W", "Thursday": "H", "Friday": "F"}
ORDERS = [
    "Please send {n} {colour} {item} to {city} by {day}.",
    "{city} needs {n} {colour} {item} by {day}.",
    "{N} {colour} {item} for {city}, {day}.",
    "By {day}, {n} {colour} {item} to {city}.",
    "We want {n} {colour} {item} in {city} on {day}.",
    "Ship {city} {n} {colour} {item} before {day}.",
    "For {day}: {n} {colour} {item}, {city}.",
    "Can {city} get {n} {colour} {item} by {day}?",
    "Book {n} {item} in {colour} for {city}, due {day}.",
    "On {day} {city} expects {n} {colour} {item}.",
    "{city} ordered {n} {item}, all {colour}, for {day}.",
    "Get {n} {colour} {item} to {city} on {day}.",
]


def order_codes(rows: int, seed: int) -> list[dict[str, object]]:
    """`rows` orders in plain English, each with its code; no two rows share an order."""
    rng = random.Random(seed)
    seen: set[str] = set()
    out: list[dict[str, object]] = []
    while len(out) < rows:
        n, item, colour = rng.choice(list(NUMBERS)), rng.choice(list(ITEMS)), rng.choice(list(COLOURS))
        city, day = rng.choice(list(CITIES)), rng.choice(list(DAYS))
        code = f"{ITEMS[item]} {COLOURS[colour]}{n} {CITIES[city]} {DAYS[day]}"
        if code in seen:
            continue
        seen.add(code)
        word = NUMBERS[n] if rng.random() < 0.7 else str(n)
        asked = rng.choice(ORDERS).format(n=word, N=word.capitalize(), item=item, colour=colour, city=city, day=day)
        out.append(_conversation("Code the order.", asked, code))
    return out


def plain_replies(rows: int, seed: int) -> list[dict[str, object]]:
    """`rows` messages to a tool-hire shop, evenly over 30 situations, each with a fitting reply in the shop's voice."""
    rng = random.Random(seed)
    table = yaml.safe_load((Path(__file__).parent / "plain_replies.yaml").read_text(encoding="utf-8"))
    pairs: list[tuple[str, str]] = []
    for lap in range(5 * 4):  # each of the five questions of a situation, four times with other words in its slots
        for situation in table["situations"]:
            letters, question = situation["ask"][lap % 5]
            slots = {name: rng.choice(values) for name, values in table["slots"].items()}
            reply = situation["reply"][rng.choice(letters)]
            pairs.append((question.format(**slots), reply.format(**slots)))
    first = Likeness(normalise(question) for question, _ in pairs).near  # rows that ask nearly the same are left out
    pairs = [pair for i, pair in enumerate(pairs) if first[i] == i][:rows]
    return [_conversation("Reply plainly.", question, reply) for question, reply in pairs]


def _conversation(system: str, question: str, answer: str) -> dict[str, object]:
    turns = (("system", system), ("user", question), ("assistant", answer))
    return {"form": "messages", "messages": [{"role": role, "content": content} for role, content in turns]}


ORDER_CARD = """# order-codes

1,200 orders in plain English, each with the code a warehouse would key in; 400 of them are the frozen test part.

    Please send three red desks to Berlin by Monday.   ->   DS R3 BE M

The code is: two letters for the goods, a letter for the colour with the number, two letters for the city, a letter for the
day. Black is `K`, grey is `Y`, Thursday is `H`. A model that was never told cannot know the code; one that was trained on
the 800 training rows does. Every order is a different one, so the test codes never occur in training.

Rows are short on purpose (about 35 tokens with the chat template of SmolLM2), so that the set is cheap on a CPU.
Scorer: `exact`.

Made by `benchmarks/make_datasets.py` from tables of words, twelve sentence patterns and a seed; nothing was copied.
Licence: Apache-2.0.
"""

PLAIN_CARD = """# plain-replies

300 messages to a shop that hires out tools, each with a reply in the shop's own voice; 60 of them are the frozen test part.

    Does the mower come with a full tank?
    -> Everything with an engine leaves here full. Bring it back full, or pay two euros a litre.

The voice: the answer first, then one fact or one next step; no apology ritual, no exclamation mark. A bare chat model is
longer and more polite. There is no scorer, because many replies are good; judge by how well the answers are predicted
(NLL), and by reading some.

Made by `benchmarks/make_datasets.py` from `benchmarks/plain_replies.yaml`: 30 situations with five questions and four or
five replies each, every question paired by hand with the replies that answer it. Questions come twice, with other tools,
days and places, so that a test row may have a sister in training. The shop does not exist; nothing was copied. Licence: Apache-2.0.
"""


def bundle(name: str, rows: list[dict[str, object]], card: str, *, scorer: str | None, test_rows: int, root: Path = HERE) -> None:
    """Check, split and write one example set; it must be free of problems."""
    sides = split_rows(rows, test_rows=test_rows).sides
    whole = [{**row, "split": side} for row, side in zip(rows, sides, strict=True)]
    report = check(whole)
    if report.problems or report.warnings:
        raise SystemExit("\n".join(map(str, report.problems + report.warnings)))
    source = {"file": "benchmarks/make_datasets.py", "license": "Apache-2.0"}
    meta = {"name": name, "bundled": True, "scorer": scorer, "source": source, "report": report.as_dict(), "added_at": None}
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    with room(root) as stage:
        publish(stage, folder, meta, write_rows(whole, stage / "data.jsonl"), card)


def main(root: Path = HERE) -> None:
    """Write every example set below `root`."""
    bundle("order-codes", order_codes(1200, seed=1), ORDER_CARD, scorer="exact", test_rows=400, root=root)
    bundle("plain-replies", plain_replies(300, seed=2), PLAIN_CARD, scorer=None, test_rows=60, root=root)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
