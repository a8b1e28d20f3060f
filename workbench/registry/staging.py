"""Build the folder of a version to be, beside the place where it will stand: complete and checked before anyone can see it."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench import paths
from workbench.errors import ImportRefused, IntegrityError, LayoutMissing, WorkbenchError
from workbench.foreign import GIB, Limits
from workbench.records import Base, Dataset
from workbench.registry import manifest

if TYPE_CHECKING:
    from workbench.bases.lock import Lock

__all__ = ["CONFIG", "LOCK", "WEIGHTS", "Checked", "Facts", "base_identity", "fill", "room", "seal", "staging_dir"]

T = TypeVar("T", int, float)
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LOCK = "base.lock.json"
_TEMPLATE = "chat_template.jinja"
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", _TEMPLATE,
)  # fmt: skip
_EVIDENCE = (".json", ".jsonl")
_READERS = ("numpy", "workbench.registry.lora_weights", "workbench.registry.peft_config")  # loaded once, not in every child
_ABANDONED = 24 * 3600  # seconds after which a draft that nobody finished is swept away


@dataclass
class Facts:
    """What is known of a version before it has a number."""

    name: str
    base: Base
    dataset: Dataset | None
    method: str
    recipe_yaml: str | None
    scores: dict[str, Any]
    parents: tuple[str, ...]
    job_id: str | None
    origin: dict[str, Any]  # of an imported adapter: file, sha256, what it says about itself, what was noticed
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    version: int = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's values; {} without one."""
        import yaml

        values = yaml.safe_load(self.recipe_yaml) if self.recipe_yaml else None
        return values if isinstance(values, dict) else {}

    @property
    def learned_from(self) -> str | None:
        """The dataset it was trained on; None for an adapter made elsewhere, even when it was scored on one of ours."""
        if self.method == "imported" or self.dataset is None:
            return None
        return str(self.recipe.get("dataset", self.dataset.name))

    @property
    def base_precision(self) -> str | None:
        """The precision of the base it was trained on: "nf4" or "fp4", else that of the weights on disk; None if nobody said."""
        if not self.recipe:
            return None
        quantized = self.recipe.get("method") == "qlora" or self.recipe.get("load_in_4bit")
        return str(self.recipe.get("bnb_4bit_quant_type", "nf4")) if quantized else self.base.dtype

    def about(self) -> dict[str, Any]:
        """What the manifest seals together with the files: enough to enter the version in a new database."""
        return {
            "name": self.name,
            "version": self.version,
            "base": str(self.base.ref),
            "base_lock_sha256": self.base.lock_sha256,
            "base_precision": self.base_precision,
            "dataset": self.dataset.name if self.dataset else None,
            "dataset_sha256": self.dataset.sha256 if self.dataset else None,
            "method": self.method,
            "parents": list(self.parents),
            "job_id": self.job_id,
            "created_at": self.created_at.isoformat(),
            "scores": self.scores,
            "origin": self.origin,
            "libraries": dict(_libraries()),
        }


def base_identity(base: Base) -> tuple[str, str | None]:
    """What adapter_config.json names as its base and revision, so that plain `transformers` and `peft` find it.

    For a base from the hub its repository and commit; for any other, which has no address, its folder on this machine. On
    another machine base.lock.json beside it tells which base it was.
    """
    if base.source.get("kind") == "hub" and base.source.get("repo") and base.source.get("commit"):
        return str(base.source["repo"]), str(base.source["commit"])
    return str(base.path.resolve()), None


def staging_dir() -> Path:
    """`<home>/adapters/.staging`, on the disk where versions will stand."""
    return paths.adapters_dir() / ".staging"


@contextmanager
def room(kind: str = "draft") -> Iterator[Path]:
    """An empty folder to build in; whatever is still there at the end is removed. Sweeps what killed processes left."""
    staging_dir().mkdir(parents=True, exist_ok=True)
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=staging_dir()))
    folder.chmod(0o755)  # mkdtemp hides it from other users; a published version may be read
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkbenchError(f"The disk of {paths.adapters_dir()} is full.", hint="Free some space and try again.") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    for old in staging_dir().iterdir():
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _ABANDONED:
                shutil.rmtree(old)


def fill(draft: Path, source: Path, facts: Facts) -> Checked:
    """Copy into `draft` what a version consists of, from the PEFT folder `source` and the base. Unknown files stay behind.

    Raises `IntegrityError` when the adapter does not fit its base, cannot work, changes nothing, or is no adapter.
    """
    from workbench.bases.layout import Layout
    from workbench.bases.lock import LOCK_FILE, read_lock

    lock = read_lock(facts.base.path / LOCK_FILE)
    if lock.sha256 != facts.base.lock_sha256:
        raise IntegrityError(
            f"The lock of {facts.base.ref} was changed since the base was added.", hint="Remove the base and add it again."
        )
    for name in (CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise IntegrityError(f"{source} has no {name}, so it is no PEFT adapter.", hint="Pickled weights (.bin) are never read.")
    shutil.copyfile(source / WEIGHTS, draft / WEIGHTS)
    limits = Limits("the adapter", memory=2 * GIB, seconds=600, preload=_READERS, error=IntegrityError, hint="That is no LoRA adapter.")
    given = (source / CONFIG).read_bytes(), draft / WEIGHTS, facts.base.path / LOCK_FILE, str(facts.base.ref)
    try:
        checked = limits.run(check_adapter, *given)
    except LayoutMissing:
        Layout(lock).ask()
        checked = limits.run(check_adapter, *given)
    name, revision = base_identity(facts.base)
    _write_json(draft / CONFIG, checked.config | {"base_model_name_or_path": name, "revision": revision})
    shutil.copyfile(facts.base.path / LOCK_FILE, draft / LOCK)
    _copy_tokenizer(draft, source, facts.base.path, lock)
    _copy_evidence(draft, source)
    if facts.recipe_yaml:
        (draft / "recipe.yaml").write_text(facts.recipe_yaml, encoding="utf-8")
    if facts.scores:
        (draft / "evidence").mkdir(exist_ok=True)
        _write_json(draft / "evidence" / "summary.json", facts.scores)
    return checked


@dataclass(frozen=True)
class Checked:
    """What an adapter is, after the rules were applied."""

    config: dict[str, Any]  # the adapter_config.json to publish, but for its base
    ranks: tuple[int, int]  # the smallest and the largest module
    alphas: tuple[float, float]
    scales: tuple[float, float]  # what PEFT multiplies B A with
    change: tuple[float, float] | None  # |scale B A| / |W|; None where the base does not tell its norms


def check_adapter(config: bytes, weights: Path, lock_file: Path, base: str, *, trained: bool = True) -> Checked:
    """The one gate for everything that enters the registry.

    Raises `IntegrityError` naming every weight that has no place on the base of `lock_file`, is not finite, or changes nothing; the
    last two only when it is `trained`.
    """
    from workbench.bases.lock import read_lock
    from workbench.registry.lora_weights import fit, read_weights, values
    from workbench.registry.peft_config import parse

    try:
        declared, tensors = parse(config), read_weights(weights)
    except ImportRefused as error:
        raise IntegrityError(error.message, hint=error.hint) from None
    lock = read_lock(lock_file)
    fitted = fit(tensors, declared, lock)
    found = values(tensors, declared, lock) if trained and not fitted.problems else None
    problems = fitted.problems or (found.problems if found else [])
    if problems:
        more = [f"and {len(problems) - 8} more"] if len(problems) > 8 else []
        listed = "".join(f"\n  - {problem[:300]}" for problem in [*problems[:8], *more])
        what = f"do not fit adapter_config.json or the base {base}" if fitted.problems else f"are of no use on {base}"
        raise IntegrityError(f"The weights {what}:{listed}", hint="\nNothing was published.")
    return Checked(
        declared.published(fitted.modules, fitted.targets, fitted.parameters),
        _range(map(declared.rank_of, fitted.modules)),
        _range(map(declared.alpha_of, fitted.modules)),
        _range(map(declared.scale_of, fitted.modules)),
        found.change if found else None,
    )


def _range(values: Iterable[T]) -> tuple[T, T]:
    found = sorted(values)
    return found[0], found[-1]


def seal(draft: Path, facts: Facts, checked: Checked) -> str:
    """Write the card and the manifest of version `facts.version`; returns the manifest's SHA-256."""
    from workbench.registry.card import render

    (draft / "README.md").write_text(render(facts, checked), encoding="utf-8")
    return manifest.write(draft, facts.about())


def _copy_tokenizer(draft: Path, source: Path, base: Path, lock: Lock) -> None:
    """The tokenizer that came with the adapter, else the base's; the adapter's own chat template always wins."""
    own = source if (source / "tokenizer.json").is_file() else base
    for name in _TOKENIZER:
        if (own / name).is_file():
            shutil.copyfile(own / name, draft / name)
    if (source / _TEMPLATE).is_file():
        shutil.copyfile(source / _TEMPLATE, draft / _TEMPLATE)
    elif lock.chat_template and not (draft / _TEMPLATE).is_file():
        (draft / _TEMPLATE).write_text(lock.chat_template, encoding="utf-8")


def _copy_evidence(draft: Path, source: Path) -> None:
    folder = source / "evidence"
    if not folder.is_dir():
        return
    (draft / "evidence").mkdir()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.is_symlink() and file.suffix in _EVIDENCE:
            shutil.copyfile(file, draft / "evidence" / file.name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@cache
def _libraries() -> dict[str, str]:
    """Versions of what made the adapter."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("openweight-workbench", "torch", "transformers", "trl", "peft", "bitsandbytes"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
