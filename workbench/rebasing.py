"""`bench.rebase`: does an adapter still work on another base?

job = bench.rebase.check("refund-tone@champion", onto="smollm2-135m-instruct@2")
bench.jobs.wait(job.id)
print(bench.rebase.get("refund-tone@champion", "smollm2-135m-instruct@2").word)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError, NotFound, UsageError
from workbench.rebase.result import DEFAULT_STAGES
from workbench.records import Adapter, AdapterRef, BaseRef, Job

if TYPE_CHECKING:
    from workbench.api import Workbench
    from workbench.rebase.release import Cell
    from workbench.rebase.result import Check
    from workbench.rebase.store import Checks

__all__ = ["Rebase"]

_LISTED = 200  # jobs looked at for running and failed checks
_TOKENS_PER_SECOND = 300.0  # scored, by a base of 135 million parameters on two plain cores


class Rebase:
    """Checks: submit, read, compare.

    >>> check = bench.rebase.check(["orders@champion"], onto="pico@1")
    >>> bench.jobs.wait(check.id).state.value
    'succeeded'
    >>> bench.rebase.get("orders@1", "pico@1").verdict.word
    'works'
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

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
        from workbench.jobs.checking import check_stages

        base = self._bench.bases.get(onto)
        wanted = check_stages([*stages, *(["probes"] if probes else [])])
        chosen = [adapters] if isinstance(adapters, str | AdapterRef) else list(adapters)
        found = list({a.ref: a for a in (self._bench.adapters.get(ref) for ref in chosen)}.values())
        if not found:
            raise UsageError("No adapter was named.", hint="Name one or more: workbench rebase check ADAPTER --onto BASE")
        if "behaviour" in wanted:
            _require_evidence(found)
        _check_settings(settings or {})
        if rows is not None and rows < 1:
            raise UsageError(f"{rows} test rows cannot be scored.", hint="Give a positive number, or leave it out for all of them.")
        spec = {
            "adapters": [a.ref for a in found],
            "base": str(base.ref),
            "base_lock_sha256": base.lock_sha256,
            "stages": wanted,
            "retrain": retrain,
            "rows": rows,
            "settings": dict(settings or {}),
        }
        title = f"{found[0].ref if len(found) == 1 else f'{len(found)} adapters'}: check on {base.ref}"
        return self._bench.jobs.submit("rebase", spec, title=title, key=key)

    def selftest(self, base: str | BaseRef, adapter: str | AdapterRef, *, strangers: Sequence[str | BaseRef] = ()) -> Job:
        """Submit a job that tries the check on cases whose answer is known: `base` itself and in other coordinates, with an `adapter`
        made for it; `strangers` are bases that must not load. Its result is a table."""
        found, made = self._bench.bases.get(base), self._bench.adapters.get(adapter)
        if made.base != found.ref:
            raise UsageError(f"{made.ref} was not made for {found.ref}.", hint="One is trained by: workbench rebase selftest")
        _require_evidence([made])
        spec = {
            "base": str(found.ref),
            "base_lock_sha256": found.lock_sha256,
            "adapter": made.ref,
            "strangers": [str(self._bench.bases.get(ref).ref) for ref in strangers],
        }
        return self._bench.jobs.submit("rebase-selftest", spec, title=f"Self-test of the rebase check on {found.ref}")

    # ---------------------------------------------------------------- reading

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

        locks = {str(base.ref): base.lock_sha256 for base in self._bench.bases.list()}
        checks = {(check.adapter, check.base): check for check in self.list()}
        jobs = [job for job in self._bench.jobs.list(limit=_LISTED) if job.kind in {"rebase", "evaluate"}]
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
            adapter, base = self._bench.adapters.get(check.adapter), self._bench.bases.get(check.base)
        except NotFound:
            return True
        return (adapter.manifest_sha256, base.lock_sha256) != (check.adapter_sha256, check.base_lock_sha256)

    def newest(self) -> Sequence[Adapter]:
        """The newest version of every adapter, by name."""
        found: dict[str, Adapter] = {}
        for adapter in self._bench.adapters.list():
            if adapter.name not in found or adapter.version > found[adapter.name].version:
                found[adapter.name] = adapter
        return [found[name] for name in sorted(found)]

    def candidates(self, onto: str | BaseRef) -> Sequence[Adapter]:
        """The newest versions that were made for another base than `onto`."""
        target = BaseRef.parse(onto)
        return [adapter for adapter in self.newest() if adapter.base != target]

    def estimate(self, adapters: Sequence[str | AdapterRef], onto: str | BaseRef) -> float | None:
        """Seconds that a check of these adapters takes on two plain cores, roughly: from the size of their test rows and of the base.

        None when nothing is known about their test rows.
        """
        base = self._bench.bases.get(onto)
        found = [self._bench.adapters.get(ref) for ref in adapters]
        tokens = sum(_test_tokens(adapter) for adapter in found if adapter.scores)
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
            attempts = self._bench.jobs.get(adapter.job_id or "").attempts
        except (NotFound, UsageError):
            return None
        spans = [(a.ended_at - a.started_at).total_seconds() for a in attempts if a.started_at and a.ended_at]
        return sum(spans) if spans else None

    def _ref(self, adapter: str | AdapterRef) -> str:
        """`name@version`; an adapter that is gone keeps its checks, so a full reference is not looked up."""
        parsed = AdapterRef.parse(adapter)
        return str(parsed) if parsed.version else self._bench.adapters.get(parsed).ref


def _require_evidence(adapters: Sequence[Adapter]) -> None:
    bare = [adapter.ref for adapter in adapters if not adapter.scores]
    if bare:
        raise DataError(
            "These adapters were never scored, so nobody knows what they give at home:",
            bare,
            hint=f"Score them on a test set: workbench adapter evaluate {bare[0]} --dataset NAME. "
            f"What can be said without one: workbench rebase check {bare[0]} --onto … --stages structure,weights",
        )


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


def _check_settings(given: Mapping[str, Any]) -> None:
    from workbench.rebase.result import Settings

    known = {field.name for field in dataclasses.fields(Settings)}
    if unknown := sorted(set(given) - known):
        raise UsageError(f"'{unknown[0]}' is no setting of a check.", hint=f"There are: {', '.join(sorted(known))}.")
    Settings(**given)


def _test_tokens(adapter: Adapter) -> float:
    """Tokens of an adapter's test rows, prompts included, by the size of the file."""
    file = adapter.path / "evidence" / "test.jsonl"
    return file.stat().st_size / 4 if file.is_file() else 0.0
