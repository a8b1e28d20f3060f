"""Take in an adapter that somebody else made: a PEFT folder or a zip of one, from any tool.

Nothing in it is run or unpickled, and nothing is taken over unread. Four files matter; they are copied by exact name into a
folder of ours, checked (`archive`, `peft_config`, `lora_weights`), and the configuration is written anew. Files that training
tools leave beside an adapter stay behind unread; anything else is refused. The base is matched by lock or by commit, or asked
for. Whatever goes wrong, nothing stays on disk.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from workbench import paths
from workbench.bases.lock import LOCK_FILE, Lock, read_lock
from workbench.bases.store import Bases
from workbench.errors import ImportRefused, IntegrityError, NotFound, UsageError
from workbench.files import room, sha256_of
from workbench.foreign import GIB, MIB, Limits, open_regular
from workbench.peft_layout import CONFIG, TEMPLATE, WEIGHTS
from workbench.rebase.writing import exact, write_tensors
from workbench.records import Adapter, Base, BaseRef, check_name
from workbench.registry import archive
from workbench.registry.facts import base_identity
from workbench.registry.lora_weights import read_weights, without_copies
from workbench.registry.peft_config import MAX_BYTES, Declared, parse, strict_json
from workbench.registry.staging import LOCK
from workbench.registry.store import Registry

__all__ = ["import_adapter"]

_TOKENIZER, _TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
# What is read, and the most bytes it may have.
READ: dict[str, int] = {
    CONFIG: MAX_BYTES,
    WEIGHTS: archive.MAX_TOTAL,
    LOCK: 64 * MIB,
    _TOKENIZER: 64 * MIB,
    _TOKENIZER_CONFIG: 16 * MIB,
    TEMPLATE: 64 * 1024,
}
# What trainers leave beside an adapter: it stays behind, unread. The pickles among it are named one by one.
_LEFT_FILES = re.compile(
    r"training_args\.bin|optimizer\.(?:pt|bin)|scheduler\.pt|scaler\.pt|rng_state(?:_\d+)?\.pth|tokenizer\.model|spiece\.model"
    r"|\.gitattributes|\.gitignore|\.DS_Store|Thumbs\.db|\._.*|LICENSE|NOTICE|latest"
    r"|[\w.() -]+\.(?:json|jsonl|md|txt|ya?ml|csv|log|png|jpe?g|jinja)"
)
_LEFT_FOLDERS = re.compile(r"checkpoint-\d+|global_step\d+|runs|logs|wandb|evidence|__MACOSX|\.git|\.cache|\.ipynb_checkpoints")
# What is refused by its ending: why, and what to do.
_UNWANTED = (
    (
        ".bin .pt .pth .pkl .pickle .ckpt .npy .npz .joblib",
        "may hold a pickle, which can run code",
        "Save the adapter as safetensors (PEFT does so by default) and leave this file out.",
    ),
    (".py .so .pyd .dll .sh .exe .pyc .ipynb", "holds code, and code is never taken in", "Leave it out: a LoRA adapter needs none."),
    (".zip .tar .gz .tgz .bz2 .xz .7z .whl .zst", "is an archive inside", "Unpack it and import the adapter's own folder."),
    (".safetensors", f"holds weights beside {WEIGHTS}", "Import a folder with that one file of weights."),
)
_LIMITS = Limits(
    "the adapter", memory=GIB, seconds=600, cpu=120, writes=archive.MAX_TOTAL, preload=("workbench.registry.imports",),
    error=ImportRefused, hint="That is no LoRA adapter.",
)  # fmt: skip
_OTHER = "Nothing was taken in. If it was made for another base, name that one with --base; else save the adapter again."
_COMMIT = re.compile(r"[0-9a-f]{40}")


def import_adapter(
    path: str | Path, *, name: str, base: str | BaseRef | Base | None = None, registry: Registry | None = None, bases: Bases | None = None
) -> Adapter:
    """Check the PEFT folder or zip at `path` and publish it as the next version of `name`, without evidence.

    `base` is needed only where the adapter does not pin its base; shapes and token ids must fit it in any case. Raises
    `ImportRefused` for whatever breaks a rule, `UsageError` when the base has to be said, `NotFound` for a base that is not here.
    """
    check_name(name, "adapter name")
    path, bases = Path(path), bases or Bases()
    chosen = base if isinstance(base, Base) else bases.get(base) if base is not None else None
    if not path.exists():
        raise NotFound(f"There is nothing at {path}.", hint="Give the folder that PEFT saved, or a zip of it.")
    with room(paths.adapters_dir(), "import") as draft:
        home, origin = _LIMITS.run(_take_in, path.resolve(), draft, chosen, bases.list())
        try:
            return (registry or Registry()).publish(
                draft, name=name, base=home, dataset=None, method="imported", recipe=None, scores={}, origin=origin
            )
        except IntegrityError as error:
            raise ImportRefused(error.message, hint=_OTHER) from None


def _take_in(path: Path, draft: Path, chosen: Base | None, known: list[Base]) -> tuple[Base, dict[str, Any]]:
    """Copy what matters of `path` into `draft`, read it and find the base it was made for; returns that and where it comes from."""
    left = _collect(path, draft)
    declared = parse((draft / CONFIG).read_bytes())
    home, notes = _match(draft, declared, chosen, known)
    lock = read_lock(home.path / LOCK_FILE)
    origin = _origin(path, draft, declared, notes)
    _drop_copies(draft, declared, lock)
    notes += _check_tokenizer(draft, home) + _take_template(draft, lock)
    if declared.pattern:
        notes.append("Its target_modules was a pattern; the modules that have weights stand there now, by name.")
    if left:
        notes.append(f"Left behind unread: {', '.join(map(_quoted, left[:12]))}{', …' if len(left) > 12 else ''}.")
    for extra in (LOCK, _TOKENIZER, _TOKENIZER_CONFIG):
        (draft / extra).unlink(missing_ok=True)
    return home, origin


def _drop_copies(draft: Path, declared: Declared, lock: Lock) -> None:
    """Write the adapter again without the copies of whole tables that PEFT saves beside it (see `without_copies`)."""
    tensors = read_weights(draft / WEIGHTS)
    kept, saved = without_copies(tensors, declared, lock)
    if len(kept) < len(tensors):
        (draft / WEIGHTS).rename(draft / "all")
        write_tensors({name: replace(info, file=draft / "all") for name, info in kept.items()}, draft / WEIGHTS, exact)
        (draft / "all").unlink()
    if saved != (declared.modules_to_save or []):
        config = strict_json((draft / CONFIG).read_bytes(), CONFIG)
        (draft / CONFIG).write_text(json.dumps(config | {"modules_to_save": saved}), encoding="utf-8")


# ---------------------------------------------------------------- files


def _collect(path: Path, draft: Path) -> list[str]:
    """Copy the files that matter into `draft`; returns the names of those that stay behind. Raises `ImportRefused`."""
    if path.is_dir():
        return sorted(_copy_folder(path, draft))
    if path.is_file() and path.suffix.lower() == ".zip":
        return sorted(archive.unpack(path, draft, _sort, READ))
    raise ImportRefused(f"{path.name} is neither a folder nor a .zip.", hint="Give the folder that PEFT saved, or a zip of it.")


def _sort(names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Which names matter ({name: plain name}) and which stay behind; any other is refused."""
    roots = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == CONFIG and not _left(PurePosixPath(name))}
    if len(roots) > 1:
        raise ImportRefused(f"It holds several adapters: {', '.join(sorted(map(str, roots)))}.", hint="Import one of them at a time.")
    root = next(iter(roots), PurePosixPath("."))
    if len(root.parts) > 1:
        raise ImportRefused(f"The adapter lies too deep in it, in {root}.", hint="Pack the adapter's own folder.")
    chosen: dict[str, str] = {}
    others: list[str] = []
    for name in names:
        place = PurePosixPath(name)
        inside = place.relative_to(root) if place.is_relative_to(root) else place
        if len(inside.parts) == 1 and inside.name in READ:
            chosen[name] = inside.name
        elif _left(inside) or _LEFT_FILES.fullmatch(inside.name) and len(inside.parts) == 1:
            others.append(str(inside))
        else:
            raise _unwanted(str(inside))
    if CONFIG not in chosen.values() or WEIGHTS not in chosen.values():
        missing = CONFIG if CONFIG not in chosen.values() else WEIGHTS
        raise ImportRefused(f"There is no {missing} in it, so it is no PEFT adapter.", hint="Save it with PEFT's save_pretrained.")
    return chosen, others


def _left(place: PurePosixPath) -> bool:
    """Whether it lies in a folder that stays behind as a whole."""
    return any(_LEFT_FOLDERS.fullmatch(part) for part in place.parts)


def _unwanted(name: str) -> ImportRefused:
    suffix = PurePosixPath(name).suffix.lower()
    why, what = next(
        (said for suffixes, *said in _UNWANTED if suffix in suffixes.split()), ("does not belong to a LoRA adapter", "Leave it out.")
    )
    return ImportRefused(f"{ascii(name)} {why}.", hint=what)


def _copy_folder(path: Path, draft: Path) -> list[str]:
    names = []
    for entry in sorted(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            if not _LEFT_FOLDERS.fullmatch(entry.name):
                raise ImportRefused(
                    f"There is a folder {ascii(entry.name)} in it.", hint="Import the folder that holds adapter_config.json itself."
                )
        else:
            names.append(entry.name)
    chosen, left = _sort(names)
    for name, target in chosen.items():
        with open_regular(_real_file(path, name), most=READ[target], error=ImportRefused) as source, (draft / target).open("xb") as out:
            shutil.copyfileobj(source, out)
    return left


def _real_file(folder: Path, name: str) -> Path:
    """The plain file behind a name. The hub's cache links into `blobs` beside its `snapshots`; no other link may lead out."""
    real, home = (folder / name).resolve(), folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not real.is_file() or not any(real.is_relative_to(place) for place in allowed):
        raise ImportRefused(f"{ascii(name)} leads out of the folder, or is no file.", hint="Copy the file itself into the folder.")
    return real


# ---------------------------------------------------------------- base


def _match(draft: Path, declared: Declared, chosen: Base | None, known: list[Base]) -> tuple[Base, list[str]]:
    """The base it was made for, by lock or by commit; else the one that was named; never a guess."""
    own = _own_lock(draft)
    claim = " at ".join(_quoted(part) for part in (declared.base_model_name_or_path, declared.revision) if part)
    notes = [f"Its own configuration named the base {claim}."] if claim else []
    matching = [base for base in known if _pins(base, declared, own)]
    if chosen is not None:
        if matching and chosen.lock_sha256 not in {base.lock_sha256 for base in matching}:
            notes.append(f"It says it was made for {matching[0].ref}; it was imported for {chosen.ref} because that was asked for.")
        elif own and not matching:
            notes.append(f"Its own lock is of other weights than {chosen.ref}, which was asked for.")
        return chosen, notes
    if matching:  # several only where their weights and vocabularies are equal
        return min(matching, key=lambda base: own is None or own["sha256"] != base.lock_sha256), notes
    said = f"Its configuration says {claim}, which pins none of yours." if claim else "It does not say."
    same = [base for base in known if declared.base_model_name_or_path and base.source.get("repo") == declared.base_model_name_or_path]
    have = ", ".join(str(base.ref) for base in [*same, *(base for base in known if base not in same)])
    raise UsageError(
        f"Which base was this adapter made for? {said} You have: {have or 'no base yet'}.",
        hint=f"Say it with --base family@version{'' if known else '; add one first: workbench base add NAME'}.",
    )


def _quoted(text: str) -> str:
    """A stranger's words for a card that browsers render: only what a name or a path needs is left of them."""
    return "`" + re.sub(r"[^\w./@: \\-]", "?", text)[:200] + "`"


def _pins(base: Base, declared: Declared, own: Mapping[str, Any] | None) -> bool:
    """Whether the adapter names exactly this base: by its lock, by equal weights and vocabulary, or by repository and commit."""
    if own is not None:
        if own["sha256"] == base.lock_sha256:
            return True
        with suppress(IntegrityError):
            lock = read_lock(base.path / LOCK_FILE)
            if own["weights"] == lock.weights_sha256 and own["vocab"] == lock.tokenizer.get("vocab_sha256"):
                return True
    pins: set[tuple[str, str | None]] = {(str(base.ref), base.lock_sha256)}  # as earlier versions of the workbench wrote it
    if _COMMIT.fullmatch(declared.revision or ""):
        pins.add(base_identity(base))
    return (declared.base_model_name_or_path, declared.revision) in pins  # never a folder's path: it may hold other weights by now


def _own_lock(draft: Path) -> dict[str, Any] | None:
    """What the lock inside the import says, when it is one of ours; only its hashes are used."""
    if not (draft / LOCK).is_file():
        return None
    data = (draft / LOCK).read_bytes()
    lock = strict_json(data, LOCK)
    if not isinstance(lock, dict) or not isinstance(lock.get("tokenizer"), dict) or not isinstance(lock.get("weights_sha256"), str):
        raise ImportRefused(f"{LOCK} is not a lock of the workbench.", hint="Leave it out and name the base with --base.")
    return {"sha256": hashlib.sha256(data).hexdigest(), "weights": lock["weights_sha256"], "vocab": lock["tokenizer"].get("vocab_sha256")}


# ---------------------------------------------------------------- tokenizer


def _check_tokenizer(draft: Path, base: Base) -> list[str]:
    """Token ids must mean the same as in the base; tokens of its own are only noted. The base's tokenizer is the one published."""
    own, theirs = draft / _TOKENIZER, base.path / _TOKENIZER
    if not own.is_file() or not theirs.is_file() or own.read_bytes() == theirs.read_bytes():
        return []
    mine, ids = _vocabulary(own), _vocabulary(theirs)
    moved = sorted(token for token in mine.keys() & ids.keys() if mine[token] != ids[token])
    if moved:
        raise ImportRefused(
            f"Its tokenizer gives {len(moved):,} tokens other ids than {base.ref} does, such as {ascii(moved[0])}.",
            hint="It was made for another base; name that one with --base.",
        )
    extra = len(mine.keys() - ids.keys())
    return [f"Its tokenizer has {extra:,} tokens that {base.ref} does not have; they were left behind."] if extra else []


def _vocabulary(file: Path) -> dict[str, int]:
    data = strict_json(file.read_bytes(), _TOKENIZER)
    try:
        vocab = data["model"]["vocab"]
        ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: n for n, entry in enumerate(vocab)}
        ids |= {token["content"]: token["id"] for token in data.get("added_tokens") or []}
        if not all(type(key) is str and type(value) is int for key, value in ids.items()):
            raise TypeError
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):
        raise ImportRefused(f"{_TOKENIZER} is no tokenizer.", hint="Leave it out: the base's tokenizer will be used.") from None
    return ids


def _take_template(draft: Path, lock: Lock) -> list[str]:
    """Keep the chat template it was trained with as chat_template.jinja; it may stand in tokenizer_config.json instead."""
    file = draft / TEMPLATE
    if not file.is_file() and (draft / _TOKENIZER_CONFIG).is_file():
        config = strict_json((draft / _TOKENIZER_CONFIG).read_bytes(), _TOKENIZER_CONFIG)
        template = config.get("chat_template") if isinstance(config, dict) else None
        if isinstance(template, list):
            template = next((t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None)
        if isinstance(template, str):
            file.write_bytes(template.encode("utf-8", "surrogatepass"))
    if not file.is_file():
        return []
    data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or len(data) > READ[TEMPLATE]:
        raise ImportRefused("Its chat template is not plain text of at most 64 kB.", hint="Leave it out: the base's will be used.")
    if text.strip() == (lock.chat_template or "").strip():
        file.unlink()
        return []
    return ["It brings a chat template of its own, which differs from the base's."]


def _origin(path: Path, draft: Path, declared: Declared, notes: list[str]) -> dict[str, Any]:
    """What the manifest remembers of where it came from; no folder of this machine."""
    return {
        "file": _quoted(path.resolve().name).strip("`"),
        "weights_sha256": sha256_of(draft / WEIGHTS),
        "config_sha256": sha256_of(draft / CONFIG),
        "declared_base": declared.base_model_name_or_path,
        "declared_revision": declared.revision,
        "peft_version": declared.peft_version,
        "notes": notes,
    }
