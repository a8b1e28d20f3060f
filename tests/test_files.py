"""What `workbench.files` promises: whole or not there, durable, and hashed."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench import files
from workbench.errors import Conflict, UsageError, WorkbenchError


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_process_that_dies_while_writing_leaves_the_old_file(tmp_path: Path, moment: str) -> None:
    room = tmp_path / "room"
    room.mkdir()
    path = room / "a.json"
    files.atomic_write(path, "old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom workbench import files\n"
        f"os.{moment} = lambda *given: os._exit(9)\nfiles.atomic_write(Path(sys.argv[1]), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_text() == "old"
    assert all(other.name.startswith(".a.json.") for other in room.iterdir() if other != path)


def test_a_write_that_fails_takes_its_half_away(tmp_path: Path) -> None:
    goal = tmp_path / "room" / "folder"
    goal.mkdir(parents=True)
    with pytest.raises(OSError):
        files.atomic_write(goal, "text")
    assert list(goal.parent.iterdir()) == [goal]


def test_text_is_utf8_and_the_mode_holds_from_the_first_byte(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / "secret", "größer", mode=0o600)
    assert (tmp_path / "secret").read_bytes() == "größer".encode()
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_the_hash_is_that_of_every_byte(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # several pieces
    (tmp_path / "data").write_bytes(data)
    assert files.sha256_of(tmp_path / "data") == hashlib.sha256(data).hexdigest()
    with (tmp_path / "data").open("ab") as file:
        file.write(b"!")
    assert files.sha256_of(tmp_path / "data") == hashlib.sha256(data + b"!").hexdigest()


def test_what_is_built_in_a_room_is_moved_out_or_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, days in (("old", 2), ("young", 0.5)):
        (root / ".staging" / name / "deep").mkdir(parents=True)
        os.utime(root / ".staging" / name, (time.time() - days * 86_400,) * 2)
    with files.room(root) as kept:
        (kept / "file").write_text("x")
        kept.rename(root / "kept")
    with pytest.raises(WorkbenchError, match="is full"), files.room(root) as lost:
        (lost / "file").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert sorted(path.name for path in root.rglob("*")) == [".staging", "deep", "file", "kept", "young"]


def test_what_is_made_beside_its_place_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "room" / "out"
    with pytest.raises(UsageError, match="no folder"), files.beside(out):
        pass
    out.parent.mkdir()
    with pytest.raises(ZeroDivisionError), files.beside(out) as part:
        part.mkdir()
        (part / "half").write_text("x" * (1 // 0))
    assert list(out.parent.iterdir()) == []
    with files.beside(out) as part:
        part.write_text("whole")
        part.rename(out)
    assert list(out.parent.iterdir()) == [out] and out.read_text() == "whole"
    with pytest.raises(Conflict, match="exists already"), files.beside(out):
        pass
