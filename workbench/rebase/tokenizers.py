"""Stage 0, tokens: ids that moved, texts that are cut differently, where an answer ends. No model is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bases.configuration import effective
from workbench.bases.lock import Lock, token_ids
from workbench.errors import IntegrityError
from workbench.rebase.findings import found
from workbench.rebase.result import Finding

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Loaded", "compare_tokenizers", "same_tokenizer"]

_CUTTING = {
    "merges_sha256": ("merges_changed", "text"),
    "normalizer_sha256": ("normalizer_changed", "text"),
    "pre_tokenizer_sha256": ("pre_tokenizer_changed", "text"),
    "post_processor_sha256": ("post_processor_changed", "text"),
    "files": ("merges_changed", "files"),
}
_LISTED = 50  # tokens in the details


def same_tokenizer(home: Lock, new: Lock) -> bool:
    """Whether both bases cut every text into the same ids."""
    keys = {*_CUTTING, "type", "vocab_sha256", "added_tokens_sha256"}
    return all(home.tokenizer.get(key) == new.tokenizer.get(key) for key in keys)


class Loaded:
    """The tokenizers of both bases, each read when it is first wanted."""

    def __init__(self, home: Lock, new: Lock, home_folder: Path | None, new_folder: Path) -> None:
        self.home_folder, self.new_folder = home_folder, new_folder
        self.same = same_tokenizer(home, new)

    def folders(self) -> tuple[Path, Path]:
        """(home's, new's). Raises `IntegrityError` when home's is gone."""
        if self.home_folder is None:
            raise IntegrityError("The home base is no longer here, and the adapter keeps no copy of its tokenizer.")
        return self.home_folder, self.new_folder

    def pair(self) -> tuple[Tokenizer, Tokenizer]:
        """(home's, new's). Raises `IntegrityError` when one is missing or cannot be read."""
        files = [folder / "tokenizer.json" for folder in self.folders()]
        for file in files:
            if not file.is_file():
                raise IntegrityError(f"{file} is missing.", hint="Add the base again from a source that has it.")
        home, new = (_load(file, file.stat().st_mtime_ns) for file in files)
        return home, new


@lru_cache(maxsize=2)  # reading one takes a fifth of a second
def _load(file: Path, changed_at: int) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except MemoryError:
        raise
    except BaseException as error:  # noqa: B036 - the library raises bare exceptions, and panics are not even those
        raise IntegrityError(f"{file} cannot be read: {error}.", hint="Add the base again.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def compare_tokenizers(home: Lock, new: Lock, loaded: Loaded, texts: Sequence[str]) -> list[Finding]:
    """Everything that differs between two tokenizers; `texts` measure how much that matters."""
    findings = [*_special_ids(home, new), *_generation(home, new)]
    rows = (effective(home).get("vocab_size"), effective(new).get("vocab_size"))
    if home.tokenizer.get("decoder_sha256") != new.tokenizer.get("decoder_sha256"):
        findings.append(found("decoder_changed", "text", *(["only"] if loaded.same else [])))
    if loaded.same:
        if rows[0] != rows[1]:
            findings.append(found("vocabulary_rows_changed", was=rows[0], now=rows[1]))
        return findings
    unread: list[str] = []
    cut = _measure(loaded, texts, unread)
    findings += _vocabulary(home, new, loaded, cut, unread)
    measured = "cut" if cut else "not_measured"
    for key, (name, said) in _CUTTING.items():
        if home.tokenizer.get(key) != new.tokenizer.get(key) and not (key != "files" and "files" in {*home.tokenizer, *new.tokenizer}):
            findings.append(found(name, said, measured, **cut))
    before, after = home.tokenizer.get("type", "files"), new.tokenizer.get("type", "files")
    if before != after:
        findings.append(found("tokenizer_type_changed", "text", measured, was=before, now=after, **cut))
    if unread:
        findings.append(found("tokenizer_unreadable", problems=list(dict.fromkeys(unread))))
    return findings


def _vocabulary(home: Lock, new: Lock, loaded: Loaded, cut: dict[str, Any], unread: list[str]) -> list[Finding]:
    """What became of each token's id. What could not be compared is added to `unread`."""
    same_added = home.tokenizer.get("added_tokens_sha256") == new.tokenizer.get("added_tokens_sha256")
    if home.tokenizer.get("vocab_sha256") == new.tokenizer.get("vocab_sha256"):
        return [] if same_added else [found("added_tokens_changed", **cut)]
    had, has = (lock.tokenizer.get("vocab_size") for lock in (home, new))
    try:
        folders = loaded.folders()
        old, now = map(token_ids, folders)
        if old is None or now is None:
            raise IntegrityError("One of the two bases has no tokenizer.json.")
    except IntegrityError as error:
        unread.append(error.message)
        return []
    moved = {token: [n, now[token]] for token, n in old.items() if token in now and now[token] != n}
    gone = {token: n for token, n in old.items() if token not in now}
    added = {token: n for token, n in now.items() if token not in old}
    renamed = _renamed(gone, added, *folders)
    gone = {token: n for token, n in gone.items() if token not in renamed}
    added = {token: n for token, n in added.items() if token not in renamed.values()}
    findings = []
    for name, tokens in (("token_id_moved", moved), ("token_gone", gone), ("tokens_added", added)):
        if tokens:
            findings.append(found(name, "text", "vocabulary", count=len(tokens), tokens=_some(tokens), had=had, has=has, **cut))
    if renamed:
        findings.append(found("tokens_renamed", count=len(renamed), tokens=_some(renamed)))
    return findings


def _some(tokens: Mapping[str, object]) -> dict[str, object]:
    return dict(list(tokens.items())[:_LISTED])


def _renamed(gone: dict[str, int], added: dict[str, int], home_folder: Path, new_folder: Path) -> dict[str, str]:
    """Added tokens of the old base whose id carries an added token of another name in the new one: old -> new."""
    if not gone or not added:
        return {}
    old, new = _added_tokens(home_folder), _added_tokens(new_folder)
    by_id = {n: token for token, n in added.items() if token in new}
    return {token: by_id[n] for token, n in gone.items() if token in old and n in by_id}


def _added_tokens(folder: Path) -> set[str]:
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))  # token_ids has read it before
    return {token["content"] for token in data.get("added_tokens") or []}


def _measure(loaded: Loaded, texts: Sequence[str], unread: list[str]) -> dict[str, Any]:
    """How many texts are cut differently, and tokens per UTF-8 byte; {} where there is nothing to measure."""
    wanted = [text for text in texts if text]
    if not wanted:
        return {}
    try:
        old, new = loaded.pair()
        before = [encoding.ids for encoding in old.encode_batch(wanted)]
        after = [encoding.ids for encoding in new.encode_batch(wanted)]
    except IntegrityError as error:
        unread.append(error.message)
        return {}
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the tokenizers library
            raise
        unread.append(f"A tokenizer breaks on these texts: {error}.")
        return {}
    size = sum(len(text.encode()) for text in wanted)
    counts = sum(map(len, before)), sum(map(len, after))
    differ = sum(x != y for x, y in zip(before, after, strict=True))
    return {
        "texts": len(wanted),
        "differ": differ,
        "share": differ / len(wanted),
        "tokens_per_byte": [counts[0] / size, counts[1] / size],
        "ratio": counts[1] / counts[0] if counts[0] else None,
    }


def _special_ids(home: Lock, new: Lock) -> list[Finding]:
    """Special tokens that were given another id. A role that two bases fill with different tokens counts as moved."""
    findings = []
    size = home.tokenizer.get("vocab_size") or 0
    for role in ("eos", "pad", "bos", "unk"):
        before, after = (lock.special_ids.get(f"{role}_token") for lock in (home, new))
        if before == after:
            continue
        milder, said = False, ["text"]
        if role == "eos":
            milder = before is None or before in new.eos_token_ids
            said += ["still_stops"] if before is not None and milder else []
        elif role == "pad":
            milder = before is None or after is None or after >= size
        findings.append(found(f"{role}_id_moved", *said, milder=milder, was=before, now=after))
    return findings


def _generation(home: Lock, new: Lock) -> list[Finding]:
    findings = []
    before, after = set(home.eos_token_ids), set(new.eos_token_ids)
    if before != after:
        findings.append(found("generation_eos_changed", was=sorted(before), now=sorted(after)))
    ids = ("eos_token_id", "bos_token_id", "pad_token_id")
    old, now = ({k: v for k, v in lock.generation_config.items() if k not in ids and v} for lock in (home, new))
    keys = [key for key in sorted(old.keys() | now.keys()) if old.get(key) != now.get(key)]
    if keys:
        differ: dict[str, Any] = {key: [old.get(key), now.get(key)] for key in keys}
        findings.append(found("generation_config_changed", **differ))
    return findings
