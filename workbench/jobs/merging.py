"""Write a base with an adapter merged into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.bases.store import Bases
from workbench.errors import Conflict
from workbench.jobs.folder import read_json
from workbench.jobs.phases import frozen_base
from workbench.jobs.tasks import Spec, TaskContext
from workbench.records import AdapterRef, check_dtype
from workbench.registry.store import Registry

__all__ = ["MergeSpec"]


class MergeSpec(Spec):
    """Write full merged weights to a new folder."""

    kind = "merge"

    adapter: str
    base: str
    base_lock_sha256: str
    out: Path
    dtype: str | None = None  # of DTYPES; None: the base's own

    @classmethod
    def of(cls, bases: Bases, adapters: Registry, adapter: str | AdapterRef, out: Path, base: str | None, dtype: str | None) -> MergeSpec:
        """`base` defaults to the one it was made for. Raises `NotFound`, `Conflict` when `out` exists, `UsageError` for another `dtype`."""
        if dtype is not None:
            check_dtype(dtype)
        source = adapters.get(adapter)
        target = bases.get(base or source.base)
        if out.exists():
            raise Conflict(f"{out} exists already.", hint="Name a folder that does not.")
        return cls(adapter=source.ref, base=str(target.ref), base_lock_sha256=target.lock_sha256, out=out.resolve(), dtype=dtype)

    @property
    def title(self) -> str:
        return f"{self.adapter}: merge into {self.base}"

    def run(self, ctx: TaskContext) -> dict[str, Any]:
        """The folder appears whole or not at all. Returns {"out": folder} and the comparison of logits."""
        from workbench.hf.merge import merge

        adapter = Registry().get(self.adapter, verify=True)
        base = frozen_base(self.base, self.base_lock_sha256)
        done = read_json(self.out / "merge.json") or {}
        if done.get("job") != ctx.job_id:  # not by an earlier attempt: `merge` refuses what anybody else put there
            merge(base.path, adapter.path, self.out, dtype=self.dtype, job=ctx.job_id, report=ctx.report)
            done = read_json(self.out / "merge.json") or {}
        return {"out": str(self.out), **done}
