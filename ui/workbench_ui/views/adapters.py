"""Adapters on the page: what each one learned, what it is worth, where it comes from and how to use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from workbench.evidence import Summary
from workbench.records import Adapter, Base, Dataset
from workbench.words import Words
from workbench.worth import gain, metric_of
from workbench_ui.views.jobs import download_link
from workbench_ui.views.markup import badge, button, card, code_block, empty, esc, facts, quiet, stack
from workbench_ui.views.scores import TONES, answers, score_bars, score_sentence, verdict

__all__ = [
    "EXAMPLE", "adapter_actions", "adapter_answers", "adapter_facts", "adapter_list", "adapter_page", "adapter_score", "adapter_use",
    "learned", "no_adapters",
]  # fmt: skip

EXAMPLE = {"dataset": "order-codes", "preset": "quick"}  # what somebody new may try: `train` filled in
_PAGE = 50  # names on one page


def adapter_list(adapters: Sequence[Adapter], t: Words, *, now: datetime | None = None) -> str:
    """One card an adapter: the newest version of each name, with how many came before. `adapters` come newest first."""
    if not adapters:
        return no_adapters(t, "adapters.empty")
    versions = Counter(adapter.name for adapter in adapters)
    newest = {adapter.name: adapter for adapter in reversed(adapters)}
    cards = "".join(_card(newest[name], count, t, now) for name, count in versions.items())
    return f'<ul class="wb-grid">{cards}</ul>'


def no_adapters(t: Words, text: str) -> str:
    """What stands where adapters would be, with the words of the key `text`, and the way to a first one."""
    start = button(t("adapters.empty_action"), t.link("train", **EXAMPLE), primary=True, icon="train")
    return empty(t("adapters.empty_title"), esc(t(text)), start)


def adapter_page(adapters: Sequence[Adapter], t: Words, *, find: str = "", page: int = 1, now: datetime | None = None) -> str:
    """The adapters whose name or base holds `find`, so many names at a time; search and pages where there are more."""
    wanted = find.strip().lower()
    names = list(dict.fromkeys(a.name for a in adapters if wanted in f"{a.name} {a.base}".lower()))
    pages = max(1, -(-len(names) // _PAGE))
    page = min(max(1, page), pages)
    shown = set(names[(page - 1) * _PAGE : page * _PAGE])
    cards = adapter_list([a for a in adapters if a.name in shown], t, now=now) if shown or not wanted else ""
    if not wanted and pages == 1:
        return cards
    return stack([_search(find, t), cards or f"<p>{t.html('adapters.none_found', find=find)}</p>", _pager(find, page, pages, t)])


def _search(find: str, t: Words) -> str:
    label = esc(t("adapters.find"))
    return (
        f'<form class="wb-find" role="search" action="{esc(t.link("adapters"))}">'
        f'<input type="search" name="find" maxlength="100" value="{esc(find)}" placeholder="{label}" aria-label="{label}"/>'
        f'<button class="wb-button">{esc(t("adapters.find_go"))}</button></form>'
    )


def _pager(find: str, page: int, pages: int, t: Words) -> str:
    def go(to: int, key: str) -> str:
        query = {"page": str(to)} | ({"find": find} if find else {})
        return button(t(key), t.link("adapters", **query)) if 1 <= to <= pages else ""

    if pages == 1:
        return ""
    where = f"<span>{esc(t('adapters.page', n=t.number(page), all=t.number(pages)))}</span>"
    links = f"{go(page - 1, 'adapters.newer')}{where}{go(page + 1, 'adapters.older')}"
    return f'<nav class="wb-actions" aria-label="{esc(t("adapters.pages"))}">{links}</nav>'


def _card(adapter: Adapter, versions: int, t: Words, now: datetime | None) -> str:
    link = esc(t.link("adapters", adapter=adapter.ref))
    sentence = score_sentence(adapter.scores, t) or t("score.none")
    under = [str(adapter.base), t.ago(adapter.created_at, now), t.n("adapters.versions", versions) if versions > 1 else ""]
    top = f'<strong>{esc(adapter.name)}</strong><span class="version">v{adapter.version}</span>{gain_badge(adapter.scores, t)}'
    return (
        f'<li><a class="wb-tile" href="{link}"><span class="top">{top}</span><span class="says">{esc(sentence)}</span>'
        f'<span class="wb-quiet">{esc(" · ".join(filter(None, under)))}</span></a></li>'
    )


def gain_badge(scores: dict[str, Any], t: Words) -> str:
    """The gain without its interval, for lists; the colour says whether the interval leaves a doubt, and so does the word."""
    if not scores:
        return badge(t("gain.unknown"), "idle")
    summary = Summary.from_dict(scores)
    says = verdict(summary)
    return badge(t.say(gain(metric_of(summary), summary)) if says != "unclear" else t("gain.unclear"), TONES[says])


def learned(adapter: Adapter, dataset: Dataset | None, t: Words) -> str:
    """What it was taught, in one plain-text sentence."""
    if adapter.dataset is None:
        return t("adapters.learned_unknown", base=adapter.base)
    rows = t.n("data.rows", dataset.train_rows) if dataset is not None and dataset.sha256 == adapter.dataset_sha256 else ""
    key = "adapters.learned" if rows else "adapters.learned_short"
    return t(key, rows=rows, dataset=adapter.dataset, base=adapter.base)


def adapter_actions(adapter: Adapter, t: Words) -> str:
    """Download, and train again with the same settings."""
    again = button(t("adapters.again"), t.link("train", job=adapter.job_id), icon="train") if adapter.job_id else ""
    download = button(t("adapters.download"), download_link(adapter.ref), primary=True, icon="down", download=True)
    return f'<div class="wb-actions">{download}{again}</div>'


def adapter_score(adapter: Adapter, t: Words) -> str:
    """The sentence and the bars."""
    sentence = score_sentence(adapter.scores, t)
    told = f'<p class="headline">{esc(sentence)}</p>' if sentence else ""
    return card(t("adapters.score"), told + score_bars(adapter.scores, t))


def adapter_answers(samples: Sequence[dict[str, Any]], t: Words) -> str:
    """Test questions answered by the base and by the base with the adapter."""
    columns = [("base", t("answers.base")), ("adapter", t("answers.adapter"))]
    shown = answers(samples, columns, t)
    return card(t("adapters.answers"), quiet(t("adapters.answers_how")) + shown) if shown else ""


def adapter_facts(adapter: Adapter, versions: Sequence[Adapter], t: Words) -> str:
    """Lineage: base and its lock, dataset and its hash, job, parents, other versions."""
    job = f'<a href="{esc(t.link("jobs", job=adapter.job_id))}">{esc(adapter.job_id)}</a>' if adapter.job_id else ""
    listed = [_ref_link(a.ref, t, f"v{a.version}") for a in versions if a.version != adapter.version]
    others = ", ".join(listed[:_PAGE]) + (" …" if len(listed) > _PAGE else "")
    pairs = [
        (t("fact.base"), f"{esc(adapter.base)} <code>{esc(adapter.base_lock_sha256[:12])}</code>"),
        (t("fact.dataset"), f"{esc(adapter.dataset)} <code>{esc((adapter.dataset_sha256 or '')[:12])}</code>" if adapter.dataset else ""),
        (t("fact.method"), esc(t.term("method", adapter.method))),
        (t("fact.made"), esc(t.date(adapter.created_at))),
        (t("fact.job"), job),
        (t("fact.parents"), ", ".join(_ref_link(ref, t) for ref in adapter.parents)),
        (t("fact.versions"), others),
        (t("fact.aliases"), ", ".join(esc(f"{adapter.name}@{alias}") for alias in adapter.aliases)),
        (t("fact.manifest"), f"<code>{esc(adapter.manifest_sha256[:16])}</code>"),
    ]
    return card(t("adapters.facts"), facts(pairs))


def _ref_link(ref: str, t: Words, shown: str = "") -> str:
    return f'<a href="{esc(t.link("adapters", adapter=ref))}">{esc(shown or ref)}</a>'


def adapter_use(adapter: Adapter, base: Base | None, t: Words) -> str:
    """How to load the folder with nothing but transformers and peft."""
    copy, code, folder = t("copy"), t("adapters.code"), t("adapters.folder")
    body = f"<p>{esc(t('adapters.use_how'))}</p>{code_block(peft_code(adapter, base), copy, code)}"
    return card(t("adapters.use"), f"{body}<h3>{esc(folder)}</h3>{code_block(str(adapter.path), copy, folder)}")


def peft_code(adapter: Adapter, base: Base | None) -> str:
    """Plain transformers and peft; nothing of ours."""
    where = base.path if base is not None else f"path/to/{adapter.base.family}"
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base = {str(where)!r}\n"
        f"adapter = {str(adapter.path)!r}\n"
        "tokenizer = AutoTokenizer.from_pretrained(adapter)\n"
        "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)\n\n"
        'chat = [{"role": "user", "content": "…"}]\n'
        'inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0, inputs.input_ids.shape[1]:]))"
    )
