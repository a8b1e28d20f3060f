"""Files that somebody chose in the browser. They never pass through Gradio, which takes any path of this machine for an upload.

An upload is known by a random token that only its page gets; the handlers take the token and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from pathlib import Path

import anyio
from fastapi import APIRouter, HTTPException, Request

from workbench import paths
from workbench.errors import UsageError
from workbench.words import Words
from workbench_ui.language import words_for

__all__ = ["TYPES", "remove", "sweep", "uploaded", "uploading"]

TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_LARGEST = 512 * 1024**2  # bytes
_KEPT = 3600.0  # seconds without use after which an upload is deleted


def uploading() -> APIRouter:
    """POST /files/uploads?name=orders.csv with the file as the body; answers `{"token": ...}`."""
    router = APIRouter()

    @router.post("/files/uploads")
    async def upload(request: Request, name: str) -> dict[str, str]:
        await anyio.to_thread.run_sync(sweep)
        return {"token": await _take(request, _plain_name(name, words_for(request)))}

    return router


def uploaded(token: str | None) -> Path:
    """The file that `token` stands for. Raises `UsageError` when there is none."""
    if token and _TOKEN.fullmatch(token):
        folder = paths.private_uploads() / token
        for file in folder.glob("*"):
            folder.touch()
            return file
    raise UsageError("The file is no longer here.", hint="Choose it again.")


def remove(token: str) -> None:
    """Delete the file; raises `UsageError` when `token` stands for none."""
    shutil.rmtree(uploaded(token).parent)


def sweep() -> None:
    """Delete what nobody came back for: windows that were closed, servers that were killed."""
    for old in paths.private_uploads().iterdir():
        with contextlib.suppress(FileNotFoundError):  # somebody else was quicker
            if time.time() - old.lstat().st_mtime > _KEPT:
                shutil.rmtree(old, ignore_errors=True)


async def _take(request: Request, name: str) -> str:
    token = secrets.token_hex(16)
    folder = paths.private_uploads() / token
    folder.mkdir(mode=0o700)
    try:
        async with await anyio.open_file(folder / name, "xb") as out:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > _LARGEST:
                    raise HTTPException(413, words_for(request)("data.too_large", mb=_LARGEST >> 20))
                await out.write(chunk)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return token


def _plain_name(name: str, t: Words) -> str:
    """The file's own name, which becomes that of the dataset; what could mean anything else to a file system is replaced."""
    own = Path(re.sub(r"[^\w.() -]", "_", name.replace("\\", "/").rpartition("/")[2]))
    if own.suffix.lower() not in TYPES:
        raise HTTPException(415, t("data.wrong_type", types=", ".join(TYPES)))
    stem = own.stem.lstrip(".").encode()[:150].decode(errors="ignore")
    return (stem or "file") + own.suffix.lower()
