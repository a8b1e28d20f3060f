"""What happens beside the steps: progress lines, a look at some answers, and being told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from transformers import TrainerCallback

from workbench.data.rows import answer_of, question_of
from workbench.hf.generate import answer
from workbench.records import Progress

__all__ = ["Follower"]

Report = Callable[[Progress], None]
_SAMPLE_TOKENS = 48  # of an answer to look at, at most


class Follower(TrainerCallback):  # type: ignore[misc]
    """Reports every step, evaluates and saves after the last one, and stops the run when asked.

    At each evaluation the rows of `shown` are answered too, to look at.
    """

    def __init__(
        self,
        report: Report,
        stopping: Callable[[], bool],
        *,
        evaluates: bool,
        tokenizer: Any,
        shown: Sequence[dict[str, Any]],
        save_steps: int | None,
    ) -> None:
        self.report, self.stopping = report, stopping
        self.evaluates, self.tokenizer, self.shown, self.save_steps = evaluates, tokenizer, shown, save_steps
        self.stopped = False
        self.step_seconds: list[float] = []
        self._tokens = [0]  # seen before this process's first step, and after each
        self._step_began = self._aside_began = time.perf_counter()
        self._aside: list[float] = []  # seconds of each evaluation with what goes with it

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tokens = [state.num_input_tokens_seen]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._aside_began = time.perf_counter()
        self.step_seconds.append(self._aside_began - self._step_began)
        self._tokens.append(state.num_input_tokens_seen)
        last = state.global_step >= state.max_steps
        if self.stopping() and not last:
            self.stopped = control.should_training_stop = control.should_save = True
            control.should_evaluate = False
        if self.save_steps and state.global_step % self.save_steps == 0:
            control.should_save = True
        if last:
            control.should_save, control.should_evaluate = True, self.evaluates

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._line(state, loss=logs["loss"], learning_rate=logs.get("learning_rate"), grad_norm=logs.get("grad_norm"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **kwargs: Any) -> None:
        samples = self._samples(kwargs["model"])
        self._aside.append(time.perf_counter() - self._aside_began)
        self._line(state, eval_loss=(metrics or {}).get("eval_loss"), samples=samples)

    def _samples(self, model: Any) -> list[dict[str, str]] | None:
        """Greedy answers to the shown rows beside those expected."""
        if not self.shown:
            return None
        expected = [answer_of(row) for row in self.shown]
        longest = max(len(self.tokenizer(text)["input_ids"]) for text in expected)
        try:
            answers = answer(model, self.tokenizer, self.shown, max_new_tokens=min(_SAMPLE_TOKENS, longest + 8))
        except Exception as error:  # answers are for looking at: whatever a base cannot generate with, it can still learn
            self.shown = []
            self.report(Progress(t=time.time(), phase="training", message=f"This base gives no answers to look at: {error}"))
            return None
        triples = zip(map(question_of, self.shown), expected, answers, strict=True)
        return [{"prompt": prompt, "expected": wanted, "answer": given} for prompt, wanted, given in triples]

    def rate(self) -> float:
        """Real tokens per second of training, the first step (which warms up) left out where there are more."""
        first = 1 if len(self.step_seconds) > 1 else 0
        seconds = sum(self.step_seconds[first:])
        return (self._tokens[-1] - self._tokens[first]) / seconds if seconds else 0.0

    def _line(self, state: Any, **found: Any) -> None:
        to_go = state.max_steps - state.global_step
        step = median(self.step_seconds[1:] or self.step_seconds or [0.0])
        every = state.eval_steps or state.max_steps
        evaluations = -(-to_go // max(1, int(every))) if self.evaluates else 0
        self.report(
            Progress(
                t=time.time(),
                phase="training",
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=state.epoch,
                tokens=state.num_input_tokens_seen,
                tokens_per_second=self.rate() or None,
                seconds_left=to_go * step + evaluations * (median(self._aside) if self._aside else 0.0),
                **found,
            )
        )
