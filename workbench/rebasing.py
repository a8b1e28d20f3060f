"""`bench.rebase`: does an adapter still work on another base?

job = bench.rebase.check("refund-tone@champion", onto="smollm2-135m-instruct@2")
bench.jobs.wait(job.id)
print(bench.rebase.get("refund-tone@champion", "smollm2-135m-instruct@2").word)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from workbench.errors import NotFound, UsageError
from workbench.rebase.result import DEFAULT_STAGES
from workbench.records import Adapter, AdapterRef, BaseRef, Job

if TYPE_CHECKING:
    from workbench.bases.store import Bases
    from workbench.jobs.store import Jobs
    from workbench.rebase.diff import BaseDiff
    from workbench.rebase.release import Cell
    from workbench.rebase.result import Check
    from workbench.rebase.store import Checks
    from workbench.registry.store import Registry

__all__ = ["Rebase"]

_LISTED = 200  # jobs looked at for running and failed checks
_TOKENS_PER_SECOND = 300.0  # scored, by a base of 135 million parameters on two plain cores


class Rebase:
    """Checks: submit, read, compare.

    >>> check = bench.rebase.check(["orders@champion"], onto="pico@1")
    >>> bench.jobs.wait(check.id).state.value
    'succeeded'
    >>> bench.rebase.diff("pico@1", "pico@1").identical
    True
    >>> bench.rebase.get("orders@1", "pico@1").verdict.word
    'works'
    """

    def __init__(self, bases: Bases, adapters: Registry, jobs: Jobs) -> None:
        self._bases, self._adapters, self._jobs = bases, adapters, jobs

    # ---------------------------------------------------------------- checking

    def check(
        self,
        adapters: str | AdapterRef | Sequence[str | AdapterRef],
        *,
        onto: str | BaseRef,
        stages: Sequence[str] = DEFAULT_STAGES,
        probes: bool = False,
        retrain: bool = False,
        rows: int | None = None,
        settings: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Job:
        """Submit a job that checks adapters on the base `onto`, loading it once. Returns at once.

        `stages` are any of structure, weights, probes, behaviour; only the last one gives a verdict (but for "cannot load").
        `probes` adds the probes; `retrain` also trains each adapter anew on the new base, for the ceiling. `rows` takes at most so
        many of each test set's rows, evenly spread: faster, and less is proven. `settings` are fields of `rebase.result.Settings`.

        Raises `NotFound`, `UsageError`, and `DataError` for an adapter that was never scored.
        """
        from workbench.jobs.checking import RebaseSpec

        spec = RebaseSpec.of(
            self._bases,
            self._adapters,
            [adapters] if isinstance(adapters, str | AdapterRef) else adapters,
            onto,
            stages=[*stages, *(["probes"] if probes else [])],
            retrain=retrain,
            rows=rows,
            settings=settings or {},
        )
        return self._jobs.submit(spec, key=key)

    def selftest(self, base: str | BaseRef, adapter: str | AdapterRef, *, strangers: Sequence[str | BaseRef] = ()) -> Job:
        """Submit a job that tries the check on cases whose answer is known: `base` itself and in other coordinates, with an `adapter`
        made for it; `strangers` are bases that must not load. Its result is a table."""
        from workbench.jobs.rebase_selftest import SelfTestSpec

        return self._jobs.submit(SelfTestSpec.of(self._bases, self._adapters, base, adapter, strangers))

    # ---------------------------------------------------------------- reading

    def diff(self, a: str | BaseRef, b: str | BaseRef) -> BaseDiff:
        """What changed from base `a` to base `b`, for any adapter."""
        from workbench.rebase.diff import compare

        return compare(self._bases.lock(a), self._bases.lock(b), self._bases.get(a), self._bases.get(b))

    def list(self) -> list[Check]:
        """The newest check of every adapter on every base."""
        return self._checks().list()

    def find(self, adapter: str | AdapterRef, base: str | BaseRef) -> Check | None:
        """The newest check of an adapter (any reference) on a base, if there is one."""
        return self._checks().find(self._ref(adapter), base)

    def get(self, adapter: str | AdapterRef, base: str | BaseRef) -> Check:
        """As `find`; raises `NotFound` saying how to make it."""
        return self._checks().get(self._ref(adapter), base)

    def report(self, adapter: str | AdapterRef, base: str | BaseRef, *, lang: str = "en") -> str:
        """A check as one HTML page that opens offline, in one of `words.LANGUAGES`. Raises `NotFound`."""
        from workbench.rebase.report import html
        from workbench.words import words

        check = self.get(adapter, base)
        return html([check], words(lang), stale=[check] if self.stale(check) else [])

    def matrix(self, adapters: Sequence[Adapter] | None = None, bases: Sequence[str] | None = None) -> Sequence[Cell]:
        """Adapters (default: the newest versions) against bases (default: all), row by row in the order given: what is known of each
        adapter on each base, with checks that no longer hold, run or failed named as such."""
        from workbench.rebase.release import Cell
        from workbench.rebase.verdicts import BROKEN

        locks = {str(base.ref): base.lock_sha256 for base in self._bases.list()}
        checks = {(check.adapter, check.base): check for check in self.list()}
        jobs = [job for job in self._jobs.list(limit=_LISTED) if job.kind in {"rebase", "evaluate"}]
        busy, failed, cells = _busy(jobs), _failed(jobs), []
        for adapter in self.newest() if adapters is None else adapters:
            for base in locks if bases is None else bases:
                check, wrong = checks.get((adapter.ref, base)), failed.get((adapter.ref, base))
                now = (adapter.manifest_sha256, locks.get(base))
                cells.append(
                    Cell(
                        adapter,
                        base,
                        check,
                        stale=check is not None and now != (check.adapter_sha256, check.base_lock_sha256),
                        job=busy.get((adapter.ref, base)) or busy.get((adapter.ref, "")),
                        failed=wrong if wrong is not None and (check is None or _later(wrong, check)) else None,
                        retrain_seconds=self._took(adapter) if check is not None and check.word in BROKEN else None,
                    )
                )
        return cells

    def stale(self, check: Check) -> bool:
        """True when the adapter or the base is not what it was when this was checked, or is gone."""
        try:
            adapter, base = self._adapters.get(check.adapter), self._bases.get(check.base)
        except NotFound:
            return True
        return (adapter.manifest_sha256, base.lock_sha256) != (check.adapter_sha256, check.base_lock_sha256)

    def newest(self) -> Sequence[Adapter]:
        """The newest version of every adapter, by name."""
        newest: dict[str, Adapter] = {}
        for adapter in self._adapters.list():
            if adapter.name not in newest or adapter.version > newest[adapter.name].version:
                newest[adapter.name] = adapter
        return [newest[name] for name in sorted(newest)]

    def candidates(self, onto: str | BaseRef) -> Sequence[Adapter]:
        """The newest versions that were made for another base than `onto`."""
        target = BaseRef.parse(onto)
        return [adapter for adapter in self.newest() if adapter.base != target]

    def estimate(self, adapters: Sequence[str | AdapterRef], onto: str | BaseRef) -> float | None:
        """Seconds that a check of these adapters takes on two plain cores, roughly: from the size of their test rows and of the base.

        None when nothing is known about their test rows.
        """
        base = self._bases.get(onto)
        chosen = [self._adapters.get(ref) for ref in adapters]
        tokens = sum(_test_tokens(adapter) for adapter in chosen if adapter.scores)
        if not tokens:
            return None
        start = 20.0 + 6.0 * base.parameters / 135e6  # libraries, weights, neutral text
        return start + 2 * tokens / (_TOKENS_PER_SECOND * 135e6 / base.parameters)

    # ---------------------------------------------------------------- inside

    def _checks(self) -> Checks:
        from workbench.rebase.store import Checks

        return Checks()

    def _took(self, adapter: Adapter) -> float | None:
        """Seconds that an adapter's training took; None when its job is no longer known."""
        try:
            return self._jobs.get(adapter.job_id or "").worked() or None
        except (NotFound, UsageError):
            return None

    def _ref(self, adapter: str | AdapterRef) -> str:
        """`name@version`; an adapter that is gone keeps its checks, so a full reference is not looked up."""
        parsed = AdapterRef.parse(adapter)
        return str(parsed) if parsed.version else self._adapters.get(parsed).ref


def _busy(jobs: Sequence[Job]) -> dict[tuple[str, str], Job]:
    """(adapter, base) -> the job that looks at it now; an evaluation looks at no base but its own, and its base is "" here."""
    busy: dict[tuple[str, str], Job] = {}
    for job in jobs:
        if not job.state.final:
            of_base = [(ref, job.spec["base"]) for ref in job.spec["adapters"]] if job.kind == "rebase" else [(job.spec["adapter"], "")]
            busy |= {(str(ref), str(base)): job for ref, base in of_base}
    return busy


def _failed(jobs: Sequence[Job]) -> dict[tuple[str, str], Job]:
    """Checks whose newest job ended with an error; `jobs` come with the newest first."""
    newest: dict[tuple[str, str], Job] = {}
    for job in jobs:
        for ref in job.spec.get("adapters", []) if job.kind == "rebase" and job.state.final else []:
            newest.setdefault((str(ref), str(job.spec["base"])), job)
    return {key: job for key, job in newest.items() if job.error}


def _later(job: Job, check: Check) -> bool:
    created, checked = (at if at.tzinfo else at.replace(tzinfo=UTC) for at in (job.created_at, datetime.fromisoformat(check.created_at)))
    return created > checked


def _test_tokens(adapter: Adapter) -> float:
    """Tokens of an adapter's test rows, prompts included, by the size of the file."""
    file = adapter.path / "evidence" / "test.jsonl"
    return file.stat().st_size / 4 if file.is_file() else 0.0
