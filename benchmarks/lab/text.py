"""The text that the lab's models read: Python's own standard library, which every machine has, or a folder of one's own.

It is cut into short documents at blank lines, a tokenizer is trained on it, and it is packed into blocks without gaps. Of every
third document the models read its lines as little conversations instead, in which the assistant says the user's line again: so they
learn what a turn is, and to look back. One document in twenty is held out: it measures the models, and the task about missing words
is made of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.sizes import Piece, Sizes, piece

__all__ = ["blocks", "documents", "make_text", "held_out"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings"}  # encodings are number tables
DOCUMENT = 800  # characters, at least
HELD_OUT = 20  # one document in so many
CHATS = 3  # one document in so many becomes conversations
LINE = 60  # characters of a line said again, at most
TOKENIZER_TEXT = 3_000_000  # characters the tokenizer is trained on


def documents(folder: Path | None, limit: int) -> Iterator[str]:
    """Pieces of `DOCUMENT` characters or little more, file by file in the order of their paths, up to `limit` characters.

    Without a folder, the standard library's sources; in a folder, every .txt, .md, .rst and .py file.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    wanted = {".py"} if folder is None else {".txt", ".md", ".rst", ".py"}
    files: list[Path] = []
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if folder is not None or name not in LEFT_OUT]
        files += [Path(place, name).relative_to(root) for name in names if Path(name).suffix in wanted]
    for file in sorted(files):
        part = ""
        for paragraph in (root / file).read_text(encoding="utf-8", errors="replace").split("\n\n"):
            part = f"{part}\n\n{paragraph}" if part else paragraph
            if len(part) >= DOCUMENT:
                limit -= len(part)
                if limit < 0:
                    return
                yield part
                part = ""


def make_text(root: Path, sizes: Sizes, folder: Path | None) -> Piece:
    """The piece with the tokenizer, the packed blocks of both parts and the documents held out."""
    found = list(documents(folder, sizes.max_text))
    digest = hashlib.sha256("\0".join(found).encode()).hexdigest()
    if len(found) < 2 * HELD_OUT:
        raise SystemExit(f"The text has only {len(found)} documents of {DOCUMENT} characters; give --text a folder with more.")

    def make(out: Path) -> dict[str, Any]:
        order = np.random.Generator(np.random.Philox(sizes.seed)).permutation(len(found))
        apart = [found[i] for i in order[: len(found) // HELD_OUT]]
        rest = [found[i] for i in order[len(found) // HELD_OUT :]]
        tokenizer = _train_tokenizer(rest, sizes.vocabulary)
        tokenizer.save_pretrained(out / "tokenizer")
        facts: dict[str, Any] = {"documents": len(found), "characters": sum(map(len, found)), "sha256": digest}
        said = [_chats(text) if i % CHATS == 0 else [START + text + END] for i, text in enumerate(rest)]
        for name, texts in (("train", [part for parts in said for part in parts]), ("apart", [START + text + END for text in apart])):
            packed, tokens = _pack(tokenizer, texts, sizes.context)
            np.save(out / f"{name}.npy", packed)
            facts[f"{name}_tokens"] = tokens
        (out / "apart.json").write_text(json.dumps(apart), encoding="utf-8")
        facts["apart_bytes"] = sum(len(text.encode()) for text in apart)
        return facts

    return piece(root, "text", {"sha256": digest, "source": 2, **sizes.key("vocabulary", "context", "seed")}, make)


def _train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[PAD, START, END], initial_alphabet=alphabet, show_progress=False)
    size, sample = 0, []
    for text in texts:
        sample.append(text)
        size += len(text)
        if size > TOKENIZER_TEXT:
            break
    bpe.train_from_iterator(sample, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=START, eos_token=END, pad_token=PAD, unk_token=PAD)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _chats(text: str) -> list[str]:
    """The lines of a document, each said by the user and again by the assistant."""
    lines = [line.strip() for line in text.splitlines()]
    turns = ("user", "assistant")
    return ["".join(f"{START}{role}\n{line}{END}\n" for role in turns) for line in lines if 3 < len(line) <= LINE]


def _pack(tokenizer: Any, texts: list[str], context: int) -> tuple[np.ndarray, int]:
    """Texts one after the other, cut into blocks [n, context + 1] (the last is dropped).

    Neighbouring blocks share one token, so that every token is predicted once.
    """
    stream: list[int] = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        stream += ids
    count = (len(stream) - 1) // context
    flat = np.array(stream[: count * context + 1], dtype=np.int32)
    rows = np.arange(count)[:, None] * context + np.arange(context + 1)[None, :]
    return flat[rows], len(stream)


def blocks(text: Piece, part: str) -> np.ndarray:
    """The packed blocks of "train" or "apart", [n, context + 1]."""
    loaded: np.ndarray = np.load(text.path / f"{part}.npy")
    return loaded


def held_out(text: Piece) -> list[str]:
    """The documents that no model was pre-trained on."""
    found: list[str] = json.loads((text.path / "apart.json").read_text(encoding="utf-8"))
    return found
