"""Rows of the registry as records, references as rows, and where each version stands on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import manifest, paths
from workbench.db import reading
from workbench.db.session import when
from workbench.errors import IntegrityError, NotFound, UsageError
from workbench.records import Adapter, AdapterRef, BaseRef, check_name

__all__ = [
    "Row", "aliases_by_version", "all_rows", "family", "find", "listed", "next_version", "number", "only", "place", "record", "ref_of",
    "rows_of", "unentered",
]  # fmt: skip

Row = dict[str, Any]


def place(name: str, version: int, *, trash: bool = False, root: Path | None = None) -> Path:
    """`<home>/adapters/<name>/v<N>`, or its place in the trash. The name is checked again: it becomes a path here."""
    inside = f"{check_name(name, 'adapter name')}/v{int(version)}"
    return Path(root or paths.adapters_dir(), f".trash/{inside}" if trash else inside)


def folder(row: Row, root: Path | None = None) -> Path:
    """Where a version stands. A crash between the rename and the commit of `remove` can leave it in the other place."""
    trash = row["trashed_at"] is not None
    usual = place(row["name"], row["version"], trash=trash, root=root)
    if usual.is_dir():
        return usual
    other = place(row["name"], row["version"], trash=not trash, root=root)
    return other if other.is_dir() else usual


def ref_of(row: Row) -> str:
    """`name@version`."""
    return f"{row['name']}@{row['version']}"


def all_rows() -> list[Row]:
    """Every version, trashed ones too."""
    return reading.rows("SELECT * FROM adapter_versions ORDER BY name, version")


def rows_of(name: str) -> list[Row]:
    """All versions of an adapter, trashed ones too, by number. Raises `NotFound`."""
    rows = reading.rows("SELECT * FROM adapter_versions WHERE name = :name ORDER BY version", name=name)
    if not rows:
        have = sorted({row["name"] for row in reading.rows("SELECT DISTINCT name FROM adapter_versions WHERE trashed_at IS NULL")})
        raise NotFound.of("adapter", name, have, command="workbench adapter list")
    return rows


def aliases_by_version() -> dict[str, list[str]]:
    """Aliases by `name@version`."""
    aliases: dict[str, list[str]] = {}
    for row in reading.rows("SELECT name, alias, version FROM aliases ORDER BY alias"):
        aliases.setdefault(ref_of(row), []).append(row["alias"])
    return aliases


def listed(name: str | None, *, trashed: bool) -> list[Row]:
    """Versions, the newest first. Raises `NotFound` for a name under which nothing was ever published."""
    rows = reading.rows(
        f"SELECT * FROM adapter_versions WHERE trashed_at IS {'NOT NULL' if trashed else 'NULL'}{' AND name = :name' if name else ''}"
        " ORDER BY created_at DESC, name DESC, version DESC",
        **({"name": name} if name else {}),
    )
    if name and not rows:
        rows_of(name)
    return rows


def record(row: Row, aliases: Mapping[str, Sequence[str]], root: Path | None = None) -> Adapter:
    """`root` is `paths.adapters_dir()`, for who makes many records: finding it takes longer than all else here."""
    created = when(row["created_at"])
    assert created is not None
    return Adapter(
        name=row["name"],
        version=row["version"],
        path=folder(row, root),
        base=BaseRef.parse(row["base"]),
        base_lock_sha256=row["base_lock_sha256"],
        dataset=row["dataset"],
        dataset_sha256=row["dataset_sha256"],
        method=row["method"],
        manifest_sha256=row["manifest_sha256"],
        created_at=created,
        aliases=tuple(aliases.get(ref_of(row), ())),
        parents=tuple(reading.from_json(row["parents"])),
        job_id=row["job_id"],
        scores=reading.from_json(row["scores"]),
        trashed_at=when(row["trashed_at"]),
    )


def find(ref: AdapterRef) -> Row:
    """The row that a reference means; a bare name means the newest version outside the trash. Raises `NotFound`."""
    rows = rows_of(ref.name)
    version = ref.version
    if ref.alias is not None:
        known = reading.rows("SELECT alias, version FROM aliases WHERE name = :name ORDER BY alias", name=ref.name)
        version = next((row["version"] for row in known if row["alias"] == ref.alias), None)
        if version is None:
            have = [f"{ref.name}@{row['alias']}" for row in known]
            raise NotFound.of("alias", f"{ref.name}@{ref.alias}", have, command=f"workbench adapter list {ref.name}")
    if version is None:
        return next((row for row in reversed(rows) if row["trashed_at"] is None), rows[-1])
    for row in rows:
        if row["version"] == version:
            return row
    have = [str(row["version"]) for row in rows if row["trashed_at"] is None]
    raise NotFound(f"{ref.name} has no version {version}. It has: {', '.join(have) or 'none'}.", hint="List them: workbench adapter list")


def only(ref: AdapterRef, *, trashed: bool) -> Row:
    """The one row that is meant by a reference to a live or a trashed version; a bare name must not be ambiguous."""
    if ref.version is None and ref.alias is None:
        rows = [row for row in rows_of(ref.name) if (row["trashed_at"] is not None) == trashed]
        if len(rows) > 1:
            raise UsageError(f"{ref.name} has several versions: {', '.join(ref_of(row) for row in rows)}.", hint="Name one of them.")
        row = rows[0] if rows else find(ref)
    else:
        row = find(ref)
    if (row["trashed_at"] is not None) != trashed:
        where = "is not in the trash" if trashed else "is in the trash already"
        raise NotFound(f"{ref_of(row)} {where}.", hint=f"List {'the trash' if trashed else 'it'}: workbench adapter list --trashed")
    return row


def family(ref: str, rows: Mapping[str, Row], seen: frozenset[str]) -> dict[str, Any]:
    row = rows.get(ref)
    if row is None or ref in seen:
        return {"adapter": ref, "known": row is not None}
    parents = reading.from_json(row["parents"])
    node = {
        "adapter": ref,
        "known": True,
        **{key: row[key] for key in ("base", "base_lock_sha256", "dataset", "dataset_sha256", "method", "job_id", "manifest_sha256")},
        "trashed": row["trashed_at"] is not None,
        "parents": [family(parent, rows, seen | {ref}) for parent in parents],
    }
    if not seen:
        node["children"] = [child for child, other in rows.items() if ref in reading.from_json(other["parents"])]
    return node


def next_version(name: str) -> int:
    """One more than any version in the database or on disk, so that no folder is ever in the way of another."""
    rows = reading.rows("SELECT MAX(version) AS newest FROM adapter_versions WHERE name = :name", name=name)
    on_disk = [number(p) for trash in (False, True) for p in place(name, 0, trash=trash).parent.glob("v*")]
    return max([(rows[0]["newest"] or 0) if rows else 0, *on_disk]) + 1


def number(folder: Path) -> int:
    return int(folder.name[1:]) if re.fullmatch(r"v[1-9]\d{0,8}", folder.name) else 0


def unentered(name: str, damaged: list[str] | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """Finished folders of `name` that have no row, with what their manifests say about them."""
    known = {row["version"] for row in reading.rows("SELECT version FROM adapter_versions WHERE name = :name", name=name)}
    finished = []
    for folder in sorted(place(name, 0).parent.glob("v*"), key=number):
        if number(folder) == 0 or number(folder) in known:
            continue
        try:
            about = manifest.verify(folder)["about"]
            if (about["name"], about["version"]) == (name, number(folder)):
                finished.append((folder, about))
        except (IntegrityError, KeyError, TypeError):
            if damaged is not None:
                damaged.append(str(folder))
    return finished
