"""What is costly to find out and can be found out again: JSON values in the home's cache, under the hash of all that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from workbench import paths
from workbench.files import atomic_write

__all__ = ["key_of", "remembered"]


def key_of(*decided_by: object) -> str:
    """32 hexadecimal digits: equal for equal JSON values."""
    return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:32]


def remembered(kind: str, *decided_by: object, make: Callable[[], object]) -> Any:
    """What `make` returned (JSON) when everything in `decided_by` was as it is now; else it is called, and its value kept.

    Name in `decided_by` whatever the value hangs on, versions of libraries included. A file that was damaged is made anew.
    """
    file = paths.cache_dir() / kind / f"{key_of(*decided_by)}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        text = json.dumps(make())
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, text)
    return json.loads(text)
