"""The part of the Train page that takes a file: what it holds, the question where that is open, the check, and adding it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from workbench import Workbench
from workbench.data.formats import Recognised
from workbench.data.scorers import SCORERS
from workbench.words import Words
from workbench_ui import uploads
from workbench_ui.guard import guarded, spoken
from workbench_ui.views import train as views
from workbench_ui.views.markup import quiet, trouble
from workbench_ui.widgets.file_drop import chosen, file_drop
from workbench_ui.widgets.view import BUSY, QUIET, Shown, choice, view

__all__ = ["AddData"]

_DECIDE = "auto"  # the scorer that the answers themselves call for


class AddData:
    """The controls and what their events do. `added` is a hidden text box: its value becomes the name of a dataset once it was added.

    The file stays among the uploads until its rows are in a dataset, then it is deleted.
    """

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t
        view(quiet(t("data.add_how")))
        self.drop_file, self.file = file_drop(t), gr.Textbox(visible=False)  # the token of what was uploaded
        self.asked = view()
        with gr.Row(visible=False) as self.columns:
            self.question = choice(label=t("data.question"), min_width=180)
            self.answer = choice(label=t("data.answer"), min_width=180)
        self.confirm = gr.Button(t("data.confirm"), visible=False, variant="primary", scale=0)
        self.report = view()
        with gr.Column(visible=False) as self.finish:
            self.drop = gr.Checkbox(label=t("data.drop"), visible=False)
            with gr.Row():
                self.name = gr.Textbox(label=t("data.name"), info=t("data.name_info"), max_lines=1, min_width=180)
                scorers = [(t(f"scorer.{s}"), s) for s in (_DECIDE, *SCORERS, "none")]
                self.scorer = choice(scorers, value=_DECIDE, label=t("data.scorer"), info=t("data.scorer_info"))
            self.add_it = gr.Button(t("data.add"), variant="primary")
        self.added = gr.Textbox(visible=False)
        self._wire()

    def _wire(self) -> None:
        on, judged = guarded(self.t), [self.report, self.finish, self.drop]
        answers, mapped = [self.question, self.answer], [self.asked, self.confirm, *judged]
        shown = [self.drop_file, self.file, self.columns, *answers, *mapped]
        self.drop_file.uploaded(on(self.arrived), None, shown, **BUSY)
        self.drop_file.cleared(on(self.removed), self.file, shown, **BUSY)
        gr.on([self.confirm.click, *(part.input for part in answers)], on(self.answered), [self.file, *answers], mapped, **BUSY)
        self.add_it.click(on(self.add), [self.file, *answers, self.drop, self.name, self.scorer], [self.added, self.name], **BUSY).success(
            on(self.removed), self.file, shown, **QUIET
        )

    def arrived(self, event: gr.EventData) -> Shown:
        token = str(event.token)
        path = uploads.uploaded(token)
        shown = {**self._nothing(), self.drop_file: chosen(path.name), self.file: token}
        found, problem = spoken(self.t, lambda: self.bench.datasets.recognise(path))
        if found is None:
            return {**shown, self.report: trouble(problem)}
        return {**shown, **self._asked(found), **({} if found.question else self._judged(path, None))}

    def removed(self, token: str) -> Shown:
        spoken(self.t, lambda: uploads.remove(token))  # what is gone already is no trouble
        return {**self._nothing(), self.drop_file: chosen(""), self.file: ""}

    def answered(self, token: str, question: str | None, answer: str | None) -> Shown:
        path = uploads.uploaded(token)
        return {self.asked: "", self.confirm: gr.Button(visible=False), **self._judged(path, self._mapping(path, question, answer))}

    def add(self, token: str, question: str | None, answer: str | None, drop: bool, name: str, scorer: str) -> Shown:
        path = uploads.uploaded(token)
        mapping = self._mapping(path, question, answer)
        report = self.bench.check_data(str(path), mapping=mapping)
        kinds = sorted({finding.kind for finding in report.problems}) if drop else []
        wanted = (name or "").strip().lower() or None
        new = self.bench.datasets.add(str(path), name=wanted, mapping=mapping, drop=kinds, scorer=None if scorer == _DECIDE else scorer)
        return {self.added: new.name, self.name: ""}

    def _asked(self, found: Recognised) -> Shown:
        """The question in words with the columns to answer it, or nothing where the file speaks for itself."""
        return {
            self.asked: views.column_question(found.question, self.t) if found.question else "",
            self.columns: gr.Row(visible={"question", "answer"} <= set(found.mapping)),
            self.question: gr.Dropdown(choices=found.columns, value=found.mapping.get("question")),
            self.answer: gr.Dropdown(choices=found.columns, value=found.mapping.get("answer")),
            self.confirm: gr.Button(visible=found.question is not None),
        }

    def _mapping(self, path: Path, question: str | None, answer: str | None) -> dict[str, str] | None:
        """The columns as answered; where the file needs no pair of columns, its own reading. None: nothing was in doubt."""
        found = self.bench.datasets.recognise(path)
        if {"question", "answer"} <= set(found.mapping) and question and answer:
            as_found = (question, answer) == (found.mapping["question"], found.mapping["answer"])
            return None if as_found and found.format is not None else {**found.mapping, "question": question, "answer": answer}
        return found.mapping if found.format is None else None

    def _judged(self, path: Path, mapping: dict[str, str] | None) -> Shown:
        """What the check says, whether the rows may be added, and whether there are rows to leave out."""
        report, problem = spoken(self.t, lambda: self.bench.check_data(str(path), mapping=mapping))
        if report is None:
            return self._unjudged(trouble(problem))
        bad = len({finding.row for finding in report.problems})
        label = self.t.n("data.drop_n", bad) if len(report.problems) == report.blocking else self.t("data.drop")  # not all are listed
        return {
            self.report: views.file_report(report, self.t),
            self.finish: gr.Column(visible=report.rows > 0),
            self.drop: gr.Checkbox(visible=bad > 0, value=False, label=label),
        }

    def _nothing(self) -> Shown:
        """No question, no columns, no button, nothing to add."""
        hidden = {self.columns: gr.Row(visible=False), self.confirm: gr.Button(visible=False)}
        return {self.asked: "", **hidden, **self._unjudged("")}

    def _unjudged(self, report: str) -> Shown:
        """`report` in place of a check, and nothing to add."""
        return {self.report: report, self.finish: gr.Column(visible=False), self.drop: gr.Checkbox(visible=False, value=False)}
