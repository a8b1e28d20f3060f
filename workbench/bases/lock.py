"""The lock: a fingerprint of a base, written once when it is added.

It holds everything a later comparison needs when the base itself is gone: the configuration, the chat template's text,
and for each tensor its shape, hash, norm and sketch (see `sketch`). The same weights, tokenizer and source give the same
bytes on every machine, so the SHA-256 of the file is the identity of the base.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bases.files import TEMPLATE_BYTES, read_json
from workbench.bases.sketch import BLOCK, NUMBERS, SEED, TensorLock, fingerprint
from workbench.bases.tensors import DTYPE_NAMES, FLOAT_DTYPES, folder_tensors, not_finite
from workbench.errors import IntegrityError
from workbench.files import atomic_write, sha256_of
from workbench.foreign import read_regular

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LOCK_FILE",
    "SCHEMA",
    "Lock",
    "TensorLock",
    "build_lock",
    "canonical",
    "chat_template",
    "check_tokenizer",
    "read_lock",
    "token_ids",
    "write_lock",
]

LOCK_FILE = "lock.json"
SCHEMA = 1
# Keys that say how a file was written or loaded, not what the model is.
_VOLATILE = frozenset({"transformers_version", "_name_or_path", "_commit_hash", "torch_dtype", "dtype", "_attn_implementation"})
_SOURCE_KEYS = ("kind", "repo", "commit", "name", "version", "file", "sha256", "method", "base", "base_lock_sha256", "job_id")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class Lock:
    """The content of lock.json; `sha256` is of the file's bytes and is not in it."""

    schema: int
    source: dict[str, Any]  # kind, and what pins it: repo + commit, wheel + version + sha256, …; never a path
    commit: str | None  # of a hub source
    model_type: str
    architectures: tuple[str, ...]
    config: dict[str, Any]  # without the keys that say how the file was written
    config_sha256: str
    generation_config: dict[str, Any]
    dtype: str  # that of most weights
    quantization: dict[str, Any] | None
    parameters: int
    tensors: dict[str, TensorLock]
    weights_sha256: str  # of names, shapes, types and hashes of all tensors: equal for equal weights from any source
    tokenizer: dict[str, Any]  # size and one sha256 per part: vocab, merges, normalizer, pre_tokenizer, …
    special_ids: dict[str, int | None]  # bos_token, eos_token, pad_token, unk_token
    eos_token_ids: tuple[int, ...]  # where generation stops
    chat_template: str | None
    chat_template_sha256: str | None
    sketch: dict[str, int] = field(default_factory=dict)  # numbers, block and seed the sketches were made with
    sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What lock.json holds."""
        data = dataclasses.asdict(self)
        del data["sha256"]
        return data


def canonical(value: Any, *, indent: int | None = None) -> str:
    """JSON that depends on the value alone: sorted keys, ASCII, no free spaces unless with `indent`. Raises `IntegrityError`."""
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        return json.dumps(value, sort_keys=True, indent=indent, separators=separators, ensure_ascii=True, allow_nan=False)
    except ValueError:
        raise IntegrityError("The model's configuration holds a number that is not finite.") from None


def _sha(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    return [_without_volatile(v) for v in value] if isinstance(value, list) else value


def _tensors(folder: Path, say: Callable[[str], None]) -> dict[str, TensorLock]:
    infos = folder_tensors(folder)
    tensors: dict[str, TensorLock] = {}
    for n, (name, info) in enumerate(infos.items()):
        if n % 50 == 0:
            say(f"Locking: tensor {n + 1} of {len(infos)}")
        tensors[name] = fingerprint(info)
        if not isfinite(tensors[name].norm or 0.0):
            raise not_finite(info)
    return tensors


def _token_id(token: Any, ids: dict[str, int]) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return ids.get(content) if isinstance(content, str) else None


def _tokenizer_json(folder: Path) -> tuple[dict[str, Any], dict[str, int]] | None:
    """tokenizer.json and the id of every token in it; None when the base keeps its tokenizer in another form."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        vocab = data["model"]["vocab"]
        ids = dict(vocab) if isinstance(vocab, dict) else {entry[0]: n for n, entry in enumerate(vocab)}
        ids.update((token["content"], token["id"]) for token in data.get("added_tokens") or [])
        return data, ids
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise IntegrityError(f"tokenizer.json cannot be read: {error}.", hint="Fetch the model again.") from None


def token_ids(folder: Path) -> dict[str, int] | None:
    """The id of every token of a base, or None when it has no tokenizer.json."""
    read = _tokenizer_json(folder)
    return read[1] if read else None


def _tokenizer(folder: Path) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Hashes of the tokenizer's parts, and the ids of the special tokens."""
    named = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    read = _tokenizer_json(folder)
    if read is None:
        files = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "merges.txt")
        hashes = {name: sha256_of(folder / name) for name in files if (folder / name).is_file()}
        vocab = read_json(folder / "vocab.json")
        return {"files": hashes, "vocab_size": len(vocab) or None}, {key: _token_id(named.get(key), vocab) for key in _SPECIAL}
    data, ids = read
    model = data["model"]
    parts: dict[str, Any] = {"type": model.get("type"), "vocab_size": len(ids), "vocab_sha256": _sha(ids)}
    parts["merges_sha256"] = _sha([" ".join(m) if isinstance(m, list) else m for m in model.get("merges") or []])
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        parts[f"{key}_sha256"] = _sha(data.get(key))
    parts["added_tokens_sha256"] = _sha(data.get("added_tokens") or [])
    return parts, {key: _token_id(named.get(key), ids) for key in _SPECIAL}


def check_tokenizer(folder: Path) -> None:
    """Have the tokenizers library read tokenizer.json. Raises `IntegrityError` when it cannot, or panics; may also never return."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        return
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode("Two words, 2 numbers: 10\n" + "x" * 64)
    except MemoryError:
        raise
    except BaseException as error:  # noqa: B036 - a panic of the library is none of Exception
        raise IntegrityError(f"tokenizer.json cannot be read: {str(error)[:300]}.", hint="Fetch the model again.") from None


def chat_template(folder: Path, say: Callable[[str], None] = lambda _: None) -> str | None:
    """The text of the default chat template that a tokenizer of this folder uses; `say` is told of others that differ from it.

    transformers reads chat_template.jinja before tokenizer_config.json, and chat_template.json for processors of images alone.
    Raises `IntegrityError` for a template that is too long.
    """
    texts: dict[str, str] = {}
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        try:
            texts[jinja.name] = read_regular(jinja, most=TEMPLATE_BYTES, error=IntegrityError).decode("utf-8")
        except UnicodeDecodeError:
            raise IntegrityError("chat_template.jinja is not text in UTF-8.", hint="Fetch the model again.") from None
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = read_json(folder / name).get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None)
        if isinstance(template, str):
            if len(template.encode()) > TEMPLATE_BYTES:
                raise IntegrityError(f"The chat template in {name} is longer than {TEMPLATE_BYTES:,} bytes.")
            texts[name] = template
    unread = texts.pop("chat_template.json", None)
    used = next(iter(texts.values()), None)
    if unread is not None and unread != used:
        say("The chat template in chat_template.json is not used: tokenizers do not read that file.")
    if any(text != used for text in texts.values()):
        say("The chat template in tokenizer_config.json is not used: it differs from chat_template.jinja, which is read first.")
    return used


def _eos_ids(generation: dict[str, Any], config: dict[str, Any]) -> tuple[int, ...]:
    value = generation.get("eos_token_id", config.get("eos_token_id"))
    return tuple(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))


def _check_layers(config: dict[str, Any], tensors: int) -> None:
    """Refuse a model of more layers than its files have tensors: each is built, and takes room, before any is found to be missing."""
    for part in (config, config.get("text_config")):
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        if isinstance(layers, int) and layers > tensors:
            said = f"config.json says that the model has {str(layers)[:20]} layers, and its files hold {tensors:,} tensors."
            raise IntegrityError(said, hint="Fetch the model again, in full.")


def build_lock(folder: Path, source: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> Lock:
    """Read a base folder once, tensor by tensor, and return its lock. Raises `IntegrityError` for a broken file."""
    raw_config = read_json(folder / "config.json")
    config, generation = _without_volatile(raw_config), _without_volatile(read_json(folder / "generation_config.json"))
    tensors = _tensors(folder, say)
    _check_layers(raw_config, len(tensors))
    tokenizer, special = _tokenizer(folder)
    template = chat_template(folder, say)
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += prod(tensor.shape)
    floats = {DTYPE_NAMES[d] for d in FLOAT_DTYPES}
    return Lock(
        schema=SCHEMA,
        source={key: source[key] for key in _SOURCE_KEYS if source.get(key) is not None},
        commit=source.get("commit"),
        model_type=str(raw_config.get("model_type")),
        architectures=tuple(raw_config.get("architectures") or ()),
        config=config,
        config_sha256=_sha(config),
        generation_config=generation,
        dtype=next((d for d, _ in counts.most_common() if d in floats), counts.most_common(1)[0][0]),
        quantization=raw_config.get("quantization_config"),
        parameters=sum(counts.values()),
        tensors=tensors,
        weights_sha256=_sha({name: [t.shape, t.dtype, t.sha256] for name, t in tensors.items()}),
        tokenizer=tokenizer,
        special_ids=special,
        eos_token_ids=_eos_ids(generation, raw_config),
        chat_template=template,
        chat_template_sha256=None if template is None else hashlib.sha256(template.encode()).hexdigest(),
        sketch={"numbers": NUMBERS, "block": BLOCK, "seed": SEED},
    )


def write_lock(folder: Path, source: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> Lock:
    """Build the lock of `folder`, write lock.json into it (flushed to disk) and return it with its `sha256`."""
    lock = build_lock(folder, source, say)
    text = canonical(lock.as_dict(), indent=1) + "\n"
    atomic_write(folder / LOCK_FILE, text)
    return dataclasses.replace(lock, sha256=hashlib.sha256(text.encode()).hexdigest())


def read_lock(path: Path) -> Lock:
    """Read a lock.json (of a base, or the base.lock.json inside an adapter). Raises `IntegrityError`."""
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
        if data["schema"] != SCHEMA:
            raise ValueError(f"it has schema {data['schema']!r}; this version reads {SCHEMA}")
        data["tensors"] = {name: TensorLock(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in data["tensors"].items()}
        data["architectures"], data["eos_token_ids"] = tuple(data["architectures"]), tuple(data["eos_token_ids"])
        return Lock(**data, sha256=hashlib.sha256(raw).hexdigest())
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing.", hint="Add the base again: workbench base add NAME") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a lock: {error}.", hint="Restore it, or add the base again.") from None
