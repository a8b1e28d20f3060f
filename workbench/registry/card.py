"""The card of an adapter: README.md with the front matter that the Hugging Face Hub reads.

It says what was taught, on what data, what it gained and how sure that is, which base it needs, what that base's licence
asks for, and how to load it with plain `transformers` and `peft`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.records import Base
from workbench.registry.facts import Facts, base_identity

if TYPE_CHECKING:
    from workbench.bases.catalogue import Entry
    from workbench.registry.lora_weights import Checked

__all__ = ["render"]

# Licence names that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses); any other is "other".
_HUB_LICENCES = frozenset(
    "apache-2.0 mit bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc0-1.0 gemma llama2 llama3 llama3.1 llama3.2 llama3.3 "
    "bigscience-bloom-rail-1.0 openrail bigcode-openrail-m".split()
)
_FOUR_BITS = frozenset({"nf4", "fp4"})
_MEASURES = {"right": "right", "exact_match": "exactly right", "nll_per_token": "nats per token", "bits_per_byte": "bits per byte"}


def render(facts: Facts, checked: Checked) -> str:
    """The whole card as Markdown."""
    entry = _entry(facts.base)
    parts = [
        _front_matter(facts, entry),
        f"# {facts.name}, version {facts.version}\n",
        _headline(facts),
        _taught(facts, checked),
        _scores(facts),
        _base(facts, entry),
        _load(facts),
        _origin(facts),
    ]
    return "\n".join(part for part in parts if part)


def _entry(base: Base) -> Entry | None:
    """What the catalogue knows of the base, or of the base that it continues."""
    from workbench.bases.catalogue import Catalogue

    catalogue = Catalogue.load()
    return catalogue.find(base.ref) or (catalogue.find(base.continues) if base.continues else None)


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
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---\n"


def _headline(facts: Facts) -> str:
    if not facts.scores:
        return "It was not scored: nothing here says whether it is better than its base.\n"
    from workbench.evidence import Summary, headline

    return f"**{headline(Summary.from_dict(facts.scores))}**\n"


def _taught(facts: Facts, checked: Checked) -> str:
    lines = ["## What it was taught\n"]
    lines.append(_data(facts))
    config = checked.config
    names = config["target_modules"]
    kind = "DoRA" if config["use_dora"] else "rsLoRA" if config["use_rslora"] else "LoRA"
    four_bits = facts.base_precision in _FOUR_BITS
    held = (
        f" The base was held in 4 bits ({facts.base_precision}): it fits that best, and other precisions a little less."
        if four_bits
        else ""
    )
    modules = f" on {', '.join(sorted(names))}" if 0 < len(names) <= 12 else ""
    lines.append(f"{kind} of rank {_range(checked.ranks)} and alpha {_range(checked.alphas)}{modules}. {_strength(facts, checked)}{held}")
    recipe = facts.recipe
    if recipe:
        known = [
            f"{key} {getattr(recipe, key)}"
            for key in ("learning_rate", "num_train_epochs", "max_steps", "seed")
            if getattr(recipe, key) not in (None, -1)
        ]
        lines.append(f"Training: {', '.join(known)}. Everything else is in `recipe.yaml`.")
    return "\n".join(lines) + "\n"


def _strength(facts: Facts, checked: Checked) -> str:
    """How strongly it is added, and what that is beside the weights it is added to."""
    text = f"Its update is scale × B A with a scale of {_range(checked.scales)}"
    if checked.change is None:
        return text + "."
    text += f": {_range([100 * share for share in checked.change])} % of the weights it is added to, by Frobenius norm."
    rounded = {"bfloat16": 2**-9, "float16": 2**-12}.get(facts.base.dtype, 0.0)
    if checked.change[1] < rounded:
        text += f" That is less than {facts.base.dtype} rounds away: merged into such weights it is lost."
    return text


def _range(values: Sequence[float]) -> str:
    low, high = f"{values[0]:.3g}", f"{values[-1]:.3g}"
    return low if low == high else f"{low} to {high}"


def _data(facts: Facts) -> str:
    """The data in one paragraph; what is not known is said to be unknown."""
    data, learned = facts.dataset, facts.learned_from
    if data is None or learned is None:
        return "It was made elsewhere; on what data is not known.\n" if facts.method == "imported" else ""
    if learned != data.name:
        return f"The dataset `{learned}` (see `recipe.yaml`). It was scored on another one, `{data.name}`.\n"
    scorer = f", scored by {data.scorer}" if data.scorer else ""
    return (
        f"The dataset `{data.name}`: {data.train_rows:,} rows to learn from and {data.test_rows:,} frozen for the test"
        f" ({data.form}{scorer}; SHA-256 `{data.sha256}`).\n"
    )


def _scores(facts: Facts) -> str:
    scores = facts.scores
    if not scores:
        return ""
    name = f" of `{facts.dataset.name}`" if facts.dataset else ""
    unseen = "that training never saw" if facts.learned_from else "(whether its maker trained on them is not known)"
    lines = [
        "## What it gained\n",
        f"On {scores['n']:,} test rows{name} {unseen}. A positive gain is better; intervals are 95 %.\n",
        "| | base | with adapter | gain | interval |",
        "|---|---|---|---|---|",
    ]
    for key, word in _MEASURES.items():
        gain = scores["gain"].get(key)
        if gain is None:
            continue
        scale, digits, unit = (100, 1, " %") if key in {"right", "exact_match"} else (1, 3, "")
        base, adapter = (f"{scores[arm][key] * scale:.{digits}f}{unit}" for arm in ("base", "adapter"))
        whole = gain["low"] is not None and gain["high"] is not None
        interval = f"{gain['low'] * scale:+.{digits}f} to {gain['high'] * scale:+.{digits}f}" if whole else "one row gives none"
        lines.append(f"| {word} | {base} | {adapter} | {gain['value'] * scale:+.{digits}f} | {interval} |")
    lines.append("\nThe rows and both scores of each are in `evidence/`.\n")
    return "\n".join(lines)


def _base(facts: Facts, entry: Entry | None) -> str:
    base = facts.base
    name, revision = base_identity(base)
    where = f"`{name}` at commit `{revision}`" if base.source.get("kind") == "hub" else _without_address(base, entry)
    lines = [
        "## Its base\n",
        f"`{base.ref}`: {where}, {base.parameters:,} parameters in {base.dtype}.",
        f"Its fingerprint is in `base.lock.json` (SHA-256 `{base.lock_sha256}`). On other weights, even under the same name,"
        " nothing above is promised.\n",
        f"Licence of the base: {base.license}." + _obligations(base, entry),
    ]
    return "\n".join(lines) + "\n"


def _without_address(base: Base, entry: Entry | None) -> str:
    kind = base.source.get("kind")
    repository = _repository(base, entry)
    of = f" of `{repository}`" if repository else ""
    if kind in {"wheel", "gguf"}:
        return f"weights taken from a GGUF file{of}, so rounded compared with the original"
    if kind == "trained":
        return "weights trained in the workbench" + (f", continuing `{base.continues}`" if base.continues else "")
    return "weights from a local folder"


def _obligations(base: Base, entry: Entry | None) -> str:
    if entry is None or entry.license.id != base.license:
        return "" if base.license != "unknown" else " Find out what it allows before you pass this adapter on."
    listed = "".join(f"\n- {line}" for line in entry.license.obligations)
    link = f" ({entry.license.url})" if entry.license.url else ""
    return f" It asks this of you, also when you pass the adapter on{link}:\n{listed}" if listed else link


def _load(facts: Facts) -> str:
    """Code that runs as it stands once the two paths in capitals are filled in (the tests run it)."""
    source = facts.base.source
    hub = source.get("kind") == "hub"
    name = source["repo"] if hub else "PATH/TO/THE/BASE"
    note = "" if hub else f"  # the folder that `workbench base show {facts.base.ref}` prints"
    pinned = f', revision="{source["commit"]}"' if hub else ""
    quantized = facts.base_precision in _FOUR_BITS
    extra = (
        f', quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{facts.base_precision}")' if quantized else ""
    )
    imports = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantized else "")
    return f"""## Load it

```python
from peft import PeftModel
from transformers import {imports}

base = "{name}"{note}
adapter = "PATH/TO/THIS/FOLDER"
model = AutoModelForCausalLM.from_pretrained(base{pinned}, dtype="auto"{extra})
model = PeftModel.from_pretrained(model, adapter)
tokenizer = AutoTokenizer.from_pretrained(adapter)
```
"""


def _origin(facts: Facts) -> str:
    lines = [f"- Made from {', '.join(facts.parents)}."] if facts.parents else []
    if facts.job_id:
        lines.append(f"- Published by job {facts.job_id} on {facts.created_at:%Y-%m-%d}.")
    if facts.origin:
        lines.append(f"- Imported on {facts.created_at:%Y-%m-%d} from `{facts.origin.get('file')}`.")
        lines += [f"- {note}" for note in facts.origin.get("notes", [])]
    return "\n".join(["## Where it comes from\n", *lines]) + "\n" if lines else ""
