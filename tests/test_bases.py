"""Bases on disk: add, publish, list, get, verify, remove."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import edit_json, make_tiny_base, shard, weights
from workbench.bases.marker import licence_of
from workbench.bases.store import Bases
from workbench.errors import Conflict, IntegrityError, NotFound, UsageError
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
    os.utime(young, (time.time() - 2 * 86_400,) * 2)  # a large download takes its time
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


def test_links_that_stay_with_the_model_are_followed(bases: Bases, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "LICENSE").symlink_to("README.md")
    snapshot = tmp_path / "models--org--model" / "snapshots" / "c0ffee"  # as the hub's cache keeps it
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    make_tiny_base(snapshot)
    for n, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(n))
        file.symlink_to(f"../../blobs/{n}")
    (tmp_path / "shortcut").symlink_to(folder)
    plain, cached = bases.add(tmp_path / "shortcut", name="plain@1"), bases.add(str(snapshot), name="cached@1")
    assert not (plain.path / "LICENSE").is_symlink() and (plain.path / "LICENSE").read_text().startswith("---")
    assert bases.lock(plain.ref).weights_sha256 == bases.lock(cached.ref).weights_sha256


def test_what_is_put_beside_a_base_later_is_noticed(bases: Bases, tmp_path: Path) -> None:
    base = bases.add(make_tiny_base(tmp_path / "m"), name="mine@1")
    (base.path / ".DS_Store").write_bytes(b"x")
    assert bases.get("mine@1") == base
    (base.path / "adapter_config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="adapter_config.json"):
        bases.get("mine@1")


def test_an_adapter_beside_the_weights_stays_behind_and_it_is_said(bases: Bases, tmp_path: Path) -> None:
    folder, said = make_tiny_base(tmp_path / "m"), []
    (folder / "adapter_config.json").write_text("{}")
    base = bases.add(folder, name="mine@1", on_progress=said.append)
    assert not (base.path / "adapter_config.json").exists() and any("adapter beside the weights is left out" in words for words in said)


def test_the_template_that_a_tokenizer_uses_is_locked_and_others_are_named(bases: Bases, tmp_path: Path) -> None:
    folder, said = make_tiny_base(tmp_path / "m"), []
    edit_json("tokenizer_config.json", chat_template="used second")(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "used never"}))
    first = bases.add(folder, name="mine@1", on_progress=said.append)
    assert bases.lock(first.ref).chat_template == (folder / "chat_template.jinja").read_text()
    assert sum("is not used" in words for words in said) == 2
    (folder / "chat_template.jinja").unlink()
    assert bases.lock(bases.add(folder, name="mine@2").ref).chat_template == "used second"


def test_a_base_is_added_in_one_call_under_a_name(bases: Bases, tmp_path: Path) -> None:
    folder = make_tiny_base(tmp_path / "My Model")
    for n, what in enumerate((folder, str(folder), f"folder:{folder}")):
        assert str(bases.add(what, name=f"mine@{n}").ref) == f"mine@{n}"
    with pytest.raises(UsageError, match=r"needs a name here. .* --name my-model@1"):
        bases.add(str(folder))
    with pytest.raises(UsageError, match="both say where"):
        bases.add(str(folder), name="mine@9", source=str(folder))


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


@pytest.mark.slow
def test_reading_bases_stays_light(bases: Bases, tmp_path: Path, home: Path) -> None:
    bases.add("mine@1", source=str(make_tiny_base(tmp_path / "m")))
    code = "import sys; from workbench.bases.store import Bases; b = Bases(); b.list(); b.get('mine@1'); " + (
        "print([m for m in ('torch', 'numpy', 'pydantic', 'yaml', 'sqlalchemy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -- what changed between two bases --------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "Apache-2.0"),
        ("---\nlicense: other\nlicense_name: 'gemma'\n---\n", "gemma"),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
    ],
)
def test_a_licence_is_read_from_the_head_of_the_card(tmp_path: Path, card: str, found: str | None) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path, {}) == found


def test_a_card_of_empty_lines_is_read_in_no_time(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---" + "\n" * 19_000)
    began = time.process_time()
    assert licence_of(tmp_path, {}) is None
    assert time.process_time() - began < 0.5
