"""The card of an adapter: README.md with the front matter that the Hugging Face Hub reads. Its words are in card.md.jinja.

It says what was taught, on what data, what it gained and how sure that is, which base it needs, what that base's licence
asks for, and how to load it with plain `transformers` and `peft`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.registry.facts import Facts

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
_FACTS = ("name", "version", "method", "dataset", "learned_from", "base", "four_bits", "parents", "job_id", "created_at", "origin")
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
    config, change, repository = checked.config, checked.change, _repository(base, entry)
    words = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    text = words.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")).render(
        {name: getattr(facts, name) for name in _FACTS},
        front_matter=_front_matter(facts, repository),
        headline=t.say(headline(scores)) if scores else "",
        scores=scores,
        gains=[[t.say(cell) for cell in row] for row in gain_rows(scores)] if scores else [],
        checked=checked,
        kind="DoRA" if config["use_dora"] else "rsLoRA" if config["use_rslora"] else "LoRA",
        targets=sorted(config["target_modules"]),
        rounded_away=change is not None and change[1] < {"bfloat16": 2**-9, "float16": 2**-12}.get(base.dtype, 0.0),
        settings=[f"{key} {value}" for key in _SETTINGS if (value := getattr(facts.recipe, key, None)) not in (None, -1)],
        repository=repository,
        licence=catalogue.licenses.get(base.license),
        source=base.source,
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # where a part is left out


def _repository(base: Base, entry: Entry | None) -> str | None:
    """The hub repository whose weights these are; None for weights that are on no hub."""
    if base.source.get("kind") == "hub":
        return str(base.source["repo"])
    if base.source.get("kind") in {"wheel", "gguf"} and entry is not None and entry.ref == base.ref:
        return next((source.repo for source in entry.fetchable() if source.kind == "hub"), None)
    return None


def _front_matter(facts: Facts, repository: str | None) -> str:
    import yaml

    licence = facts.base.license
    data: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
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
