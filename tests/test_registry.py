"""The registry: published whole or not at all, by whoever owns the attempt; read only as it was published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sqlalchemy import insert, select

from tests.faults import DiskError, Faults
from tests.folders import adapter_config, adapter_tensors, write_adapter
from tests.tiny_base import TEMPLATE, make_tiny_base
from workbench import manifest, paths
from workbench.bases.store import Bases
from workbench.db import reading, session
from workbench.db.tables import adapter_versions
from workbench.errors import Conflict, Fenced, IntegrityError, NotFound, UsageError, WorkbenchError
from workbench.evidence import Evidence, summary, write_scores
from workbench.recipe import Recipe
from workbench.records import Adapter, Base, BaseRef, Dataset, ItemScore, as_json
from workbench.registry.store import Registry

RECIPE = Recipe.load({"base": "tiny@1", "dataset": "orders", "max_steps": 60})


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Bases().add("tiny@1", source=f"folder:{make_tiny_base(tmp_path / 'tiny', dtype='F32')}", license="Apache-2.0")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "trained")


def publish(folder: Path, base: Base, name: str = "orders", **more: Any) -> Adapter:
    given: dict[str, Any] = {"dataset": None, "method": "lora", "recipe": RECIPE, "scores": {}, **more}
    return Registry().publish(folder, name=name, base=base, **given)


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def refs(found: list[Adapter]) -> list[str]:
    return sorted(a.ref for a in found)


# ---------------------------------------------------------------- what is published


def test_a_version_is_a_plain_peft_folder_with_its_base_card_and_manifest(base: Base, trained: Path) -> None:
    before = snapshot(trained)
    found = publish(trained, base)
    assert (found.ref, found.base, found.base_lock_sha256) == ("orders@1", BaseRef("tiny", "1"), base.lock_sha256)
    assert found.path == paths.adapters_dir() / "orders" / "v1"
    assert set(snapshot(found.path)) == {
        "adapter_config.json", "adapter_model.safetensors", "base.lock.json", "recipe.yaml", "README.md", "manifest.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    config = json.loads((found.path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(base.path), None)
    assert (config["r"], config["target_modules"]) == (2, ["q_proj", "v_proj"])
    assert (found.path / "chat_template.jinja").read_text() == TEMPLATE
    assert snapshot(trained) == before, "publishing changed the folder it was given"
    about = manifest.verify(found.path, found.manifest_sha256)["about"]
    assert (about["name"], about["version"], about["base_precision"]) == ("orders", 1, "float32")
    assert Registry().get("orders", verify=True) == found
    assert json.dumps(as_json(found))
    assert not list((paths.adapters_dir() / ".staging").iterdir())


def test_a_base_from_the_hub_is_named_by_repository_and_commit(base: Base, trained: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = dataclasses.replace(base, source={"kind": "hub", "repo": "org/model", "commit": commit})
    found = publish(trained, hub)
    config = json.loads((found.path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", commit)
    card = (found.path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["base_model"], front["base_model_relation"], front["license"]) == ("org/model", "adapter", "apache-2.0")
    assert 'base = "org/model"\n' in card and f'revision="{commit}"' in card


def test_the_card_states_data_gain_base_and_what_the_licence_asks(tmp_path: Path, trained: Path) -> None:
    ref = "smollm2-135m-instruct@1"
    base = Bases().add(ref, source=f"folder:{make_tiny_base(tmp_path / 'small')}")
    base = dataclasses.replace(base, source={"kind": "wheel", "name": "some-wheel"})
    rows = [f"row-{n}" for n in range(60)]
    bare = [ItemScore(id=row, nll=9.0, tokens=3, bytes=8, exact=False) for row in rows]
    taught = [ItemScore(id=row, nll=1.0 + n % 3, tokens=3, bytes=8, exact=n % 4 != 0) for n, row in enumerate(rows)]
    (trained / "evidence").mkdir()
    write_scores(trained / "evidence" / "scores.jsonl", Evidence(bare, taught))
    (trained / "evidence" / "test.jsonl").write_text('{"id": "row-0"}\n')
    data = Dataset("orders", tmp_path, "ab" * 32, 660, 600, 60, "messages", "exact")
    scores = summary(bare, taught, "exact").as_dict()
    found = publish(trained, base, dataset=data, scores=scores, recipe=RECIPE.model_copy(update={"method": "qlora"}), method="qlora")
    card = (found.path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft" and front["datasets"] == ["orders"] and front["tags"] == ["lora", "qlora"]
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"  # the catalogue knows whose weights the file holds
    assert "| Answers that match exactly | 0% | 75% | +75 points (95% interval " in card
    assert "600 rows to learn from and 60 frozen" in card and "ab" * 32 in card
    assert base.lock_sha256 in card and "rounded compared with the original" in card
    assert "Give a copy of the licence" in card
    assert "4 bits (nf4)" in card and 'bnb_4bit_quant_type="nf4"' in card
    assert json.loads((found.path / "evidence" / "summary.json").read_text()) == scores == found.scores
    assert Registry().evidence("orders").adapter == taught
    assert manifest.read(found.path)["about"]["base_precision"] == "nf4"


def test_unknown_files_beside_the_weights_are_not_published(base: Base, trained: Path) -> None:
    for name in ("training_args.bin", "README.md", "notes.txt", "manifest.json"):
        (trained / name).write_text("x")
    (trained / "checkpoint-1").mkdir()
    names = set(snapshot(publish(trained, base).path))
    assert not names & {"training_args.bin", "notes.txt"} and not any("checkpoint" in name for name in names)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
    "no configuration": (lambda f: (f / "adapter_config.json").unlink(), "no adapter_config.json"),
    "NaN": (lambda f: write_adapter(f, tensors=_changed(lambda t: t * np.nan)), "NaN or infinity"),
    "another rank": (lambda f: write_adapter(f, adapter_config(r=4)), "its rank is 2"),
    "another shape": (lambda f: write_adapter(f, tensors=_changed(lambda t: np.zeros((2, 9), np.float32))), "do not multiply|the base has"),
    "no update": (lambda f: write_adapter(f, adapter_config(lora_alpha=1e-300)), "changes nothing"),
    "weights missing": (
        lambda f: write_adapter(f, tensors=dict(list(adapter_tensors().items())[2:])),
        "no weights here.*Plain PEFT",
    ),
}


def _changed(change: Callable[[Any], Any]) -> dict[str, Any]:
    tensors = adapter_tensors()
    name = next(iter(tensors))
    return {**tensors, name: change(tensors[name])}


@pytest.mark.slow
def test_what_does_not_fit_its_base_is_not_published(base: Base, trained: Path) -> None:
    for breaking, message in BROKEN.values():
        breaking(write_adapter(trained))
        with pytest.raises(IntegrityError, match=message):
            publish(trained, base)
    assert Registry().list() == [] and not [p for p in paths.adapters_dir().rglob("*") if p.is_file()]


def test_a_changed_lock_stops_publishing(base: Base, trained: Path) -> None:
    (base.path / "lock.json").write_text((base.path / "lock.json").read_text() + " ")
    with pytest.raises(IntegrityError, match="lock of tiny@1 was changed"):
        publish(trained, base)


# ---------------------------------------------------------------- finding


def test_references_find_versions_and_say_what_there_is(base: Base, trained: Path) -> None:
    registry = Registry()
    assert registry.list() == []
    for _ in range(3):
        publish(trained, base)
    publish(trained, base, "refunds")
    registry.alias("orders@2", "champion")
    assert [registry.get(ref).ref for ref in ("orders", "orders@1", "orders@champion")] == ["orders@3", "orders@1", "orders@2"]
    assert registry.get("orders@2").aliases == ("champion",)
    assert [a.ref for a in registry.list("orders")] == ["orders@3", "orders@2", "orders@1"]
    registry.remove("orders@1")
    for wrong, words in {
        "foo": "No adapter named 'foo'. You have: orders, refunds",
        "orders@9": "no version 9. It has: 2, 3",
        "orders@best": "You have: orders@champion",
        "orders@1": "in the trash",
        "../orders": "cannot be a",
        "orders@Champion!": "neither name@3 nor name@alias",
        "orders@²": "neither name@3 nor name@alias",
        "orders@٣": "neither name@3 nor name@alias",
        f"orders@{'9' * 5000}": "neither name@3 nor name@alias",
    }.items():
        with pytest.raises(WorkbenchError, match="(?s)" + words.replace("(", r"\(")) as error:
            registry.get(wrong)
        assert "Traceback" not in str(error.value)
    with pytest.raises(NotFound, match="You have: orders, refunds"):
        registry.list("foo")


@pytest.mark.slow
def test_listing_stays_light(base: Base, trained: Path) -> None:
    publish(trained, base)
    code = (
        "import sys; from workbench.registry.store import Registry; found = Registry().list(); Registry().get(found[0].ref)\n"
        "heavy = {'torch', 'pydantic', 'sqlalchemy', 'numpy', 'yaml', 'alembic'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=paths.child_environment(WORKBENCH_HOME=str(paths.home())))


def test_a_long_list_costs_little_for_each_version(base: Base, trained: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = publish(trained, base)
    with session.transaction() as connection:
        row = dict(connection.execute(select(adapter_versions)).mappings().one())
        many = [row | {"name": f"a-{n // 10}", "version": n % 10 + 1, "created_at": float(n)} for n in range(1_000)]
        connection.execute(insert(adapter_versions), many)
    registry, asked, home = Registry(), [], paths.home
    monkeypatch.setattr(paths, "home", lambda: asked.append(1) or home())
    found = registry.list()
    assert len(asked) < 10, "finding the home folder, with all its links, took two thirds of the time"
    assert len(found) == 1_001 and found[0].ref == made.ref and found[1].ref == "a-99@10"
    assert [a.version for a in registry.list("a-7")] == list(range(10, 0, -1)) and registry.list("a-7", trashed=True) == []


TAMPERED: dict[str, Callable[[Path], Any]] = {
    "a bit flipped": lambda f: _flip(f / "adapter_model.safetensors"),
    "cut short": lambda f: os.truncate(f / "adapter_model.safetensors", 100),
    "card rewritten": lambda f: (f / "README.md").write_text("trust me"),
    "file removed": lambda f: (f / "recipe.yaml").unlink(),
    "file added": lambda f: (f / "extra.py").write_text("print()"),
    "link instead of file": lambda f: ((f / "recipe.yaml").unlink(), (f / "recipe.yaml").symlink_to("README.md")),
    "manifest rewritten": lambda f: manifest.write(f),
    "manifest gone": lambda f: (f / "manifest.json").unlink(),
    "manifest nonsense": lambda f: (f / "manifest.json").write_text("[" * 5000),
    "another version put in its place": lambda f: (shutil.rmtree(f), shutil.copytree(f.parent / "v2", f)),
    "everything gone": shutil.rmtree,
}


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.slow
def test_whatever_was_changed_after_publishing_is_noticed(base: Base, trained: Path, tmp_path: Path) -> None:
    registry = Registry()
    for n, tampering in enumerate(TAMPERED.values()):
        found = publish(trained, base, f"orders-{n}")
        publish(trained, base, found.name)
        tampering(found.path)
        for read in (
            lambda ref=found.ref: registry.get(ref, verify=True),
            lambda ref=found.ref: registry.evidence(ref),
            lambda ref=found.ref: registry.export(ref, tmp_path / "out"),
        ):
            with pytest.raises(IntegrityError, match="Restore"):
                read()
        registry.get(f"{found.name}@2", verify=True)
    assert not (tmp_path / "out").exists()
    assert len(registry.list()) == 2 * len(TAMPERED), "listing must not depend on files"


# ---------------------------------------------------------------- jobs and races


def _attempt() -> tuple[str, str]:
    """A job with a running attempt: its id and token."""
    from workbench.jobs import queue

    queue.register_slots("here", ["cpu-0"])
    queue.submit("count", {}, title="t", key=None, count=1, policy="resume", max_crashes=3)
    claim = queue.claim("here", "boot", lease=60)
    assert claim is not None
    return claim.job_id, claim.token


def test_a_job_publishes_once_and_only_while_it_owns_its_attempt(base: Base, trained: Path, database: str) -> None:
    from workbench.jobs import queue

    job, token = _attempt()
    first = publish(trained, base, job_id=job, token=token)
    again = publish(trained, base, job_id=job, token=token)
    assert (again.ref, again.manifest_sha256) == (first.ref, first.manifest_sha256)
    queue.cancel(job)
    for stale in (token, "made-up"):
        with pytest.raises(Fenced, match="Nothing was written"):
            publish(trained, base, "other", job_id="x", token=stale)
    assert refs(Registry().list()) == ["orders@1"] and not (paths.adapters_dir() / "other" / "v1").exists()


@pytest.mark.slow
def test_many_publish_and_move_one_alias_at_once(base: Base, trained: Path, database: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: publish(trained, base, parents=()).version, range(8)))
        assert sorted(found) == list(range(1, 9)), "versions must be unique and without gaps"
        Registry().alias("orders@1", "champion", expect="none")
        tries = list(pool.map(lambda n: _try_alias(f"orders@{n}"), range(2, 9)))
    assert sum(tries) == 1, "of all that expected version 1, exactly one may win"
    winner = Registry().get("orders@champion").version
    assert winner == 2 + tries.index(True)
    for version in range(1, 9):
        Registry().get(f"orders@{version}", verify=True)
    log = reading.rows("SELECT from_version, to_version FROM alias_log ORDER BY seq")
    assert [tuple(row.values()) for row in log] == [(None, 1), (1, winner)]


def _try_alias(ref: str) -> bool:
    try:
        Registry().alias(ref, "champion", expect=1)
        return True
    except Conflict:
        return False


def test_an_alias_moves_only_from_where_it_was_expected(base: Base, trained: Path) -> None:
    registry = Registry()
    for _ in range(2):
        publish(trained, base)
    assert registry.alias("orders@1", "champion", expect=0).aliases == ("champion",)
    with pytest.raises(Conflict, match="points to version 1, but version 2 was expected"):
        registry.alias("orders@2", "champion", expect="2")
    with pytest.raises(Conflict, match="no such alias was expected"):
        registry.alias("orders@2", "champion", expect="none")
    assert registry.alias("orders@2", "champion", expect="orders@1").aliases == ("champion",)
    assert registry.get("orders@1").aliases == ()
    for wrong in ("v2", "latest", "7", "Über", ""):
        with pytest.raises(UsageError):
            registry.alias("orders@1", wrong)
    with pytest.raises(UsageError, match="no version to expect"):
        registry.alias("orders@1", "champion", expect="soon")
    registry.drop_alias("orders@champion")
    with pytest.raises(NotFound):
        registry.get("orders@champion")


# ---------------------------------------------------------------- trash


def test_removed_versions_come_back_whole_and_numbers_are_not_used_twice(base: Base, trained: Path) -> None:
    registry = Registry()
    first = publish(trained, base)
    publish(trained, base)
    registry.alias("orders@2", "champion")
    with pytest.raises(Conflict, match="orders@2 is champion"):
        registry.remove("orders@2")
    with pytest.raises(UsageError, match="several versions: orders@1, orders@2"):
        registry.remove("orders")
    removed = registry.remove("orders@2", force=True)
    assert removed.trashed_at is not None and removed.path == paths.adapters_dir() / ".trash" / "orders" / "v2"
    assert refs(registry.list()) == ["orders@1"] and refs(registry.list(trashed=True)) == ["orders@2"]
    assert registry.get("orders").ref == "orders@1"
    assert publish(trained, base).ref == "orders@3"
    with pytest.raises(NotFound, match="trash already"):
        registry.remove("orders@2")
    with pytest.raises(NotFound, match="not in the trash"):
        registry.restore("orders@1")
    assert registry.restore("orders").ref == "orders@2"
    assert registry.get("orders@1", verify=True) == first
    registry.remove("orders@3")
    _flip(paths.adapters_dir() / ".trash" / "orders" / "v3" / "adapter_model.safetensors")
    with pytest.raises(IntegrityError):
        registry.restore("orders@3")
    registry.remove("orders@1")
    registry.remove("orders@2")
    with pytest.raises(NotFound, match="in the trash"):
        registry.get("orders")


# ---------------------------------------------------------------- lineage, export


def test_lineage_goes_up_by_nesting_and_down_by_name(base: Base, trained: Path) -> None:
    registry = Registry()
    publish(trained, base, "parent")
    registry.alias("parent", "champion")
    publish(trained, base, "child", parents=["parent@champion"])
    publish(trained, base, "grandchild", parents=["child"])
    tree = registry.lineage("grandchild")
    assert tree["adapter"] == "grandchild@1" and tree["base"] == "tiny@1"
    assert tree["parents"][0]["adapter"] == "child@1" and tree["parents"][0]["parents"][0]["adapter"] == "parent@1"
    assert registry.lineage("parent")["children"] == ["child@1"]
    assert "Made from child@1" in (registry.get("grandchild").path / "README.md").read_text()
    with pytest.raises(NotFound, match="No adapter named 'nobody'"):
        publish(trained, base, "orphan", parents=["nobody"])
    json.dumps(tree)


def test_export_copies_verifies_and_never_overwrites(base: Base, trained: Path, tmp_path: Path) -> None:
    registry = Registry()
    found = publish(trained, base)
    out = registry.export("orders", tmp_path / "out")
    assert snapshot(out) == snapshot(found.path)
    one, two = (registry.export("orders", tmp_path / f"{n}.zip", zip=True) for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert archive.testzip() is None
        assert {name.partition("/")[2] for name in archive.namelist()} == set(snapshot(found.path))
    before = snapshot(tmp_path)
    for taken in (out, one):
        for zipped in (False, True):
            with pytest.raises(Conflict, match="exists already"):
                registry.export("orders", taken, zip=zipped)
    with pytest.raises(UsageError, match="no folder"):
        registry.export("orders", tmp_path / "nowhere" / "out")
    assert snapshot(tmp_path) == before and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_lost_database_is_rebuilt_from_the_folders(base: Base, trained: Path, tmp_path: Path) -> None:
    registry = Registry()
    first = publish(trained, base, job_id="job-1")
    publish(trained, base)
    publish(trained, base, "refunds", parents=["orders@1"])
    session.dispose()
    for file in paths.home().glob("workbench.db*"):
        file.unlink()
    assert registry.list() == []
    assert publish(trained, base).ref == "orders@3", "a folder without a row keeps its number"
    (paths.adapters_dir() / "orders" / "v2" / "README.md").write_text("changed")
    with pytest.raises(IntegrityError, match="(?s)Recovered 2, but .*orders/v2"):
        registry.recover()
    assert refs(registry.list()) == ["orders@1", "orders@3", "refunds@1"]
    again = registry.get("orders@1", verify=True)
    assert abs((again.created_at - first.created_at).total_seconds()) < 2
    assert (again.manifest_sha256, again.job_id) == (first.manifest_sha256, "job-1")
    assert registry.lineage("refunds")["parents"][0]["adapter"] == "orders@1"


# ---------------------------------------------------------------- crashes (kills: tests/reliability/test_publish.py)


@pytest.mark.slow
def test_an_error_at_any_step_of_publishing_leaves_nothing_behind(base: Base, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(trained, base, "warm-up")
    faults = Faults(monkeypatch)
    before, points = snapshot(paths.adapters_dir()), 0
    while True:
        faults.error_at(points + 1)
        try:
            publish(trained, base)
            break
        except (DiskError, WorkbenchError):
            points += 1
        faults.off()
        found = [a.ref for a in Registry().list() if a.name == "orders"]
        if found:  # the step after the commit: published, and whole
            assert found == ["orders@1"] and Registry().get("orders", verify=True)
            break
        assert snapshot(paths.adapters_dir()) == before, f"step {points} left something behind"
    assert points >= 20
    assert Registry().get("orders", verify=True).version == 1


def test_what_killed_processes_left_is_swept_after_a_day(base: Base, trained: Path) -> None:
    staging = paths.adapters_dir() / ".staging"
    for name, age in (("old", 90_000), ("young", 60)):
        (staging / name).mkdir(parents=True)
        (staging / name / "file").write_text("x")
        when = os.stat(staging / name).st_mtime - age
        os.utime(staging / name, (when, when))
    publish(trained, base)
    assert [p.name for p in staging.iterdir()] == ["young"]
