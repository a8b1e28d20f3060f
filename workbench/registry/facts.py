"""What is known of a version before it has a number, and the names under which plain PEFT finds its base."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from workbench.recipe import Recipe
from workbench.records import Base, Dataset

__all__ = ["Facts", "base_identity"]


@dataclass
class Facts:
    """A version to be. `version` is its number, once there is one."""

    name: str
    base: Base
    dataset: Dataset | None
    method: str
    recipe: Recipe | None
    scores: dict[str, Any]
    parents: tuple[str, ...]
    job_id: str | None
    origin: dict[str, Any]  # of an imported adapter: file, sha256, what it says about itself, what was noticed
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    version: int = 0

    @property
    def learned_from(self) -> str | None:
        """The dataset it was trained on; None for an adapter made elsewhere, even when it was scored on one of ours."""
        if self.method == "imported" or self.dataset is None:
            return None
        return self.recipe.dataset if self.recipe else self.dataset.name

    @property
    def four_bits(self) -> str | None:
        """The type of the 4-bit weights it was trained on, "nf4" or "fp4"; None for others, and where nobody said."""
        return self.recipe.quantization if self.recipe else None

    def about(self) -> dict[str, Any]:
        """What the manifest seals together with the files: enough to enter the version in a new database."""
        return {
            "name": self.name,
            "version": self.version,
            "base": str(self.base.ref),
            "base_lock_sha256": self.base.lock_sha256,
            "base_precision": self.four_bits or (self.base.dtype if self.recipe else None),
            "dataset": self.dataset.name if self.dataset else None,
            "dataset_sha256": self.dataset.sha256 if self.dataset else None,
            "method": self.method,
            "parents": list(self.parents),
            "job_id": self.job_id,
            "created_at": self.created_at.isoformat(),
            "scores": self.scores,
            "origin": self.origin,
            "libraries": dict(_libraries()),
        }


def base_identity(base: Base) -> tuple[str, str | None]:
    """What adapter_config.json names as its base and revision, so that plain `transformers` and `peft` find it.

    For a base from the hub its repository and commit; for any other, which has no address, its folder on this machine. On
    another machine base.lock.json beside it tells which base it was.
    """
    if base.source.get("kind") == "hub" and base.source.get("repo") and base.source.get("commit"):
        return str(base.source["repo"]), str(base.source["commit"])
    return str(base.path.resolve()), None


@cache
def _libraries() -> dict[str, str]:
    """Versions of what made the adapter."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("openweight-workbench", "torch", "transformers", "trl", "peft", "bitsandbytes"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
