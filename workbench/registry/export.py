"""Copy a version out of the registry, as a folder or a zip: whole, verified, and never over something that exists."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

from workbench import manifest
from workbench.errors import Conflict
from workbench.files import beside, flush
from workbench.records import Adapter

__all__ = ["copy_out", "zip_out"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same version gives the same zip


def copy_out(adapter: Adapter, out: Path) -> Path:
    """Copy the folder to `out` and verify the copy. Raises `Conflict` when `out` exists."""
    with beside(out) as part:
        shutil.copytree(adapter.path, part)
        manifest.verify(part, adapter.manifest_sha256)
        manifest.sync_tree(part)
        os.rename(part, out)
        flush(out.parent)
    return out


def zip_out(adapter: Adapter, out: Path) -> Path:
    """Write one zip with a folder `name-v3/` in it. Stored, because weights do not compress. Raises `Conflict` when `out` exists."""
    with beside(out) as part:
        with zipfile.ZipFile(part, "x", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name in [*sorted(manifest.read(adapter.path, adapter.manifest_sha256)["files"]), manifest.NAME]:
                info = zipfile.ZipInfo(f"{adapter.name}-v{adapter.version}/{name}", _EPOCH)
                info.external_attr = 0o100644 << 16
                info.file_size = (adapter.path / name).stat().st_size  # decides whether 64-bit sizes are needed
                with (adapter.path / name).open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, 1024 * 1024)
        flush(part)
        _place(part, out)
        flush(out.parent)
    return out


def _place(part: Path, out: Path) -> None:
    """Give the finished file its name; a link, unlike a rename, never replaces what somebody else put there meanwhile."""
    try:
        os.link(part, out)
    except FileExistsError:
        raise Conflict(f"{out} exists already.", hint="Name a path that does not.") from None
    except OSError:  # a disk without links
        os.rename(part, out)
