"""Write a base with an adapter merged into it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from workbench.bases.store import Bases
from workbench.errors import Conflict
from workbench.jobs.phases import frozen_base
from workbench.jobs.tasks import Spec, TaskContext
from workbench.records import AdapterRef
from workbench.registry.store import Registry

__all__ = ["MergeSpec"]

_MERGED = "merge.json"


class MergeSpec(Spec):
    """Write full merged weights, in the base's dtype, to a new folder."""

    kind = "merge"

    adapter: str
    base: str
    base_lock_sha256: str
    out: Path

    @classmethod
    def of(cls, bases: Bases, adapters: Registry, adapter: str | AdapterRef, out: Path, base: str | None) -> MergeSpec:
        """Raises `NotFound`, or `Conflict` when `out` exists. `base` defaults to the one it was made for."""
        source = adapters.get(adapter)
        target = bases.get(base or source.base)
        _refuse(out)
        return cls(adapter=source.ref, base=str(target.ref), base_lock_sha256=target.lock_sha256, out=out.resolve())

    @property
    def title(self) -> str:
        return f"{self.adapter}: merge into {self.base}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """The folder appears whole or not at all. Returns {"out": folder} and the comparison of logits."""
        from workbench.hf.merge import merge

        adapter = Registry().get(self.adapter, verify=True)
        base = frozen_base(self.base, self.base_lock_sha256)
        draft = self.out.with_name(f".{self.out.name}.{ctx.job_id}")
        if not self.out.exists():
            shutil.rmtree(draft, ignore_errors=True)
            report = merge(base.path, adapter.path, draft, report=ctx.report)
            (draft / _MERGED).write_text(json.dumps({"job": ctx.job_id, **report.as_dict()}, indent=1), encoding="utf-8")
            os.rename(draft, self.out)
        merged = self.out / _MERGED
        done = json.loads(merged.read_text(encoding="utf-8")) if merged.is_file() else {}
        if done.get("job") != ctx.job_id:
            _refuse(self.out)
        return {"out": str(self.out), **done}


def _refuse(out: Path) -> None:
    if out.exists():
        raise Conflict(f"{out} exists already.", hint="Name a folder that does not.")
