"""Take chosen files out of a zip from outside. Nothing is unpacked that was not asked for by name, and never by path.

Rules: at most 64 members; plain files with plain names, stored or deflated, not encrypted; sizes are counted while reading,
because declared ones lie; no member swells more than thirty-fold. Zip slip, links, bombs and twins end in `ImportRefused`.
"""

from __future__ import annotations

import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from workbench.errors import ImportRefused, WorkbenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_member_name", "unpack"]

MAX_MEMBERS = 64
MAX_TOTAL = 4 * 1024**3  # bytes, unpacked
MAX_RATIO = 30  # LoRA weights hardly compress; text does about tenfold
FREE_RATIO = 1024 * 1024  # bytes of a member below which the ratio is not looked at
_PIECE = 1024 * 1024
Sort = Callable[[list[str]], tuple[Mapping[str, str], list[str]]]


def unpack(file: Path, into: Path, sort: Sort, limits: Mapping[str, int]) -> list[str]:
    """Write members of the zip `file` into the existing folder `into`; returns the names of those that stay behind.

    `sort` gets the names of all members and returns {member: plain file name to give it} and the rest; it may raise. `limits` holds
    the most bytes that each of those files may have. Raises `ImportRefused`; the caller removes `into` then.
    """
    with _opened(file) as archive:
        members = {info.orig_filename: _check_member(info) for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ImportRefused(f"{file.name} holds two members of one name.", hint="Pack the folder again with an ordinary zip tool.")
        chosen, left = sort([name for name in members if not name.endswith("/")])
        total = 0
        for name, target in chosen.items():
            assert Path(target).name == target
            with archive.open(members[name]) as source:
                total += _copy(source, into / target, members[name], min(limits[target], MAX_TOTAL - total))
        return left


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    hint = "Pack the adapter's folder again as a .zip, or import the folder itself."
    try:
        with zipfile.ZipFile(file) as archive:
            if (members := len(archive.infolist())) > MAX_MEMBERS:
                raise ImportRefused(f"{file.name} has {members:,} members; an adapter has at most {MAX_MEMBERS}.", hint=hint)
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, ValueError) as error:
        if isinstance(error, WorkbenchError):  # some of ours are ValueErrors too
            raise
        raise ImportRefused(f"{file.name} is not a whole zip: {error}.", hint=hint) from None


def _check_member(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Refuse a member that is not a plain file (or folder) under a plain name."""
    name = info.orig_filename  # `filename` was cut at a NUL
    check_member_name(name)
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind and not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and name.endswith("/"))):
        raise ImportRefused(f"{_shown(name)} in the zip is a link or a special file.", hint="Pack the files themselves.")
    if info.header_offset < 0:
        raise zipfile.BadZipFile("a member lies before its beginning")
    if info.flag_bits & 0x1:
        raise ImportRefused(f"{_shown(name)} in the zip is encrypted.", hint="Pack it again without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ImportRefused(f"{_shown(name)} in the zip is compressed in an unusual way.", hint="Pack it again with an ordinary zip tool.")
    return info


def check_member_name(name: str) -> None:
    """Refuse names that could leave the folder, or that look the same as another. Raises `ImportRefused`."""
    parts = PurePosixPath(name).parts
    reason = None
    if not name or len(name) > 200:
        reason = "is empty or too long"
    elif any(ord(char) < 32 or ord(char) == 127 for char in name) or not name.isprintable():
        reason = "has invisible characters"
    elif "\\" in name or ":" in name:
        reason = "has a backslash or a colon"
    elif name.startswith(("/", "~")) or ".." in parts or "//" in name or "." in name.split("/"):
        reason = "points outside the folder"
    elif unicodedata.normalize("NFC", name) != name:
        reason = "is not in Unicode's composed form"
    if reason:
        raise ImportRefused(f"A file name in the zip {reason}: {_shown(name)}.", hint="Pack the adapter's folder again with plain names.")


def _copy(source: IO[bytes], target: Path, info: zipfile.ZipInfo, limit: int) -> int:
    """Copy one member, counting what really comes out."""
    done = 0
    with target.open("xb") as out:
        while piece := source.read(_PIECE):
            done += len(piece)
            if done > limit:
                raise ImportRefused(f"{_shown(info.orig_filename)} unpacks to more than {limit:,} bytes.", hint="That is no LoRA adapter.")
            if done > FREE_RATIO and done > MAX_RATIO * max(1, info.compress_size):
                raise ImportRefused(
                    f"{_shown(info.orig_filename)} swells more than {MAX_RATIO}-fold when unpacked.", hint="That is no LoRA adapter."
                )
            out.write(piece)
    return done


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "...")
