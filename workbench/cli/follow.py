"""Watch a job: one line redrawn in place on a terminal, a line now and then in a log."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import click

from workbench.cli.groups import bench
from workbench.cli.output import count, duration, json_answer, note, redraw, say
from workbench.records import Job, JobState, Progress

__all__ = ["ProgressPrinter", "carried_out", "print_result", "progress_text", "watch"]

_BAR = 24  # columns
_QUIET_SECONDS = 10.0  # between two lines where nothing can be redrawn


def carried_out(job: Job, *, detach: bool = False) -> Job:
    """Say which job was submitted, and `watch` it; with `detach`, print its id and end the command."""
    if detach:
        json_answer(job)
        say(job.id)
        note(f"Follow it: workbench jobs follow {job.id}")
        raise click.exceptions.Exit(0)
    note(f"Job {job.id}: {job.title}. Ctrl-C lets go of it; it goes on.")
    return watch(job.id)


def watch(job_id: str) -> Job:
    """Show a job's progress until it ends, and return it. Raises `JobFailed`; Ctrl-C lets go and exits with 130."""
    printer = ProgressPrinter()
    others = [job.id for job in bench().jobs.list(state=JobState.running) if job.id != job_id]
    if others and bench().jobs.get(job_id).state is JobState.queued:
        note(f"It waits its turn; {', '.join(others)} is running.")
    try:
        return bench().jobs.wait(job_id, on_progress=printer)
    except KeyboardInterrupt:
        printer.close()
        note(f"Let go of job {job_id}; it goes on. Follow it: workbench jobs follow {job_id}. Stop it: workbench jobs cancel {job_id}")
        raise click.exceptions.Exit(130) from None
    finally:
        printer.close()


def print_result(job: Job) -> None:
    """What a finished job made, in a sentence, and what to do with it."""
    json_answer(job)
    result = job.result or {}
    took = f" in {duration(job.worked())}" if job.ended_at else ""
    if job.kind == "merge":
        say(f"Written to {result['out']}{took}, as {result['dtype']}.")
        say(f"Against base + adapter: {_gap(result['merging'])}.")
        if result.get("as_trained"):
            say(f"The adapter was trained on a base in {result['trained_on']}; against that: {_gap(result['as_trained'])}.")
    elif adapter := result.get("adapter"):
        say(f"Published the adapter {adapter}{took}.")
        _say_headline(result)
        say(f"Look at it: workbench adapter show {adapter}    Take it away: workbench adapter export {adapter} FOLDER")
    elif base := result.get("base"):
        say(f"Published the base {base}{took}.")
        _say_headline(result)
        say(f"Look at it: workbench base show {base}    Train on it: workbench train --base {base} --dataset …")
    elif folder := result.get("folder"):
        say(f"The trial is done{took}; nothing was published. Its result lies in {folder}.")
        _say_headline(result)
    else:
        say(f"Job {job.id} {job.state.value}{took}.")


def _say_headline(result: dict[str, Any]) -> None:
    if result.get("scores"):
        from workbench.evidence import Summary
        from workbench.words import words
        from workbench.worth import headline

        say(words("en").say(headline(Summary.from_dict(result["scores"]))))


def _gap(gap: dict[str, float]) -> str:
    places = f"the same next token at {100 * gap['top1_agreement']:.1f} % of the places"
    return f"logits differ by {gap['mean_logit_difference']:.2g} on average, {gap['max_logit_difference']:.2g} at most; {places}"


class ProgressPrinter:
    """Shows each `Progress` it is called with, on standard error."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._now: Progress | None = None
        self._open = False  # the newest line is drawn but not ended, or not printed yet
        self._printed_at = 0.0
        self._messages: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        new_phase = self._now is None or self._now.phase != progress.phase
        if new_phase:
            self.close()  # the last line of a phase stays: how far it came
        self._now = progress.onto(self._now)
        if progress.message and progress.message not in self._messages:
            self._messages.add(progress.message)
            self.close()
            note(progress.message)
            if not self.live and progress.step is None:
                return  # the message says it all
        self._open = True
        if self.live:
            columns = shutil.get_terminal_size((100, 24)).columns - 1
            redraw(progress_text(self._now, bar=True)[:columns])
        elif new_phase or time.monotonic() - self._printed_at >= _QUIET_SECONDS:
            self.close()

    def close(self) -> None:
        """End the line that is drawn, or print the newest one where nothing is redrawn."""
        if self._open and self._now:
            note("" if self.live else progress_text(self._now))
            self._printed_at = time.monotonic()
        self._open = False


def progress_text(progress: Progress, *, bar: bool = False) -> str:
    """`training  24/60  loss 0.812  183 tokens/s  1 min 12 s left`, with a bar where asked for."""
    parts = [f"{progress.phase:<10}"]
    if progress.step is not None and progress.total_steps:
        if bar:
            parts.append(_bar(progress.share or 0.0))
        parts.append(f"{progress.step}/{progress.total_steps}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.eval_loss is not None:
        parts.append(f"held back {progress.eval_loss:.3f}")
    if progress.tokens_per_second:
        parts.append(f"{count(progress.tokens_per_second)} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    return "  ".join(parts).rstrip()


def _bar(share: float) -> str:
    full = round(_BAR * share)
    done, rest = ("█", "░") if "utf" in (sys.stderr.encoding or "").lower() else ("#", ".")
    return done * full + rest * (_BAR - full)
