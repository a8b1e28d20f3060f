"""The part of the Train page that takes a file: what it holds, the question where that is open, the check, and adding it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from workbench import Workbench
from workbench.data.formats import Recognised
from workbench.data.scorers import SCORERS
from workbench.words import Words
from workbench_ui import uploads
from workbench_ui.guard import guarded, spoken
from workbench_ui.views import train as views
from workbench_ui.views.markup import panel
from workbench_ui.widgets.choice import choice
from workbench_ui.widgets.file_drop import chosen, file_drop
from workbench_ui.widgets.view import BUSY, QUIET, view

__all__ = ["add_data"]

_SCORERS = ("auto", *SCORERS, "none")


def add_data(bench: Workbench, t: Words) -> gr.Textbox:
    """Builds the controls; returns a hidden text box whose value becomes the name of a dataset once it was added."""
    do, on = _Handlers(bench, t), guarded(t)
    view(f'<p class="wb-quiet">{t("data.add_how")}</p>')
    drop_file, file = file_drop(t), gr.Textbox(visible=False)  # the token of what was uploaded
    asked = view()
    with gr.Row(visible=False) as columns:
        question = choice(label=t("data.question"), min_width=180)
        answer = choice(label=t("data.answer"), min_width=180)
    confirm = gr.Button(t("data.confirm"), visible=False, variant="primary", scale=0)
    report = view()
    with gr.Column(visible=False) as finish:
        drop = gr.Checkbox(label=t("data.drop"), visible=False)
        with gr.Row():
            name = gr.Textbox(label=t("data.name"), info=t("data.name_info"), max_lines=1, min_width=180)
            scorers = [(t(f"scorer.{s}"), s) for s in _SCORERS]
            scorer = choice(scorers, value="auto", label=t("data.scorer"), info=t("data.scorer_info"))
        add = gr.Button(t("data.add"), variant="primary")
    added = gr.Textbox(visible=False)

    read, judged = [asked, columns, question, answer, confirm], [report, finish, drop]
    drop_file.uploaded(on(do.arrived), None, [drop_file, file, *read, *judged], **BUSY)
    drop_file.cleared(on(do.removed), file, [drop_file, file, *read, *judged], **BUSY)
    answers = [confirm.click, question.input, answer.input]
    gr.on(answers, on(do.answered), [file, question, answer], [asked, confirm, *judged], **BUSY)
    add.click(on(do.add), [file, question, answer, drop, name, scorer], [added, name], **BUSY).success(
        on(do.removed), file, [drop_file, file, *read, *judged], **QUIET
    )
    return added


class _Handlers:
    """What the events do. The file stays among the uploads until its rows are in a dataset, then it is deleted."""

    def __init__(self, bench: Workbench, t: Words) -> None:
        self.bench, self.t = bench, t

    def arrived(self, event: gr.EventData) -> list[Any]:
        token = str(event.token)
        path = uploads.uploaded(token)
        shown = [chosen(path.name), token]
        found, problem = spoken(self.t, lambda: self.bench.datasets.recognise(path))
        if found is None:
            return [*shown, *_nothing(), *_unjudged(panel("bad", problem, icon="warn"))]
        return [*shown, *self._asked(found), *(_unjudged("") if found.question else self._judged(path, None))]

    def removed(self, token: str) -> list[Any]:
        spoken(self.t, lambda: uploads.remove(token))  # what is gone already is no trouble
        return [chosen(""), "", *_nothing(), *_unjudged("")]

    def answered(self, token: str, question: str | None, answer: str | None) -> list[Any]:
        path = uploads.uploaded(token)
        return ["", gr.Button(visible=False), *self._judged(path, self._mapping(path, question, answer))]

    def add(self, token: str, question: str | None, answer: str | None, drop: bool, name: str, scorer: str) -> tuple[str, str]:
        path = uploads.uploaded(token)
        mapping = self._mapping(path, question, answer)
        report = self.bench.check_data(str(path), mapping=mapping)
        kinds = sorted({finding.kind for finding in report.problems}) if drop else []
        wanted = (name or "").strip().lower() or None
        new = self.bench.datasets.add(str(path), name=wanted, mapping=mapping, drop=kinds, scorer=None if scorer == "auto" else scorer)
        return new.name, ""

    def _asked(self, found: Recognised) -> list[Any]:
        """The question in words with the columns to answer it, or nothing where the file speaks for itself."""
        pair = {"question", "answer"} <= set(found.mapping)
        return [
            views.column_question(found.question, self.t) if found.question else "",
            gr.Row(visible=pair),
            gr.Dropdown(choices=found.columns, value=found.mapping.get("question")),
            gr.Dropdown(choices=found.columns, value=found.mapping.get("answer")),
            gr.Button(visible=found.question is not None),
        ]

    def _mapping(self, path: Path, question: str | None, answer: str | None) -> dict[str, str] | None:
        """The columns as answered; where the file needs no pair of columns, its own reading. None: nothing was in doubt."""
        found = self.bench.datasets.recognise(path)
        if {"question", "answer"} <= set(found.mapping) and question and answer:
            as_found = (question, answer) == (found.mapping["question"], found.mapping["answer"])
            return None if as_found and found.format is not None else {**found.mapping, "question": question, "answer": answer}
        return found.mapping if found.format is None else None

    def _judged(self, path: Path, mapping: dict[str, str] | None) -> list[Any]:
        """What the check says, whether the rows may be added, and whether there are rows to leave out."""
        report, problem = spoken(self.t, lambda: self.bench.check_data(str(path), mapping=mapping))
        if report is None:
            return _unjudged(panel("bad", problem, icon="warn"))
        bad = len({finding.row for finding in report.problems})
        label = self.t.n("data.drop_n", bad) if len(report.problems) == report.blocking else self.t("data.drop")  # not all are listed
        drop = gr.Checkbox(visible=bad > 0, value=False, label=label)
        return [views.file_report(report, self.t), gr.Column(visible=report.rows > 0), drop]


def _nothing() -> list[Any]:
    """No question, no columns, no button."""
    return ["", gr.Row(visible=False), gr.skip(), gr.skip(), gr.Button(visible=False)]


def _unjudged(report: str) -> list[Any]:
    """`report` in place of a check, and nothing to add."""
    return [report, gr.Column(visible=False), gr.Checkbox(visible=False, value=False)]
