"""Adapters that must be refused, each with the words that its error must hold; and the makers of such folders and zips."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.folders import adapter_config, adapter_tensors, write_adapter
from tests.tiny_base import HIDDEN, VOCAB, tokenizer_json, weights

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def folder(
    config: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None, **files: bytes | str
) -> Callable[[Path], Path]:
    """A PEFT folder with a changed configuration or weights, and other files in it ("__" in a name stands for a dot)."""

    def make(at: Path) -> Path:
        write_adapter(at, config, tensors)
        for name, content in files.items():
            (at / name.replace("__", ".")).write_bytes(content.encode() if isinstance(content, str) else content)
        return at

    return make


def config(**changed: Any) -> Callable[[Path], Path]:
    return folder(adapter_config(**changed))


def raw_config(data: bytes) -> Callable[[Path], Path]:
    return lambda at: write_file(write_adapter(at), CONFIG, data)


def raw_weights(header: bytes | str | dict[str, Any], data: bytes = b"", length: int | None = None) -> Callable[[Path], Path]:
    text = json.dumps(header).encode() if isinstance(header, dict) else header.encode() if isinstance(header, str) else header
    return lambda at: write_file(write_adapter(at), WEIGHTS, struct.pack("<Q", len(text) if length is None else length) + text + data)


def changed_weights(change: Callable[[dict[str, Any]], Any], **settings: Any) -> Callable[[Path], Path]:
    def make(at: Path) -> Path:
        tensors = dict(adapter_tensors())
        change(tensors)
        return write_adapter(at, adapter_config(**settings), tensors)

    return make


def zipped(change: Callable[[zipfile.ZipFile, dict[str, bytes]], None], prefix: str = "") -> Callable[[Path], Path]:
    """A zip that `change` fills; it gets the archive and the good files by name, and writes what it does not pop."""

    def make(at: Path) -> Path:
        good = {name: (write_adapter(at) / name).read_bytes() for name in (CONFIG, WEIGHTS)}
        out = at.parent / "adapter.zip"
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            change(archive, good)
            for name, content in good.items():
                archive.writestr(prefix + name, content)
        return out

    return make


def member(name: str, content: bytes = b"x", *, mode: int = 0o100644) -> Callable[[Path], Path]:
    """A zip of a good adapter with one more member."""

    def add(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name  # ZipInfo() would clean the name
        info.external_attr = mode << 16
        archive.writestr(info, content)

    return zipped(add)


def many(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
    for n in range(2_000):
        archive.writestr(f"note-{n}.txt", b"")


def twice(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(CONFIG, good[CONFIG])
        archive.writestr(CONFIG, good[CONFIG].replace(b'"r": 2', b'"r": 3'))
    good.pop(CONFIG)


def bomb(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
    zeros = json.dumps({"t": {"dtype": "F32", "shape": [1_000_000], "data_offsets": [0, 4_000_000]}}).encode()
    good[WEIGHTS] = struct.pack("<Q", len(zeros)) + zeros + bytes(4_000_000)


def big_config(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
    good[CONFIG] = json.dumps({"peft_type": "LORA", "x": os.urandom(400_000).hex()}).encode()


def patched(make: Callable[[Path], Path], change: Callable[[bytearray], Any]) -> Callable[[Path], Path]:
    """A file whose bytes are changed after it was written."""

    def then(at: Path) -> Path:
        out = make(at)
        data = bytearray(out.read_bytes())
        change(data)
        out.write_bytes(data)
        return out

    return then


def lie_about_size(data: bytearray) -> None:
    """Declare ten bytes for every member, in the table of contents and in the local headers."""
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        start = 0
        while (start := data.find(signature, start)) >= 0:
            data[start + at : start + at + 4] = struct.pack("<L", 10)
            start += 4


def encrypted(data: bytearray) -> None:
    data[data.find(b"PK\x01\x02") + 8] |= 1


def other_local_name(data: bytearray) -> None:
    start = data.find(b"PK\x03\x04") + 30
    data[start : start + 6] = b"../../"


def tar(at: Path) -> Path:
    out = at.parent / "adapter.tar.gz"
    with tarfile.open(out, "w:gz") as archive:
        archive.add(write_adapter(at), "adapter")
    return out


def write_file(at: Path, name: str, data: bytes) -> Path:
    (at / name).write_bytes(data)
    return at


def _link(at: Path, name: str, target: str) -> Path:
    write_adapter(at)
    (at.parent / "secret.txt").write_text("{}")
    (at / name).unlink(missing_ok=True)
    (at / name).symlink_to(target)
    return at


def _fifo(at: Path) -> Path:
    write_adapter(at)
    (at / CONFIG).unlink()
    os.mkfifo(at / CONFIG)
    return at


def scaled_weights(part: str, factor: float) -> Callable[[Path], Path]:
    return changed_weights(lambda tensors: tensors.update({n: t * np.float32(factor) for n, t in tensors.items() if part in n}))


def cancel(tensors: dict[str, Any]) -> None:
    """Rank two, where the second row takes away what the first adds."""
    for name, value in tensors.items():
        tensors[name] = np.stack([value[0], value[0]]) if "lora_A" in name else np.stack([value[:, 0], -value[:, 0]], axis=1)


def dora_at_rest(tensors: dict[str, Any]) -> None:
    for name in [n for n in tensors if "lora_B" in n]:
        weight = weights()[name.removeprefix("base_model.model.").replace("lora_B.weight", "weight")]
        tensors[name] = tensors[name] * 0
        tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = np.linalg.norm(weight, axis=1).astype(np.float32)


def output_layer_copied(tensors: dict[str, Any]) -> None:
    for name in tensors:
        tensors[name] = tensors[name] * 0
    tensors[HEAD] = weights()["model.embed_tokens.weight"].astype(np.float32)


def lopsided(tensors: dict[str, Any]) -> None:
    for name in tensors:
        tensors[name] = tensors[name] * np.float32(1e30 if "lora_A" in name else 1e-30)


SWOLLEN = b'{"model":{"vocab":[' + b"[1]," * 14_000_000 + b"[1]]}}"  # a gigabyte once it is read


def swollen_tokenizer(archive: zipfile.ZipFile, good: dict[str, bytes]) -> None:
    good["tokenizer.json"] = SWOLLEN


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/canary",)


def one(dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16), name: str = f"{Q}.lora_A.weight") -> dict[str, Any]:
    return {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def _rename(tensors: dict[str, Any], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


def with_tensor(name: str, value: npt.NDArray[Any], **settings: Any) -> Callable[[Path], Path]:
    return changed_weights(lambda tensors: tensors.__setitem__(name, value), **settings)


def full(shape: tuple[int, ...], value: float = 1.0, dtype: Any = np.float32) -> npt.NDArray[Any]:
    return np.full(shape, value, dtype)


TOKENS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
HEAD = "base_model.model.lm_head.weight"
PAIR = f'"{Q}.lora_A.weight":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
DEEP = b'{"peft_type":"LORA","auto_mapping":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001

HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    # pickles, code, archives
    "pickle instead of safetensors": (lambda at: _swap(at, "adapter_model.bin", pickle.dumps(Evil())), "adapter_model.bin.*pickle"),
    "pickle beside safetensors": (folder(adapter_model__bin=pickle.dumps(Evil())), "adapter_model.bin.*pickle"),
    "pickle called safetensors": (lambda at: write_file(write_adapter(at), WEIGHTS, pickle.dumps(Evil())), "safetensors"),
    "value head in a pickle": (folder(value_head__bin=b"x"), "value_head.bin.*pickle"),
    "torch checkpoint": (folder(model__pt=b"x"), "model.pt.*pickle"),
    "python file": (folder(modeling_evil__py="import os"), "modeling_evil.py.*code"),
    "shared object": (folder(kernel__so=b"\x7fELF"), "kernel.so.*code"),
    "archive inside": (folder(more__zip=b"PK"), "more.zip.*archive inside"),
    "archive inside a zip": (member("weights.tar.gz"), "archive inside"),
    "second file of weights": (folder(model__safetensors=b"x"), "weights beside"),
    "unknown file": (folder(setup__exe=b"MZ"), "setup.exe.*code"),
    "tar": (tar, "neither a folder nor a .zip"),
    "unknown folder": (lambda at: subfolder(at, "hooks"), "There is a folder 'hooks'"),
    "several adapters": (member("other/adapter_config.json", b"{}"), "several adapters"),
    "empty folder": (lambda at: at.mkdir() or at, "no adapter_config.json"),  # type: ignore[func-returns-value]
    "no weights": (lambda at: _without(at, WEIGHTS), "no adapter_model.safetensors"),
    # zips
    "not a zip": (lambda at: write_file(at.parent, "adapter.zip", b"PK nothing") / "adapter.zip", "not a whole zip"),
    "empty zip": (lambda at: write_file(at.parent, "adapter.zip", b"") / "adapter.zip", "not a whole zip"),
    "zip cut short": (patched(zipped(lambda a, g: None), lambda d: d.__delitem__(slice(-40, None))), "not a whole zip"),
    "damaged member": (patched(zipped(lambda a, g: None), lambda d: d.__setitem__(slice(60, 80), bytes(20))), "not a whole zip"),
    "two members of one name": (zipped(twice), "two members of one name"),
    "two thousand members": (zipped(many), "2,002 members"),
    "bomb": (zipped(bomb), "swells more than 30-fold"),
    "configuration larger than allowed": (zipped(big_config), "unpacks to more than"),
    "declared sizes lie": (patched(zipped(lambda a, g: None), lie_about_size), "not a whole zip|no PEFT|not JSON|cannot be read"),
    "encrypted member": (patched(zipped(lambda a, g: None), encrypted), "encrypted"),
    "local header under another name": (patched(zipped(lambda a, g: None), other_local_name), "not a whole zip"),
    "symlink member": (member("README.md", b"/etc/passwd", mode=0o120777), "link or a special file"),
    "device member": (member("README.md", b"", mode=0o020666), "link or a special file"),
    "set-uid code member": (member("run.sh", b"#!", mode=0o104755), "code"),
    "slip: parent": (member("../evil.txt"), "outside the folder"),
    "slip: parent inside": (member("a/../../evil.txt"), "outside the folder"),
    "slip: absolute": (member("/etc/cron.d/evil"), "outside the folder"),
    "slip: home": (member("~/.bashrc"), "outside the folder"),
    "slip: backslash": (member("..\\..\\evil.txt"), "backslash"),
    "slip: drive": (member("C:\\evil.txt"), "backslash or a colon"),
    "slip: alternate stream": (member("README.md:evil"), "colon"),
    "slip: double slash": (member("a//b.txt"), "outside the folder"),
    "slip: NUL": (member("README.md\0.py"), "invisible"),
    "slip: newline": (member("README\n.md"), "invisible"),
    "slip: right-to-left": (member("README\u202edm.py"), "invisible"),
    "slip: not composed": (member("e\u0301.md"), "composed form"),
    "slip: full-width": (member("adapter_config\uff0ejson"), "does not belong"),
    "slip: long": (member("x" * 3000 + ".md"), "too long"),
    # links in folders
    "link out of the folder": (lambda at: _link(at, CONFIG, "../secret.txt"), "leads out"),
    "link to a system file": (lambda at: _link(at, WEIGHTS, "/etc/passwd"), "leads out"),
    "dangling link": (lambda at: _link(at, WEIGHTS, "nowhere"), "leads out"),
    "pipe": (_fifo, "is no file"),
    # adapter_config.json
    "configuration is not JSON": (raw_config(b"{peft_type: LORA"), "cannot be read"),
    "configuration is a list": (raw_config(b"[]"), "not a JSON object"),
    "configuration in UTF-16": (raw_config(json.dumps(adapter_config()).encode("utf-16")), "UTF-8"),
    "configuration with a key twice": (raw_config(b'{"peft_type":"LORA","r":2,"r":64}'), "'r' stands in it twice"),
    "configuration with NaN": (raw_config(b'{"peft_type":"LORA","lora_alpha":NaN}'), "NaN is no number"),
    "configuration with infinity": (raw_config(b'{"peft_type":"LORA","lora_alpha":1e999}'), "lora_alpha"),
    "configuration nested deeply": (raw_config(DEEP), "nested too deeply"),
    "configuration huge": (raw_config(b" " * 600_000), "600,000 bytes"),
    "unknown key": (config(post_load_hook="os.system"), "post_load_hook.*no PEFT version"),
    "prefix tuning": (config(peft_type="PREFIX_TUNING"), "peft_type is 'PREFIX_TUNING'"),
    "IA3": (config(peft_type="IA3"), "peft_type is 'IA3'"),
    "newline in the type": (config(peft_type='LORA\n"); import os'), "peft_type is"),
    "newline in the task": (config(task_type="CAUSAL_LM\n"), "task_type"),
    "newline in the base": (config(base_model_name_or_path="org/model\nimport os"), "base_model_name_or_path"),
    "classification": (config(task_type="SEQ_CLS"), "SEQ_CLS"),
    "rank as text": (config(r="2"), "r: "),
    "rank enormous": (config(r=10**9), "r: "),
    "rank zero": (config(r=0), "r: "),
    "pattern in a list of targets": (config(target_modules=["(a+)+$"]), "target_modules: names only"),
    "pattern in rank_pattern": (config(rank_pattern={"^(a|a)*$": 4}), "rank_pattern: names only"),
    "pattern in modules_to_save": (config(modules_to_save=["(x+x+)+y"]), "modules_to_save: names only"),
    "path as a target": (config(target_modules=["../../q_proj"]), "target_modules: names only"),
    "biases of the base": (config(bias="all"), "replaces biases"),
    "PiSSA": (config(init_lora_weights="pissa_niter_16"), "changes the base"),
    "LoftQ": (config(init_lora_weights="loftq"), "changes the base"),
    "copied layers": (config(layer_replication=[[0, 2], [1, 2]]), "layer_replication"),
    "activated LoRA": (config(alora_invocation_tokens=[1, 2]), "alora_invocation_tokens"),
    "expert parameters": (config(target_parameters=["experts.gate"]), "target_parameters"),
    "block-diagonal LoRA": (config(use_bdlora={"nblocks": 4}), "use_bdlora"),
    # safetensors
    "weights empty": (lambda at: write_file(write_adapter(at), WEIGHTS, b""), "header"),
    "header longer than the file": (raw_weights(b"{}", length=10_000), "header"),
    "header of petabytes": (raw_weights(b"{}", length=2**60), "its header should be"),
    "header is not JSON": (raw_weights(b"{nope"), "safetensors"),
    "header is a list": (raw_weights(b"[]"), "safetensors"),
    "header nested deeply": (raw_weights(b'{"a":' * 50_000), "safetensors"),
    "no tensors": (raw_weights({}), "lists 0 tensors"),
    "tensor twice": (raw_weights("{" + PAIR + "," + PAIR + "}", bytes(4)), "twice"),
    "tensor named as a path": (raw_weights(one(name="../../evil"), bytes(16)), "cannot be the name"),
    "hole between tensors": (raw_weights(one(offsets=(8, 24)), bytes(24)), "starts at byte"),
    "tensors overlap": (raw_weights(one() | one(name=f"{Q}.lora_B.weight"), bytes(16)), "starts at byte"),
    "trailing bytes": (raw_weights(one(), bytes(99)), "end at byte"),
    "data missing": (raw_weights(one(), bytes(8)), "end at byte"),
    "negative offset": (raw_weights(one(offsets=(-16, 0)), bytes(16)), "whole numbers"),
    "shape of true": (raw_weights(one(shape=(True, 4)), bytes(16)), "whole numbers"),
    "shape that overflows": (raw_weights(one(shape=(2**40, 2**40)), bytes(16)), "needs"),
    "unknown dtype": (raw_weights(one(dtype="PICKLE"), bytes(16)), "unknown type"),
    "integers": (raw_weights(one(dtype="I32"), bytes(16)), "LoRA does not have"),
    "three dimensions": (raw_weights(one(shape=(2, 2, 1)), bytes(16)), "LoRA does not have"),
    "NaN in the weights": (with_tensor(f"{Q}.lora_A.weight", full((2, HIDDEN), np.nan)), "NaN"),
    "infinity in half precision": (with_tensor(f"{Q}.lora_B.weight", full((HIDDEN, 2), np.inf, np.float16)), "NaN"),
    "B of zeros": (scaled_weights("lora_B", 0), "changes nothing"),
    "A of zeros": (scaled_weights("lora_A", 0), "changes nothing"),
    "alpha of next to nothing": (config(lora_alpha=1e-300), "changes nothing"),
    "update below rounding": (scaled_weights("lora_B", 1e-9), "at most [0-9]e-0[89] of them.*changes nothing"),
    "factors that cancel": (changed_weights(cancel), "changes nothing"),
    "DoRA at rest": (changed_weights(dora_at_rest, use_dora=True), "changes nothing"),
    "a copy of the base's output layer": (
        changed_weights(output_layer_copied, modules_to_save=["lm_head"]), "changes nothing",
    ),
    "product that overflows": (scaled_weights("lora_", 1e25), "infinite or NaN"),
    "first product that overflows": (changed_weights(lopsided), "infinite or NaN"),
    "tokenizer that swells in the zip": (zipped(swollen_tokenizer), "swells more than 30-fold"),
    "tokenizer that swells in memory": (folder(tokenizer__json=SWOLLEN), "of memory"),
    "B without A": (changed_weights(lambda t: t.pop(f"{Q}.lora_A.weight")), "come in pairs"),
    "rank differs from the configuration": (config(r=4), "its rank is 2"),
    "wider than the base": (with_tensor(f"{Q}.lora_A.weight", full((2, 99))), "the base has 64 x 64"),
    "module the base lacks": (changed_weights(lambda t: _layer(t, 77)), "no such module"),
    "weights that are no LoRA": (with_tensor("base_model.model.model.norm.weight", full((HIDDEN,))), "neither"),
    "whole base weights in it": (with_tensor(f"{Q}.base_layer.weight", full((HIDDEN, HIDDEN))), "own weights"),
    "names without PEFT's prefix": (
        changed_weights(lambda t: _rename(t, f"{Q}.lora_A.weight", "q_proj.lora_A.weight")), "does not start with",
    ),
    "weights for an unnamed module": (config(target_modules=["q_proj"]), "target_modules does not name"),
    "named module without weights": (config(target_modules=["q_proj", "v_proj", "k_proj"]), "have no weights here"),
    "DoRA without magnitudes": (config(use_dora=True), "no magnitude vector"),
    "saved module of another size": (
        with_tensor(HEAD, full((VOCAB + 7, HIDDEN)), modules_to_save=["lm_head"]), f"the base has {VOCAB} x {HIDDEN}",
    ),
    "saved module missing": (config(modules_to_save=["lm_head"]), "no weights for it"),
    "trained token out of range": (with_tensor(TOKENS, full((1, HIDDEN)), trainable_token_indices=[VOCAB]), f"ids below {VOCAB}"),
    "trained token twice": (with_tensor(TOKENS, full((2, HIDDEN)), trainable_token_indices=[3, 3]), "2 trained tokens"),
    "trained tokens not named": (with_tensor(TOKENS, full((2, HIDDEN))), "does not name"),
    # what comes with it
    "tokenizer with other ids": (folder(tokenizer__json=json.dumps(tokenizer_json()).replace('": 7,', '": 8,')), "other ids"),
    "tokenizer is no tokenizer": (folder(tokenizer__json='{"model": 7}'), "no tokenizer"),
    "chat template of a megabyte": (folder(chat_template__jinja="{{ x }}" * 150_000), "1,050,000 bytes"),
    "chat template is binary": (folder(chat_template__jinja=b"\xff\xfe\0"), "chat template"),
    "lock is no lock": (lambda at: write_file(write_adapter(at), "base.lock.json", b'{"schema": 1}'), "not a lock"),
}  # fmt: skip


def _swap(at: Path, name: str, data: bytes) -> Path:
    (write_adapter(at) / WEIGHTS).unlink()
    return write_file(at, name, data)


def _without(at: Path, name: str) -> Path:
    (write_adapter(at) / name).unlink()
    return at


def subfolder(at: Path, name: str) -> Path:
    (write_adapter(at) / name).mkdir()
    return at


def _layer(tensors: dict[str, Any], number: int) -> None:
    for name in [n for n in tensors if ".layers.1." in n]:
        _rename(tensors, name, name.replace(".layers.1.", f".layers.{number}."))
