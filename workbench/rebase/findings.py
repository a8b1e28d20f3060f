"""The catalogue of findings: what a check can say about two bases and an adapter, and how grave it is.

A finding has a level. "break": the adapter cannot load on the new base, or it would mean something else there; "risk": it loads and
may behave differently, which the behavioural test then measures; "note": worth knowing. Its words are in the string tables, below
`found.<name>`: `title`, `why` it matters, what to `do`, `when` it is milder, and the sentences that the finding fills with its details
(`text` and others). docs/findings.md is made from here and from there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workbench.rebase.result import Finding
from workbench.words import Engine, Number, Phrase, Several, Value, counted, phrase, words

__all__ = ["CATALOGUE", "LEVELS", "Entry", "described", "explained", "found", "ordered"]

LEVELS = ("break", "risk", "note")


@dataclass(frozen=True)
class Entry:
    """One named finding."""

    level: str  # one of LEVELS
    milder: str = ""  # the lesser level it can also have


CATALOGUE: dict[str, Entry] = {
    "home_mismatch": Entry("break", milder="risk"),
    "home_unknown": Entry("risk"),
    "same_base": Entry("note"),
    "same_weights": Entry("note"),
    "license_changed": Entry("note"),
    "module_missing": Entry("break"),
    "module_reshaped": Entry("break"),
    "hidden_size_changed": Entry("break"),
    "layer_count_changed": Entry("break", milder="risk"),
    "heads_changed": Entry("break", milder="risk"),
    "intermediate_size_changed": Entry("break", milder="risk"),
    "experts_changed": Entry("break", milder="risk"),
    "architecture_changed": Entry("break", milder="risk"),
    "activation_changed": Entry("risk"),
    "bias_changed": Entry("risk"),
    "qk_norm_changed": Entry("risk"),
    "rope_changed": Entry("risk"),
    "window_changed": Entry("risk"),
    "context_changed": Entry("risk"),
    "norm_eps_changed": Entry("risk"),
    "norm_placement_changed": Entry("risk"),
    "softcap_changed": Entry("risk"),
    "multiplier_changed": Entry("risk"),
    "routing_changed": Entry("risk"),
    "tied_embeddings_changed": Entry("break", milder="risk"),
    "config_changed": Entry("note"),
    "token_id_moved": Entry("break"),
    "token_gone": Entry("break"),
    "tokens_renamed": Entry("risk"),
    "tokens_added": Entry("risk"),
    "vocabulary_rows_changed": Entry("note"),
    "merges_changed": Entry("risk"),
    "normalizer_changed": Entry("risk"),
    "pre_tokenizer_changed": Entry("risk"),
    "post_processor_changed": Entry("risk"),
    "decoder_changed": Entry("risk"),
    "tokenizer_type_changed": Entry("risk"),
    "tokenizer_unreadable": Entry("risk"),
    "added_tokens_changed": Entry("risk"),
    "eos_id_moved": Entry("break", milder="risk"),
    "pad_id_moved": Entry("break", milder="risk"),
    "bos_id_moved": Entry("risk"),
    "unk_id_moved": Entry("risk"),
    "generation_eos_changed": Entry("risk"),
    "generation_config_changed": Entry("note"),
    "chat_template_changed": Entry("risk"),
    "chat_template_text_changed": Entry("note"),
    "chat_template_added": Entry("risk"),
    "chat_template_removed": Entry("risk"),
    "chat_template_unreadable": Entry("risk"),
    "own_chat_template": Entry("note"),
    "dtype_changed": Entry("risk"),
    "quantization_changed": Entry("risk"),
    "coupled_initialisation": Entry("break"),
    "dora": Entry("risk"),
    "full_weights_saved": Entry("break", milder="risk"),
    "trained_tokens": Entry("break", milder="risk"),
    "biases_saved": Entry("risk"),
    "multiplicative_adapter": Entry("risk"),
    "virtual_tokens": Entry("break", milder="risk"),
    "other_adapter_kind": Entry("risk"),
    # of the behavioural test: what a reader must know before trusting its numbers
    "home_is_gone": Entry("note"),
    "dtype_of_home": Entry("risk"),
    "rows_left_out": Entry("risk"),
    "generation_disagrees": Entry("risk"),
    "served_otherwise": Entry("risk"),
}
_SHARED = frozenset({"cut", "not_measured", "vocabulary"})  # sentences of several findings
_NAMED = 5  # of a longer list
_LONGEST = 200  # characters of one value


def found(name: str, /, *said: str, milder: bool = False, **details: Any) -> Finding:
    """A finding at its own level, or at the milder one that its entry allows. `said` are its sentences, which `details` fill."""
    entry = CATALOGUE[name]
    if milder and not entry.milder:
        raise KeyError(f"{name} has no milder level")
    made = Finding(name, entry.milder if milder else entry.level, "", details, said or ("text",))
    return dataclasses.replace(made, text=words("en").say(explained(made)))


def described(name: str) -> dict[str, str]:
    """An entry with its English words: level, title, explanation, advice; milder and when, empty where it has no lesser level."""
    entry, t = CATALOGUE[name], words("en")
    told = {key: t(f"found.{name}.{part}") for key, part in (("title", "title"), ("explanation", "why"), ("advice", "do"))}
    return {"level": entry.level, **told, "milder": entry.milder, "when": t(f"found.{name}.when") if entry.milder else ""}


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Breaks first, then risks, then notes, each in the catalogue's order."""
    names = list(CATALOGUE)
    return tuple(sorted(findings, key=lambda finding: (LEVELS.index(finding.level), names.index(finding.name))))


# ---------------------------------------------------------------- in words


def explained(finding: Finding) -> Value:
    """What was and what is. Checks made before findings were kept apart from their words have only the English."""
    if not finding.said or finding.name not in CATALOGUE:
        return Engine(finding.text)
    values = {name: _told(value) for name, value in finding.details.items()}
    if problems := finding.details.get("problems"):  # sentences of errors
        values["problems"] = Several(tuple(map(Engine, problems)), "list.sentence")
    values["changes"] = _told(finding.details)  # of settings: all of them
    keys = (f"found.{'shared' if sentence in _SHARED else finding.name}.{sentence}" for sentence in finding.said)
    return Several(tuple(Phrase(key, values) for key in keys), "list.sentence")


def _told(value: object) -> Value:
    """A detail as it is said: what was and is, names, ids, numbers; the first few of many."""
    if value is None or value == [] or value == {}:
        return phrase("found.none")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return Number(value, "count" if isinstance(value, int) else "nats")
    if not isinstance(value, dict | list | tuple):
        text = str(value)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    parts = [_pair(str(k), inner) for k, inner in value.items()] if isinstance(value, dict) else [_told(inner) for inner in value]
    more = [counted("found.more", len(parts) - _NAMED)] if len(parts) > _NAMED else []
    return Several((*parts[:_NAMED], *more), "list.semicolon" if isinstance(value, dict) else "list.comma")


def _pair(name: str, value: object) -> Value:
    """A name with its value, or with what it was and is."""
    name = name if re.fullmatch(r"[\w./-]+", name) else repr(name)  # a token may be a space or a line break
    if isinstance(value, dict) and value.keys() == {"was", "is"}:
        value = [value["was"], value["is"]]
    if isinstance(value, list) and len(value) == 2:
        return phrase("found.change", name=name, was=_size(value[0]), now=_size(value[1]))
    return phrase("found.pair", name=name, value=_told(value))


def _size(value: object) -> Value:
    """A shape such as [96, 64] is `96 x 64`."""
    return " x ".join(map(str, value)) if isinstance(value, list) and value else _told(value)
