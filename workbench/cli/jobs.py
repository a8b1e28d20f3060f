"""`workbench jobs`: what runs and what ran."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from workbench.cli.follow import print_result, progress_text, watch
from workbench.cli.groups import CommandGroup, Words, bench, json_option
from workbench.cli.output import ago, duration, fields, json_answer, note, say, short, table
from workbench.errors import NotFound
from workbench.records import Job, JobState

__all__ = ["jobs"]

_WORTH_TELLING = 5.0  # seconds in the queue
_STATES = [state.value for state in JobState]


@click.group(cls=CommandGroup)
def jobs() -> None:
    """What runs and what ran. Each job has its own process: closing a terminal or the browser does not end it."""


@jobs.command("list")
@click.option("--state", type=Words(_STATES), help="Only jobs in this state.")
@click.option("--limit", type=click.IntRange(1), metavar="N", default=50, show_default=True, help="The newest so many.")
@json_option
def list_jobs(state: str | None, limit: int) -> None:
    """List the newest jobs first."""
    listed = bench().jobs.list(state=JobState(state) if state else None, limit=limit)
    json_answer(listed)
    empty = f"No job is {state}." if state else "No jobs yet. Start one: workbench train --base … --dataset …, or: workbench demo"
    rows = [(job.id, job.state.value, _steps(job), ago(job.created_at), short(job.title, 60)) for job in listed]
    table(("id", "state", "steps", "submitted", "what"), rows, empty=empty, right=("steps",))


@jobs.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@json_option
def show(job_id: str | None) -> None:
    """Show one job: its state, progress, attempts and result. Default: the newest."""
    job = bench().jobs.get(_known(job_id))
    json_answer(job)
    state = job.state.value + (", asked to stop" if job.cancel_requested and not job.state.final else "")
    began = next((a.started_at for a in job.attempts if a.started_at), None)
    waited = ((began or job.ended_at or datetime.now(UTC)) - job.created_at).total_seconds()
    fields(
        [
            ("job", job.id),
            ("what", job.title),
            ("state", state),
            ("submitted", ago(job.created_at)),
            ("waited", duration(waited) if waited >= _WORTH_TELLING else ""),
            ("worked", duration(job.worked()) if job.attempts else ""),
            ("progress", progress_text(job.progress) if job.progress and not job.state.final else ""),
            ("error", job.error),
            *_result(job),
        ]
    )
    rows = [(a.n, a.state, ago(a.started_at), "" if a.exit_code is None else a.exit_code, a.error or "", a.path) for a in job.attempts]
    if rows:
        say()
        table(("attempt", "state", "started", "exit", "error", "folder"), rows, right=("attempt", "exit"))
    say()
    history = [
        (ago(e["at"]), "" if e["attempt"] is None else e["attempt"], e["what"], short(e["detail"], 80)) for e in bench().jobs.events(job.id)
    ]
    table(("when", "attempt", "what", "detail"), history, right=("attempt",))
    if next_step := _next_step(job):
        say()
        say(next_step)


@jobs.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--tail", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("--follow", "-f", "on", is_flag=True, help="Go on printing until the job has ended.")
def logs(job_id: str | None, tail: int | None, on: bool) -> None:
    """Print what a job's processes wrote. Default: the newest job."""
    if on:
        for text in bench().jobs.follow(_known(job_id)):
            say(text, end="")
        return
    text = bench().jobs.logs(_known(job_id))
    lines = text.splitlines()
    shown = lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]
    for line in shown:
        say(line)
    if not lines:
        note("This job has written nothing yet.")


@jobs.command(name="follow")
@click.argument("job_id", metavar="[JOB]", required=False)
@json_option
def follow_job(job_id: str | None) -> None:
    """Watch a job until it ends; Ctrl-C lets go of it. The exit status is 0 only when it succeeded. Default: the newest."""
    print_result(watch(_known(job_id)))


@jobs.command()
@click.argument("job_ids", metavar="JOB…", nargs=-1, required=True)
def cancel(job_ids: tuple[str, ...]) -> None:
    """Stop jobs. A running one saves a checkpoint first; it counts as cancelled when its last process has ended."""
    for job_id in job_ids:
        job = bench().jobs.cancel(job_id)
        say(f"{job.id} {'is ' if job.state.final else 'was asked to stop; it is '}{job.state.value}.")


@jobs.command()
@click.argument("job_id", metavar="JOB")
@click.option("--detach", "-d", is_flag=True, help="Return at once.")
@click.option("--give-up-machine", is_flag=True, help="Take a running job away from another machine that will never come back.")
def resume(job_id: str, detach: bool, give_up_machine: bool) -> None:
    """Let a cancelled, failed or interrupted job go on from its newest verified checkpoint."""
    job = bench().jobs.resume(job_id, give_up_machine=give_up_machine)
    note(f"Job {job.id} goes on: {job.title}")
    if not detach:
        print_result(watch(job.id))


def _known(job_id: str | None) -> str:
    if job_id is not None:
        return job_id
    newest = bench().jobs.list(limit=1)
    if not newest:
        raise NotFound("There is no job yet.", hint="Start one: workbench train --base … --dataset …")
    return newest[0].id


def _steps(job: Job) -> str:
    progress = job.progress
    return f"{progress.step}/{progress.total_steps}" if progress and progress.step is not None and progress.total_steps else ""


def _result(job: Job) -> list[tuple[str, str]]:
    result = job.result or {}
    return [(key, result[key]) for key in ("adapter", "base", "folder", "out") if isinstance(result.get(key), str)]


def _next_step(job: Job) -> str:
    if not job.state.final:
        return f"Follow it: workbench jobs follow {job.id}    Stop it: workbench jobs cancel {job.id}"
    if job.state is not JobState.succeeded:
        return f"See why: workbench jobs logs {job.id}    Go on from its checkpoint: workbench jobs resume {job.id}"
    adapter = (job.result or {}).get("adapter")
    return f"See it: workbench adapter show {adapter}" if isinstance(adapter, str) else ""
