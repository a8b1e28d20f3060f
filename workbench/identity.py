"""Who is who: an id for this home and one for this machine, each made once and kept in a file."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from functools import cache
from pathlib import Path

from workbench import paths

__all__ = ["node_id", "store_id"]

_MACHINE_ID = Path("/etc/machine-id")


def store_id() -> str:
    """This home, wherever it is mounted or moved to. Raises `OSError` where the home cannot be written."""
    return _made_once(paths.store_file())


@cache
def node_id() -> str:
    """This machine, also after a restart and under another name; machines that share a name or a home differ.

    Clones of one disk may not: nothing may be decided by it that a lease does not prove as well.
    """
    try:
        known = _MACHINE_ID.read_text().strip()
    except OSError:
        known = ""
    if not re.fullmatch("[0-9a-f]{32}", known):
        try:
            known = _made_once(paths.node_file())
        except OSError:  # an account without a home
            known = platform.node()
    return hashlib.sha256(f"workbench {known}".encode()).hexdigest()[:12]  # machine-id(5): not to be shown as it is


def _made_once(file: Path) -> str:
    """However many processes come first, they read the same."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        draft.write_text(secrets.token_hex(16) + "\n")
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text().strip()
