"""The pieces of the offline report: tables, bars, the drift strip. Everything that comes from a person or a model goes through `esc`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from statistics import fmean

from workbench.evidence import SUCCESS
from workbench.rebase.findings import CATALOGUE
from workbench.rebase.result import Health, Probes, Structure, Verdict, Weights, Witness
from workbench.rebase.rule import score
from workbench.stats import Interval, share_interval

__all__ = [
    "METRICS", "badge", "bars", "drift", "esc", "facts", "findings", "health", "link", "p_value", "page", "plain", "probes", "table",
    "witnesses",
]  # fmt: skip

METRICS = {
    "right": "the share of right answers",
    "exact_match": "the share of exactly right answers",
    "nll_per_token": "loss, nats per answer token (lower is better)",
    "bits_per_byte": "loss, bits per answer byte (lower is better)",
}
_MARKS = {
    "works": ("good", "\u2713"),
    "not needed": ("good", "\u2212"),
    "no gain at home": ("idle", "\u25cb"),
    "too close to tell": ("warn", "\u2248"),
    "weaker": ("warn", "\u25bc"),
    "lost": ("bad", "\u2717"),
    "does harm": ("bad", "\u26a0"),
    "cannot load": ("bad", "\u2298"),
}


def esc(text: object) -> str:
    return html.escape(str(text), quote=True)


def plain(value: object) -> str:
    """Nested facts on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def p_value(p: float | None) -> str:
    return "unknown" if p is None else "below 0.001" if p < 0.001 else f"{p:.3f}"


def badge(word: str | None) -> str:
    kind, mark = _MARKS.get(word or "", ("idle", "?"))
    return f'<strong class="badge {kind}"><span aria-hidden="true">{mark}</span> {esc(word or "not tested")}</strong>'


def link(anchor: str, text: str) -> str:
    return f'<a href="#{esc(anchor)}">{esc(text)}</a>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a caption. Cells are HTML already; caption and head are text."""
    top = "".join(f'<th scope="col">{esc(name) or "&nbsp;"}</th>' for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    made = f"<table><caption>{esc(caption)}</caption><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">{made}</div>'


def facts(pairs: Mapping[str, object]) -> str:
    shown = "".join(f"<dt>{esc(key)}</dt><dd>{esc(value)}</dd>" for key, value in pairs.items() if value not in (None, ""))
    return f"<dl>{shown}</dl>"


# ---------------------------------------------------------------- pictures


def bars(metric: str, arms: Sequence[tuple[str, float]], verdict: Verdict) -> str:
    """One bar per arm. Success shares carry an exact interval of the single arm; the differences below carry the paired ones."""
    success = metric in SUCCESS
    top = 1.0 if success else max((value for _, value in arms), default=0) or 1.0
    rows = []
    for name, value in arms:
        ends = _share_interval(value, verdict) if success else None
        span = "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"
        rows.append((esc(name), _bar(value / top, None if ends is None else (ends[0], ends[1])), esc(score(metric, value)), esc(span)))
    caption = f"{METRICS[metric][0].upper()}{METRICS[metric][1:]}, n = {verdict.n:,} test rows"
    head = ("arm", "", "score", "95 % interval") if success else ("arm", "", "score")
    return table(caption, head, rows if success else [row[:3] for row in rows])


def _share_interval(share: float, verdict: Verdict) -> tuple[float, float]:
    units = verdict.groups or verdict.n  # rows of a group count as copies, as everywhere
    return share_interval(share * units, units, level=verdict.settings.level)


def _bar(share: float, ends: tuple[float, float] | None) -> str:
    width = 200 * min(1.0, max(0.0, share))
    whisker = ""
    if ends is not None:
        low, high = (200 * end for end in ends)
        whisker = (
            f'<path class="whisker" d="M{low:.1f} 8H{high:.1f}M{low:.1f} 4v8M{high:.1f} 4v8"/>'  # drawn over the bar, in the text's colour
        )
    return (
        '<svg class="bar" viewBox="-2 0 204 16" width="204" height="16" aria-hidden="true">'
        f'<rect class="track" width="200" height="16"/><rect class="value" width="{width:.1f}" height="16"/>{whisker}</svg>'
    )


def drift(weights: Weights) -> str:
    """How far each layer moved as a strip of bars, and the figures below it."""
    shown = {
        "change": weights.change,
        "measured": "exactly" if weights.exact else f"from the lock's sketches, relative error {_percent(weights.error)}",
        "relative drift": _percent(weights.drift),
        "drift over the adapter's own size": _number(weights.ratio),
        "drift as the adapter reads it": _percent(weights.input),
        "drift where the adapter writes": _percent(weights.output),
        "alignment with the adapter": _number(weights.alignment),
        "embeddings": _percent(weights.embeddings),
        "norm weights": _percent(weights.norms),
        "moved most": ", ".join(weights.worst),
        "lineage": weights.lineage and f"{weights.lineage.reading}, {100 * weights.lineage.identity:.0f} % of neurons match themselves",
        "colour, by the lineage lab": weights.band,
    }
    layers = _layers(weights)
    strip = _strip(layers) if layers else ""
    return f"{strip}\n{facts(shown)}\n<p>Weights explain a verdict; they never make one.</p>"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2g} %"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _layers(weights: Weights) -> dict[int, dict[str, float]]:
    """layer -> group -> mean relative drift of its adapted modules."""
    found: dict[int, dict[str, list[float]]] = {}
    for module in weights.modules:
        if module.layer is not None:
            found.setdefault(module.layer, {}).setdefault(module.group, []).append(module.drift)
    return {layer: {group: fmean(values) for group, values in groups.items()} for layer, groups in sorted(found.items())}


def _strip(layers: Mapping[int, Mapping[str, float]]) -> str:
    groups = sorted({group for values in layers.values() for group in values})
    top = max((value for values in layers.values() for value in values.values()), default=0.0) or 1.0
    step, height = 18, 60
    drawn = []
    for row, group in enumerate(groups):
        floor = (row + 1) * (height + 22) - 18
        drawn.append(f'<text x="0" y="{floor - height + 2}">{esc(group)}</text>')
        for column, (layer, values) in enumerate(layers.items()):
            tall = (height - 12) * values.get(group, 0.0) / top
            x = column * step
            drawn.append(f'<rect class="value" x="{x}" y="{floor - tall:.1f}" width="{step - 4}" height="{max(tall, 0.5):.1f}"/>')
            if column % 5 == 0:
                drawn.append(f'<text x="{x}" y="{floor + 13}">{layer}</text>')
    most = max(layers, key=lambda layer: max(layers[layer].values()))
    label = f"Relative drift of the adapted modules by layer, {', '.join(groups)}: most in layer {most}, {100 * top:.2g} %"
    width, depth = max(160, len(layers) * step), len(groups) * (height + 22)
    picture = (
        f'<svg class="strip" role="img" aria-label="{esc(label)}" width="{width}" viewBox="0 0 {width} {depth}">{"".join(drawn)}</svg>'
    )
    rows = [(str(layer), *(esc(_percent(values.get(group)) or "") for group in groups)) for layer, values in layers.items()]
    figures = table("Mean relative drift by layer", ("layer", *groups), rows)
    return (
        f"<figure>{picture}<figcaption>{esc(label)}</figcaption></figure>\n<details><summary>Figures by layer</summary>{figures}</details>"
    )


# ---------------------------------------------------------------- words


def findings(structure: Structure) -> str:
    if not structure.findings:
        return "<p>Nothing that the configuration, the tokenizer or the adapter's own files show.</p>"
    rows = []
    for finding in structure.findings:
        entry = CATALOGUE.get(finding.name)
        help_text = f"{esc(entry.explanation)} {esc(entry.advice)}" if entry else ""
        rows.append((esc(finding.level), f"<code>{esc(finding.name)}</code>", esc(finding.text), help_text))
    made = table("Findings: breaks, then risks, then notes", ("level", "name", "what was found", "what it means"), rows)
    if structure.template_diff:
        title = "The chat templates, as both render the same conversations"
        made += f"<details><summary>{title}</summary><pre>{esc(structure.template_diff)}</pre></details>"
    return made


def probes(found: Probes) -> str:
    shown = facts(
        {
            "prompts": f"{found.prompts:,}",
            "similarity of last-token states (mean linear CKA)": f"{found.cka_mean:.3f}",
            "same next token": None if found.top1_agreement is None else f"{100 * found.top1_agreement:.1f} % of places",
            "distance of next-token distributions (Jensen-Shannon)": None if found.jsd is None else f"{found.jsd:.4f} nats",
            "does the adapter push both the same way (correlation of its effect)": _number(found.effect_correlation),
            "and how hard (slope)": _number(found.effect_slope),
            "size of its effect, new over old (ratio of KL)": _number(found.effect_ratio),
            "best dose on a few test rows": _number(found.best_dose),
        }
    )
    if not found.dose:
        return shown
    rows = [(esc(alpha), f"{nll:.4f}") for alpha, nll in found.dose.items()]
    return shown + table("Dose: loss of the new base with a multiple of the adapter", ("multiple", "nats a token"), rows)


def health(found: Health) -> str:
    before = "the old base is not here to be asked" if found.home is None else f"the old base {found.home:.3f}"
    change = "" if found.change is None else f" Change for the better: {_bits(found.change)}."
    verdict = "The new base got clearly worse on neutral text: that is not the adapter's fault." if found.broken else "It is not broken."
    text = f"On {found.passages:,} passages of neutral text the new base has {found.new:.3f} bits a byte, {before}.{change} {verdict}"
    return f"<p>{esc(text)}</p>"


def _bits(change: Interval) -> str:
    ends = "" if change.low is None or change.high is None else f" (95 % interval {change.low:+.3f} to {change.high:+.3f})"
    return f"{change.value:+.3f}{ends}"


def witnesses(found: Sequence[Witness], home: str, base: str) -> str:
    def said(answer: str | None) -> str:
        return "<em>not written down</em>" if answer is None else f"<pre>{esc(answer) or '(nothing)'}</pre>"

    rows = [
        (f"<code>{esc(w.id)}</code>", f"<pre>{esc(w.prompt)}</pre>", f"<pre>{esc(w.expected)}</pre>",
         f"{said(w.home)}{w.home_nll:.3f} nats a token", f"{said(w.new)}{w.new_nll:.3f} nats a token")
        for w in found
    ]  # fmt: skip
    head = ("row", "question", "expected", f"{home} with the adapter", f"{base} with the adapter")
    return table("The rows that changed for the worse most", head, rows)


# ---------------------------------------------------------------- the page


_STYLE = """
:root { color-scheme: light dark; --text: #1d232b; --back: #ffffff; --line: #c9d0d8; --soft: #eef1f4; --value: #3b6ea8;
  --good: #0f6b3c; --warn: #7a4d00; --bad: #a1201c; --idle: #505a66; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --text: #e6eaef; --back: #14181d; --line: #3a434d; --soft: #20262d; --value: #6ea3dd;
  --good: #6fd39b; --warn: #f0bd62; --bad: #ff938c; --idle: #b3bdc8; --link: #8fc1ff; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 2.5rem; } h3 { font-size: 1.1rem; margin-top: 2rem; }
a { color: var(--link); } .verdict { font-size: 1.15rem; }
.badge { white-space: nowrap; border: 1px solid currentColor; border-radius: .3rem; padding: .05rem .5rem; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); } .idle { color: var(--idle); }
.scroll { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; }
caption { text-align: start; font-weight: 600; padding: .3rem 0; }
th, td { text-align: start; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font-size: .9rem; max-width: 40ch; } details pre { max-width: none; }
dl { display: grid; grid-template-columns: minmax(10rem, max-content) 1fr; gap: .2rem 1.2rem; } 
dt { color: var(--idle); } dd { margin: 0; overflow-wrap: anywhere; }
svg .track { fill: var(--soft); } svg .value { fill: var(--value); } svg .whisker { stroke: var(--text); stroke-width: 1.5; fill: none; }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; } .strip { max-width: 100%; height: auto; }
figure { margin: 1rem 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
"""


def page(title: str, body: str) -> str:
    """A whole document that may load nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{esc(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
