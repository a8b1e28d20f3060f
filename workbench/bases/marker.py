"""base.json: written last into a base's folder, so its presence means the base is whole."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.errors import IntegrityError
from workbench.files import atomic_write, flush, sha256_of
from workbench.records import Base, BaseRef, as_json

__all__ = ["MARKER", "changed_sizes", "file_facts", "licence_of", "read_marker", "write_marker"]

MARKER = "base.json"
_SPDX = {name.lower(): name for name in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-SA-4.0", "OpenRAIL")}


def read_marker(folder: Path) -> Base:
    """The record in a base's folder. Raises `IntegrityError` when it cannot be read."""
    try:
        data = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return Base(
            ref=BaseRef.parse(data["ref"]),
            path=folder,
            lock_sha256=data["lock_sha256"],
            parameters=data["parameters"],
            dtype=data["dtype"],
            license=data["license"],
            source=data["source"],
            continues=BaseRef.parse(data["continues"]) if data.get("continues") else None,
            added_at=datetime.fromisoformat(data["added_at"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{folder / MARKER} cannot be read: {error}.", hint="Remove the folder and add the base again.") from None


def write_marker(stage: Path, base: Base) -> None:
    """Flush every file of `stage` to disk, then write its base.json. The record's path is not stored: homes move."""
    facts = {}
    for file in sorted(stage.iterdir()):
        file.chmod(0o644)  # safetensors writes files only their owner can read
        flush(file)
        covered = file.suffix == ".safetensors"  # by the lock, tensor by tensor
        facts[file.name] = {"size": file.stat().st_size, "sha256": None if covered else sha256_of(file)}
    data = {**as_json(base), "schema": 1, "files": facts}
    del data["path"]
    atomic_write(stage / MARKER, json.dumps(data, indent=1, sort_keys=True))


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """{"size", "sha256"} of each file when the base was added; no hash for weights, whose tensors the lock hashes."""
    return dict(json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"])


def changed_sizes(folder: Path) -> list[str]:
    """Files that are missing, new, or of another size than when the base was added; nothing is read."""
    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.name != MARKER and not file.name.startswith(".")}
    facts = file_facts(folder)
    return [name for name in sorted(facts.keys() | sizes.keys()) if sizes.get(name) != facts.get(name, {}).get("size")]


def licence_of(folder: Path, record: dict[str, Any]) -> str | None:
    """What the source or the model's own card says of its licence; nothing is guessed."""
    said = record.get("license") or (record.get("gguf") or {}).get("license")
    card = folder / "README.md"
    if not said and card.is_file():
        with card.open(encoding="utf-8", errors="replace") as file:
            head = file.read(20_000)
        first, *rest = (line.strip() for line in head.splitlines() or [""])
        front = rest[: rest.index("---")] if first == "---" and "---" in rest else []
        lines = {line.split()[0]: line.split()[1] for line in front if len(line.split()) == 2}
        said = (lines.get("license_name:") or lines.get("license:") or "").strip("'\"")
    return _SPDX.get(str(said).lower(), str(said)) if said else None
