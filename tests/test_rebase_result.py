"""A check as it lies on disk, in the form of today and in that of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.errors import IntegrityError
from workbench.evidence import Evidence
from workbench.rebase.result import SCHEMA, Check, Structure
from workbench.rebase.store import Checks
from workbench.rebase.verdict import judge
from workbench.records import ItemScore

OLD_NAMES = {"gain": "x", "transfer": "y", "served": "u", "alone": "w", "kept": "kept"}


def arm(right: int) -> list[ItemScore]:
    return [ItemScore(f"r{i}", 4.0 - 2 * (i < right), 4, 10, i < right) for i in range(60)]


@pytest.fixture
def stored(home: Path) -> tuple[Check, Path]:
    verdict = judge(Evidence(arm(2), arm(50)), Evidence(arm(7), arm(31)), scorer="exact", same_tokenizer=True)
    check = Check("codes@1", "e" * 64, "small@1", "a" * 64, "small@2", "b" * 64, "orders", Structure(()), verdict=verdict)
    return check, Checks().save(check, None) / "check.json"


def as_schema_1(data: dict) -> dict:
    contrasts = {m: {OLD_NAMES[name]: c for name, c in of.items()} for m, of in data["verdict"]["contrasts"].items()}
    return {**data, "schema": 1, "verdict": {**data["verdict"], "contrasts": contrasts}}


def test_a_check_is_read_as_it_was_written(stored: tuple[Check, Path]) -> None:
    check, file = stored
    assert Checks().get("codes@1", "small@2") == check
    assert json.loads(file.read_text())["schema"] == SCHEMA
    assert set(json.loads(file.read_text())["verdict"]["contrasts"]["exact_match"]) == set(OLD_NAMES)


def test_schema_1_had_letters_for_the_contrasts_and_is_still_read(stored: tuple[Check, Path]) -> None:
    check, file = stored
    old = as_schema_1(json.loads(file.read_text()))
    assert set(old["verdict"]["contrasts"]["exact_match"]) == {"x", "y", "u", "w", "kept"}
    file.write_text(json.dumps(old))
    assert Checks().get("codes@1", "small@2") == check, "the same numbers under the names of today"


@pytest.mark.parametrize("damage", ["{}", "[]", "no json", '{"schema": 1}', '{"schema": 99}', '{"schema": null}'])
def test_what_is_no_check_is_named(damage: str, stored: tuple[Check, Path]) -> None:
    stored[1].write_text(damage)
    with pytest.raises(IntegrityError, match="check.json is not a check"):
        Checks().get("codes@1", "small@2")
