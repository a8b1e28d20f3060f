"""The cache of derived values: found again only when nothing that decides them has changed."""

from __future__ import annotations

from typing import Any

import pytest

from workbench import paths
from workbench.cache import key_of, remembered


def test_a_value_is_made_once_and_again_when_what_decides_it_changes() -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return {"n": len(made), "pair": (1, 2)}

    assert [remembered("test", "a", {"x": 1}, make=make) for _ in range(3)] == [{"n": 1, "pair": [1, 2]}] * 3, "the first as the others"
    assert remembered("test", "a", {"x": 2}, make=make)["n"] == 2
    assert remembered("other", "a", {"x": 1}, make=make)["n"] == 3
    assert key_of("ab", "c") != key_of("a", "bc")


@pytest.mark.parametrize("damage", [b"", b'{"n": ', b"\xff\xfe"])
def test_a_damaged_file_is_made_anew(damage: bytes) -> None:
    remembered("test", "a", make=lambda: [1])
    [file] = (paths.cache_dir() / "test").iterdir()
    file.write_bytes(damage)
    assert remembered("test", "a", make=lambda: [2]) == [2] == remembered("test", "a", make=lambda: [3])


def test_nothing_is_kept_of_what_could_not_be_made() -> None:
    def fail() -> Any:
        raise OSError("no")

    with pytest.raises(OSError):
        remembered("test", "a", make=fail)
    assert remembered("test", "a", make=lambda: 1) == 1
    assert [file.suffix for file in (paths.cache_dir() / "test").iterdir()] == [".json"], "no half files"
