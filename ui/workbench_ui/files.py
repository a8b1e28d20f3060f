"""Downloads. They have a route of their own: what goes through Gradio is copied into a cache that any page can read."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.background import BackgroundTask

from workbench import Workbench
from workbench.errors import IntegrityError, NotFound, UsageError
from workbench.words import LANGUAGES
from workbench_ui.language import words_for

__all__ = ["downloads"]

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def downloads(bench: Workbench) -> APIRouter:
    """GET /files/adapters/{name}/{version}.zip: the adapter's folder, checked against its manifest, as one zip.
    GET /files/rebase/check.html and check.json ?adapter=name@3&base=family@2&lang=en: a rebase check to keep or to send on."""
    router = APIRouter()

    @router.get("/files/rebase/check.{kind}")
    def rebase_check(request: Request, kind: str, adapter: str, base: str, lang: str = "en") -> Response:
        with _refusals(request):
            check = bench.rebase.find(adapter, base)
            if check is None or kind not in {"html", "json"} or lang not in LANGUAGES:
                raise HTTPException(404, "No such check.")
            name = f"{check.adapter.replace('@', '-v')}-on-{check.base.replace('@', '-')}.{kind}"
            # Always saved, never shown: the report must not run beside the pages.
            saved = {"content-disposition": f'attachment; filename="{name}"'}
            if kind == "html":
                return HTMLResponse(bench.rebase.report(adapter, base, lang=lang), headers=saved)
            return JSONResponse(check.as_dict(), headers=saved)

    @router.get("/files/adapters/{name}/{version}.zip")
    def adapter_zip(request: Request, name: str, version: str) -> FileResponse:
        if not _VERSION.fullmatch(version):
            raise HTTPException(404, "No such version.")
        folder = Path(tempfile.mkdtemp(prefix="workbench-download-"))
        try:
            with _refusals(request):
                made = bench.adapters.export(f"{name}@{version}", folder / f"{name}-v{version}.zip", zip=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
        return FileResponse(made, filename=f"{name}-v{version}.zip", media_type="application/zip", background=clean)

    return router


@contextmanager
def _refusals(request: Request) -> Iterator[None]:
    """What is not there is 404, what was damaged 409, in the words of whoever asked."""
    try:
        yield
    except (NotFound, UsageError) as error:
        raise HTTPException(404, words_for(request).said(str(error))) from None
    except IntegrityError as error:
        raise HTTPException(409, words_for(request).said(str(error))) from None
