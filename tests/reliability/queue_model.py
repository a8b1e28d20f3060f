"""A model of the queue in plain Python, and a machine that does the same to both and compares (Hypothesis)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import delete, update

from workbench.db import fencing, session
from workbench.db.reading import rows
from workbench.db.tables import attempts, job_events, jobs, slots
from workbench.errors import Fenced, JobError
from workbench.jobs import queue
from workbench.jobs.endings import Ending

HOSTS = {"a": ["cpu-0"], "b": ["GPU-1", "GPU-2"]}
LONG = 55.0  # seconds; no wait after a crash is longer than a minute
INDEX = st.integers(0, 50)
USES = ["begin", "group", "renew", "look", "check"]
ACTS = ["submit", "submit", "claim", "claim", "claim", "claim", "finish", "finish", "finish", "check", *USES]
ACTS += ["time passes", "cancel", "cancel what runs", "resume", "resume what ended", "give up"]
FINAL = {"succeeded", "failed", "failed_permanently", "cancelled"}


@dataclass
class ModelJob:
    id: str
    count: int
    policy: str
    max_crashes: int
    state: str = "queued"
    crashes: int = 0
    tries: int = 0
    cancel: bool = False
    waits: bool = False
    token: str | None = None
    host: str | None = None
    seen: list[str] = field(default_factory=list)  # every state it has had


class QueueMachine(RuleBasedStateMachine):
    """Each rule predicts what must happen; the invariants compare everything that is stored."""

    operations = 0

    @initialize()
    def empty(self) -> None:
        with session.transaction() as connection:
            for table in (job_events, attempts, jobs, slots):
                connection.execute(delete(table))
        for host, names in HOSTS.items():
            queue.register_slots(host, names)
        self.jobs: list[ModelJob] = []
        self.keys: dict[str, ModelJob] = {}
        self.tokens: dict[str, ModelJob] = {}
        for count in (1, 2, 1, 1):
            self.submit(count=count, policy="resume", crashes=1, key=None)

    def _job(self, index: int) -> ModelJob:
        return self.jobs[index % len(self.jobs)]

    def _token(self, index: int, old: bool) -> str:
        """One that runs an attempt, or any that ever did, or an invented one."""
        live = [job.token for job in self.jobs if job.token]
        known = list(self.tokens) if old or not live else live
        return known[index % len(known)] if known else "0" * 32

    def _live(self, token: str) -> ModelJob | None:
        job = self.tokens.get(token)
        return job if job is not None and job.token == token else None

    def _to(self, job: ModelJob, state: str) -> None:
        job.state = state
        job.seen.append(state)

    @rule(act=st.sampled_from(ACTS), index=INDEX, old=st.integers(0, 3), data=st.data())
    def act(self, act: str, index: int, old: int, data: st.DataObject) -> None:
        """One of the acts, as often as `ACTS` names it; `old` is 0 for tokens that need not be good any more."""
        type(self).operations += 1
        draw = data.draw
        if act == "submit":
            policy = draw(st.sampled_from(["resume", "resume", "hold"]))
            self.submit(draw(st.integers(1, 2)), policy, draw(st.integers(0, 2)), draw(st.sampled_from([None, None, "k1", "k2"])))
        elif act == "claim":
            self._claim(draw(st.sampled_from(sorted(HOSTS))))
        elif act == "finish":
            self.finish(index, not old, draw(st.sampled_from(["succeeded", "failed", "crashed", "interrupted"])))
        elif act == "time passes":
            self.time_passes()
        elif act == "give up":
            self.give_up(index, draw(st.sampled_from(["boot", "another boot"])))
        elif act in {"cancel", "resume"}:
            {"cancel": self.cancel, "resume": self.resume}[act](index)
        elif act == "resume what ended":
            ended = [i for i, job in enumerate(self.jobs) if job.state not in {"queued", "running"}]
            if ended:
                self.resume(ended[index % len(ended)])
        elif act == "cancel what runs":
            self.cancel_what_runs(index)
        else:
            self.use(index, not old, act)

    def submit(self, count: int, policy: str, crashes: int, key: str | None) -> None:
        job_id = queue.submit("count", {}, title="t", key=key, count=count, policy=policy, max_crashes=crashes)
        if key in self.keys:
            assert job_id == self.keys[key].id
            return
        job = ModelJob(job_id, count, policy, crashes)
        self.jobs.append(job)
        if key:
            self.keys[key] = job

    def _claim(self, host: str) -> None:
        total = len(HOSTS[host])
        free = total - sum(job.count for job in self.jobs if job.host == host)
        due = next((job for job in self.jobs if job.state == "queued" and not job.waits and job.count <= total), None)
        found = queue.claim(host, "boot", lease=60)
        if due is None or due.count > free:
            assert found is None
            return
        assert found is not None and found.job_id == due.id and len(found.slots) == due.count and found.n == due.tries + 1
        due.tries, due.token, due.host = found.n, found.token, host
        self._to(due, "running")
        self.tokens[found.token] = due

    def use(self, index: int, old: bool, act: str) -> None:
        """Whatever the holder of a token may do, with tokens that are good, old or invented."""
        token = self._token(index, old)
        live = self._live(token)
        acts: dict[str, Any] = {
            "begin": lambda: queue.begin(token, pid=1, started="1", lease=60),
            "group": lambda: queue.set_group(token, 5),
            "renew": lambda: queue.renew(token, lease=60),
            "look": lambda: queue.cancel_wanted(token),
            "check": lambda: _check(token),
        }
        refused = live is None or (act == "check" and live.cancel)
        try:
            result = acts[act]()
        except Fenced:
            assert refused
        else:
            assert not refused and (act not in {"begin", "look"} or result == live.cancel)  # type: ignore[union-attr]

    def finish(self, index: int, old: bool, how: Any) -> None:
        token = self._token(index, old)
        job = self._live(token)
        try:
            state = queue.finish(token, Ending(how, error="why"))
        except Fenced:
            assert job is None
            return
        assert job is not None
        self._after(job, how)
        assert state.value == job.state

    def _after(self, job: ModelJob, how: str) -> None:
        job.token = job.host = None
        job.crashes += how == "crashed" and not job.cancel
        if how == "succeeded":
            self._to(job, "succeeded")
        elif job.cancel:
            self._to(job, "cancelled")
        elif how == "failed":
            self._to(job, "failed")
        elif job.crashes > job.max_crashes:
            self._to(job, "failed_permanently")
        elif job.policy == "hold":
            self._to(job, "interrupted")
        else:
            self._to(job, "queued")
            job.waits = how == "crashed"
            self._set(job, away=LONG if job.waits else 0.0)

    def _set(self, job: ModelJob, *, away: float) -> None:
        """Put the end of the wait out of reach, so that real time plays no part."""
        with session.transaction() as connection:
            at = session.now(connection) + away if away else None
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(not_before=at))

    def time_passes(self) -> None:
        """Every wait is over, and every lease has run out: no holder of a token minds."""
        for job in self.jobs:
            job.waits = False
        with session.transaction() as connection:
            connection.execute(update(jobs).values(not_before=None))
            connection.execute(update(attempts).values(lease_until=0.0))

    def cancel(self, index: int) -> None:
        job = self._job(index)
        self._cancel(job)

    def cancel_what_runs(self, index: int) -> None:
        running = [job for job in self.jobs if job.token]
        if running:
            self._cancel(running[index % len(running)])

    def _cancel(self, job: ModelJob) -> None:
        try:
            queue.cancel(job.id)
        except JobError:
            assert job.state in FINAL - {"cancelled"}
            return
        assert job.state not in FINAL - {"cancelled"}
        if job.state == "running":
            job.cancel = True
        elif job.state != "cancelled":
            job.cancel = True
            self._to(job, "cancelled")

    def resume(self, index: int) -> None:
        job = self._job(index)
        try:
            queue.resume(job.id)
        except JobError:
            assert job.state in {"queued", "running", "succeeded"}
            return
        assert job.state not in {"queued", "running", "succeeded"}
        job.crashes, job.cancel, job.waits = 0, False, False
        self._to(job, "queued")

    def give_up(self, index: int, here: str) -> None:
        job = self._job(index)
        try:
            queue.give_up(job.id, here=here)
        except JobError:
            assert job.state != "running" or here == "boot"
            return
        assert job.state == "running" and here != "boot"
        self._after(job, "interrupted")

    @invariant()
    def nothing_differs(self) -> None:
        stored = rows("SELECT id, state, crashes, cancel_requested_at AS cancel FROM jobs ORDER BY seq")
        assert [(r["id"], r["state"], r["crashes"], r["cancel"] is not None) for r in stored] == [
            (job.id, job.state, job.crashes, job.cancel) for job in self.jobs
        ]
        running = rows("SELECT token, job_id, host FROM attempts WHERE state = 'running'")
        assert {(r["token"], r["job_id"], r["host"]) for r in running} == {(j.token, j.id, j.host) for j in self.jobs if j.token}
        assert len({r["job_id"] for r in running}) == len(running)
        taken = rows("SELECT token, count(*) AS n FROM slots WHERE token IS NOT NULL GROUP BY token")
        assert {r["token"]: r["n"] for r in taken} == {job.token: job.count for job in self.jobs if job.token}
        assert all(job.tries == sum(state == "running" for state in job.seen) for job in self.jobs)


def _check(token: str) -> str:
    with session.transaction() as connection:
        return fencing.check(connection, token)
