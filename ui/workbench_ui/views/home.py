"""The first page: what this is for somebody new; what is going on for everybody else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from workbench.records import Adapter, Job
from workbench.words import Words
from workbench_ui.icons import ICONS
from workbench_ui.views.adapters import EXAMPLE, adapter_list
from workbench_ui.views.jobs import job_list
from workbench_ui.views.markup import button, esc

__all__ = ["home"]

_SHOWN = 3


def home(jobs: Sequence[Job], adapters: Sequence[Adapter], t: Words, *, now: datetime | None = None) -> str:
    """The hero and the three steps; then running jobs and the newest adapters where there are any. Both come newest first."""
    busy = [job for job in jobs if not job.state.final]
    recent = busy or list(jobs[:_SHOWN])
    parts = [_hero(t, new=not adapters and not jobs)]
    if recent:
        parts.append(f'<h2 class="wb-section">{esc(t("home.running" if busy else "home.recent"))}</h2>{job_list(recent, t, now=now)}')
    if adapters:
        names = list(dict.fromkeys(a.name for a in adapters))[:_SHOWN]
        shown = [a for a in adapters if a.name in names]
        parts.append(f'<h2 class="wb-section">{esc(t("home.newest"))}</h2>{adapter_list(shown, t, now=now)}')
    return "".join(parts)


def _hero(t: Words, *, new: bool) -> str:
    own, example = t.link("train"), t.link("train", **EXAMPLE)
    actions = (
        button(t("home.try"), example, primary=True, icon="arrow") + button(t("home.own"), own)
        if new
        else button(t("home.own"), own, primary=True, icon="train") + button(t("home.try"), example)
    )
    steps = "".join(
        f"<li>{ICONS[icon]}<h3>{esc(t(f'home.step{n}'))}</h3><p>{esc(t(f'home.step{n}.text'))}</p></li>"
        for n, icon in ((1, "data"), (2, "train"), (3, "adapters"))
    )
    three = f'<ol class="wb-three">{steps}</ol>' if new else ""
    return (
        f'<section class="wb-hero"><h1 id="wb-top" tabindex="-1">{esc(t("home.title"))}</h1><p>{esc(t("home.lead"))}</p>'
        f'<div class="wb-actions">{actions}</div></section>{three}'
    )
