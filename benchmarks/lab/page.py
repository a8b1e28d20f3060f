"""What the lab prints: docs/lab.md, to the letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.lab.cells import Cell
from benchmarks.lab.contest import Entry
from benchmarks.lab.pictures import SIGNS
from benchmarks.lab.sizes import Bases, Sizes
from workbench.rebase.verdicts import VERDICTS

__all__ = ["page"]

TASKS = {
    "orders": "Read a colour and a place out of a sentence and write their codes. The sentences of the test were never seen.",
    "recall": "A fixed random table of words and their one-digit codes, learned by heart; the test asks in other words.",
    "words": "The missing word of a line of real text that no model was pre-trained on: one of 16, about equally frequent.",
}


def page(
    sizes: Sizes,
    bases: Bases,
    cells: Sequence[Cell],
    compared: Sequence[Cell],
    entries: Sequence[Entry],
    machine: Sequence[str],
) -> str:
    """`compared` are the cells the contest is about."""
    parts = [
        "<!-- Printed by `make lab`: do not edit. -->",
        "# The lineage lab",
        f"Small Llama-shaped models ({bases['s1'].facts['parameters']:,} parameters), pre-trained from scratch on real text, a third of "
        "its documents as little conversations: "
        f"{len(sizes.marks)} releases of one run, and s1, another seed that read the same text as long as the last of them. An adapter is "
        f"trained on each, and every adapter is copied onto every base: {len(cells)} cells, {sum(not c.home for c in cells)} of them away "
        f"from home, each judged on {sizes.test_rows} test rows by the rule of the rebase check.",
        _bases(bases),
        "## Every adapter on every base\n\nRows: the base an adapter was made on. Columns: the base it was put on. A cell holds the "
        "verdict, the share of test rows right with the adapter there, and R, the recovered lift: what the copy gives of what an adapter "
        "trained on that very base gives (–: such an adapter gains too little to divide by). Bold: at home, where nothing changes.",
        *(_matrix(name, cells) for name in sizes.adapters),
        "![The verdicts as a picture](images/lab-matrix.svg)",
        _counts(cells),
        _harm(cells),
        _contest(entries, compared),
        "## Time and machine\n\n" + "\n".join(f"- {line}" for line in machine),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _bases(bases: Bases) -> str:
    rows = [
        [name, f"{p.facts['step']:,}", f"{p.facts['tokens']:,}", f"{p.facts['loss']:.3f}", f"{p.facts['bits_per_byte']:.3f}"]
        for name, p in bases.items()
    ]
    return _table(["base", "steps", "tokens read", "nats a token, held-out text", "bits per byte"], rows)


def _matrix(name: str, cells: Sequence[Cell]) -> str:
    mine = [cell for cell in cells if cell.name == name]
    bases = list(dict.fromkeys(cell.source for cell in mine))
    at = {cell.pair: cell for cell in mine}
    bare = ["*bare base*", *(f"{at[base, base].score('home'):.3f}" for base in bases)]
    rows = [[f"made on **{source}**", *(_cell(at[source, target]) for target in bases)] for source in bases]
    what = TASKS[name.partition("-")[0]] + (" Attention modules only." if name.endswith("-attention") else "")
    return f"### {name}\n\n{what}\n\n" + _table(["", *bases], [bare, *rows])


def _cell(cell: Cell) -> str:
    word, score = cell.check.word or "", f"{cell.score('new_adapter'):.3f}"
    text = f"{SIGNS[word][0]} {word}{' (absorbed)' if cell.check.verdict and cell.check.verdict.absorbed else ''} {score}"
    if cell.home:
        return f"**{text}**"
    recovered = cell.check.retrained.recovered if cell.check.retrained else None
    return f"{text}, R {'–' if recovered is None else f'{recovered:.2f}'}"


def _counts(cells: Sequence[Cell]) -> str:
    names = list(dict.fromkeys(cell.name for cell in cells))
    groups = {name: [c for c in cells if c.name == name and not c.home] for name in names}
    groups["all"] = [c for c in cells if not c.home]
    groups["within the run"] = [c for c in groups["all"] if "s1" not in c.pair]
    groups["from or to s1"] = [c for c in groups["all"] if "s1" in c.pair]
    rows = []
    for name, group in groups.items():
        counted = Counter(cell.check.word for cell in group)
        rows.append([name, str(len(group)), *(str(counted[word]) for word in VERDICTS)])
    return "## How often each verdict was given, away from home\n\n" + _table(["", "cells", *VERDICTS], rows)


def _harm(cells: Sequence[Cell]) -> str:
    """The cells that do harm; where there are none, the one that came nearest, with its numbers."""
    away = [cell for cell in cells if not cell.home and cell.check.verdict is not None]
    harmful = [cell for cell in away if cell.check.word == "does harm"]
    if harmful:
        lines = [f"- {_harm_line(cell)}" for cell in sorted(harmful, key=_worst_transfer)[:5]]
        return f"## Does harm\n\n{len(harmful)} of {len(away)} cells. The worst:\n\n" + "\n".join(lines)
    if not away:
        return "## Does harm\n\nThere are no cells away from home."
    nearest = min(away, key=_worst_transfer)
    return (
        "## Why none does harm\n\nHarm means worse than the bare new base beyond doubt: the upper bound of transfer below -0.02, "
        f"in success or in nats per token. The cell that came nearest: {_harm_line(nearest)}. A bare base "
        f"gets {_mean([c.score('new') for c in away]):.3f} of the rows right on average: in success, no adapter can spoil more than that."
    )


def _worst_transfer(cell: Cell) -> float:
    """The smallest upper bound of transfer, in any metric, in units of that metric's epsilon."""
    assert cell.check.verdict is not None
    bounds = [c.transfer.high for c in cell.check.verdict.contrasts.values() if c.transfer.high is not None]
    return min(bounds, default=1.0)


def _harm_line(cell: Cell) -> str:
    assert cell.check.verdict is not None
    parts = []
    for metric in ("right", "nll_per_token"):
        if metric in cell.check.verdict.contrasts:
            transfer, arms = cell.check.verdict.contrasts[metric].transfer, cell.check.verdict.arms
            bare, with_it = arms["new"][metric], arms["new_adapter"][metric]
            unit = "of rows right" if metric == "right" else "nats a token"
            span = "" if transfer.low is None or transfer.high is None else f" ({transfer.low:+.3f} to {transfer.high:+.3f})"
            parts.append(f"{bare:.3f} {unit} bare, {with_it:.3f} with it, transfer {transfer.value:+.3f}{span}")
    return f"{cell.name} from {cell.source} on {cell.target}: {'; '.join(parts)}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _contest(entries: Sequence[Entry], cells: Sequence[Cell]) -> str:
    pairs = len({cell.pair for cell in cells})
    rows = [
        [
            entry.name,
            str(entry.stage),
            str(entry.cells),
            f"{entry.rho:+.2f} ({entry.low:+.2f} to {entry.high:+.2f})",
            "–" if entry.within is None else f"{entry.within:+.2f}",
            f"{entry.served:+.2f}",
            "–" if entry.auc is None else f"{entry.auc:.2f}",
        ]
        for entry in entries
    ]
    head = ["signal", "stage", "cells", "rho with kept success (95 %)", "within the run", "rho with served", "AUC of broken, base left out"]
    return (
        "## Which signal foretells it?\n\nSpearman's rho of each signal with kept success: right on B over right at home, both with the "
        f"adapter, at most 1. {len(cells)} cells on {pairs} pairs of bases (without those whose adapter gains no success at home); "
        "intervals draw pairs of bases. Beside it the same within the one run, with the served change, and how well the signal tells "
        "broken (weaker, lost, does harm) from sound cells of a base that had no part in learning which way it points.\n\n"
        + _table(head, rows)
        + "\n\n![A stage-1 signal against kept success](images/lab-signal.svg)"
    )
