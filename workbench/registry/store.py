"""The registry: adapters by name, version and alias; published whole or not at all; never changed afterwards.

Publishing builds the whole folder in `<home>/adapters/.staging` (files, card, manifest last, all flushed to disk). Then one
transaction asks whether the job still owns its attempt, takes the next version number by inserting its row, and renames
the folder into place. A crash before the commit leaves a finished folder without a row: the same job takes it over when it
runs again, and `recover` enters the others. Nothing finished is ever overwritten or deleted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import manifest, paths
from workbench.db import reading
from workbench.db.session import now, transaction
from workbench.errors import Conflict, IntegrityError, NotFound, UsageError
from workbench.files import flush, room, sha256_of
from workbench.records import VERSION, Adapter, AdapterRef, Base, Dataset, check_name
from workbench.registry import rows

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from workbench.evidence import Evidence
    from workbench.recipe import Recipe

__all__ = ["Registry"]

Adapters = list[Adapter]  # `list` is a method below
Texts = list[str]
_RESERVED = re.compile(r"latest|newest|v\d+")  # words that already mean a version
_RACES = 20  # processes that may publish under one name at the same moment


class _Taken(Exception):
    """Somebody else was faster to this version number."""


class Registry:
    """The adapters of one home folder.

    >>> bench.adapters.alias("orders@1", "champion").aliases
    ('champion',)
    >>> adapter = bench.adapters.get("orders@champion", verify=True)
    >>> str(adapter.base), adapter.dataset, adapter.method
    ('pico@1', 'orders', 'lora')
    >>> bench.adapters.export("orders@1", Path("orders.zip"), zip=True).name
    'orders.zip'
    """

    # ---------------------------------------------------------------- reading

    def list(self, name: str | None = None, *, trashed: bool = False) -> Adapters:
        """Versions, the newest first; of one adapter with `name`. `trashed` lists the trash instead.

        Raises `NotFound` for a name under which nothing was ever published.
        """
        aliases, root = rows.aliases_by_version(), paths.adapters_dir()
        return [rows.record(row, aliases, root) for row in rows.listed(name, trashed=trashed)]

    def get(self, ref: str | AdapterRef, *, verify: bool = False) -> Adapter:
        """`name` (newest version), `name@3` or `name@champion`. With `verify` every file is checked against its manifest.

        Raises `NotFound`, or `IntegrityError` when the folder is not what was published.
        """
        row = rows.find(AdapterRef.parse(ref))
        adapter = rows.record(row, rows.aliases_by_version())
        if row["trashed_at"] is not None:
            raise NotFound(f"{adapter.ref} is in the trash.", hint=f"Bring it back: workbench adapter restore {adapter.ref}")
        (manifest.verify if verify else manifest.read)(adapter.path, row["manifest_sha256"])
        return adapter

    def evidence(self, ref: str | AdapterRef) -> Evidence:
        """The scores of base and base + adapter on each row of the frozen test part. Raises `NotFound` without any."""
        from workbench.evidence import read_scores

        adapter = self.get(ref, verify=True)
        scores = adapter.path / "evidence" / "scores.jsonl"
        if not scores.is_file():
            raise NotFound(f"{adapter.ref} was never scored.", hint=f"Score it: workbench adapter evaluate {adapter.ref} --dataset NAME")
        return read_scores(scores)

    def lineage(self, ref: str | AdapterRef) -> dict[str, Any]:
        """What an adapter came from and what came from it, as JSON values: parents are nested, children are references."""
        every = {rows.ref_of(row): row for row in rows.all_rows()}
        return rows.family(rows.ref_of(rows.find(AdapterRef.parse(ref))), every, frozenset())

    def export(self, ref: str | AdapterRef, out: Path, *, zip: bool = False) -> Path:
        """Copy a version to the new folder or, with `zip`, the new file `out`; every file is verified. Returns the path.

        Raises `Conflict` when `out` exists.
        """
        from workbench.registry.export import copy_out, zip_out

        adapter = self.get(ref, verify=True)
        return zip_out(adapter, Path(out)) if zip else copy_out(adapter, Path(out))

    # ---------------------------------------------------------------- publishing

    def publish(
        self,
        folder: Path,
        *,
        name: str,
        base: Base,
        dataset: Dataset | None,
        method: str,
        recipe: Recipe | None,
        scores: Mapping[str, Any],
        parents: Sequence[str] = (),
        job_id: str | None = None,
        token: str | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Adapter:
        """Publish the PEFT folder `folder` as the next version of `name` and return it. `folder` itself is left as it is.

        A job publishes once: called again with the same `job_id` this returns what was published. With `token` the job
        must still own its attempt at the moment of the commit, else `Fenced` is raised and nothing is published.
        Raises `IntegrityError` when the adapter does not fit the base or holds values that are not finite.
        """
        from workbench.registry import staging
        from workbench.registry.facts import Facts

        check_name(name, "adapter name")
        made_from = [self.get(parent) for parent in parents]
        if method == "imported" and origin is None and made_from:  # the same weights, scored: they still come from outside
            origin = manifest.read(made_from[0].path, made_from[0].manifest_sha256)["about"].get("origin")
        facts = Facts(
            name=name,
            base=base,
            dataset=dataset,
            method=method,
            recipe=recipe,
            scores=dict(scores),
            parents=tuple(parent.ref for parent in made_from),
            job_id=job_id,
            origin=dict(origin or {}),
        )
        for place, about in rows.unentered(name) if job_id else ():
            if about.get("job_id") == job_id:  # this job was killed between the rename and the commit
                return _enter(about, sha256_of(place / manifest.NAME), token=token)
        with room(paths.adapters_dir()) as draft:
            checked = staging.fill(draft, folder, facts)
            for _ in range(_RACES):
                facts.version = rows.next_version(name)
                sha256 = staging.seal(draft, facts, checked)
                with suppress(_Taken):
                    return _enter(facts.about(), sha256, token=token, draft=draft)
        raise Conflict(f"Others kept publishing under the name {name} at the same moment.", hint="Publish again.")

    def recover(self) -> Adapters:
        """Enter every finished folder that has no row: after a lost database, or a kill at the worst moment.

        Raises `IntegrityError` naming the folders that are damaged, after the others were entered.
        """
        entered: Adapters = []
        damaged: Texts = []
        for home in sorted(paths.adapters_dir().glob("[a-z0-9]*")):
            for place, about in rows.unentered(home.name, damaged):
                entered.append(_enter(about, sha256_of(place / manifest.NAME), token=None))
        if damaged:
            raise IntegrityError(
                f"Recovered {len(entered)}, but these are damaged: {', '.join(damaged)}.", hint="Restore them from a backup."
            )
        return entered

    # ---------------------------------------------------------------- aliases

    def alias(self, ref: str | AdapterRef, alias: str, *, expect: int | str | None = None) -> Adapter:
        """Point `alias` to a version and return that. A name such as "champion" can be moved, versions never change.

        With `expect` (a version number, or 0 or "none" for "no such alias yet") it moves only from there; `Conflict` is
        raised when somebody else moved it first.
        """
        from sqlalchemy import select
        from sqlalchemy.exc import IntegrityError as Duplicate

        from workbench.db.tables import aliases

        target = rows.record(rows.find(AdapterRef.parse(ref)), {})
        if AdapterRef.parse(f"{target.name}@{alias}").alias is None or _RESERVED.fullmatch(alias):
            raise UsageError(f"'{alias}' cannot be an alias: it already means a version.", hint="Use a word, such as champion.")
        wanted = _expected(expect)
        here = (aliases.c.name == target.name) & (aliases.c.alias == alias)
        try:
            with transaction() as connection:
                _lock_live(connection, target)
                current = connection.execute(select(aliases.c.version).where(here).with_for_update()).scalar_one_or_none()
                if wanted is not None and wanted != (current or 0):
                    raise _moved(target.name, alias, current, wanted)
                if current != target.version:
                    _point(connection, target.name, alias, current, target.version)
        except Duplicate:
            raise Conflict(f"Somebody else made {target.name}@{alias} at the same moment.", hint="Look at it and decide again.") from None
        return self.get(target.ref)

    def drop_alias(self, ref: str | AdapterRef) -> None:
        """Remove an alias, given as `name@alias`. The version stays."""
        parsed = AdapterRef.parse(ref)
        if parsed.alias is None:
            raise UsageError(f"'{ref}' names no alias.", hint="Write name@alias.")
        version = rows.find(parsed)["version"]
        with transaction() as connection:
            _point(connection, parsed.name, parsed.alias, version, None)

    # ---------------------------------------------------------------- trash

    def remove(self, ref: str | AdapterRef, *, force: bool = False) -> Adapter:
        """Move one version to `<home>/adapters/.trash`; `restore` brings it back. Its number is never used again.

        Raises `Conflict` while an alias points to it, unless `force` drops those aliases, and `UsageError` for a bare name
        with several versions.
        """
        from sqlalchemy import select

        from workbench.db.tables import aliases

        target = rows.record(rows.only(AdapterRef.parse(ref), trashed=False), {})
        with transaction() as connection:
            _lock_live(connection, target)
            mine = (aliases.c.name == target.name) & (aliases.c.version == target.version)
            pointing = connection.execute(select(aliases.c.alias).where(mine)).scalars().all()
            if pointing and not force:
                raise Conflict(
                    f"{target.ref} is {', '.join(sorted(pointing))}.",
                    hint=f"Point that to another version first: workbench adapter alias {target.name}@VERSION {pointing[0]}",
                )
            for alias in pointing:
                _point(connection, target.name, alias, target.version, None)
            _move(connection, target, now(connection))
        return rows.record(rows.find(AdapterRef.parse(target.ref)), {})

    def restore(self, ref: str | AdapterRef) -> Adapter:
        """Bring a version back from the trash. Raises `NotFound` when it is not there, `IntegrityError` when it was damaged."""
        row = rows.only(AdapterRef.parse(ref), trashed=True)
        target = rows.record(row, {})
        if not target.path.is_dir():
            raise NotFound(f"{target.ref} is no longer in the trash: it was emptied.", hint="An export of it can be imported.")
        manifest.verify(target.path, row["manifest_sha256"])
        with transaction() as connection:
            _move(connection, target, None)
        return self.get(target.ref)


# ---------------------------------------------------------------- writing


def _enter(about: Mapping[str, Any], sha256: str, *, token: str | None, draft: Path | None = None) -> Adapter:
    """One transaction: check the token, insert the row, put `draft` in its place. Raises `_Taken` for a number in use."""
    from sqlalchemy import insert
    from sqlalchemy.exc import IntegrityError as Duplicate

    from workbench.db import fencing
    from workbench.db.tables import adapter_versions

    name, version = about["name"], about["version"]
    place = rows.place(name, version)
    moved = False
    try:
        with transaction() as connection:
            if token is not None:
                fencing.check(connection, token)
            done = _published_by(connection, about["job_id"], name)
            if done is not None:
                return rows.record(done, rows.aliases_by_version())
            created = now(connection) if draft else datetime.fromisoformat(about["created_at"]).timestamp()
            row = {key: about[key] for key in _COLUMNS} | {"manifest_sha256": sha256, "created_at": created, "trashed_at": None}
            connection.execute(insert(adapter_versions).values(**row))  # whoever inserts first owns the number
            if draft is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.exists():
                    raise _Taken
                os.rename(draft, place)
                moved = True
                flush(place.parent)
                flush(place.parent.parent)
        return rows.record(row, {})
    except Duplicate:
        raise _Taken from None
    except BaseException:
        if moved and draft is not None:
            _take_back(place, draft, name, version)
        raise


_COLUMNS = ("name", "version", "base", "base_lock_sha256", "dataset", "dataset_sha256", "method", "job_id", "parents", "scores")


def _published_by(connection: Connection, job_id: str | None, name: str) -> rows.Row | None:
    from sqlalchemy import select

    from workbench.db.tables import adapter_versions as t

    if job_id is None:
        return None
    row = connection.execute(select(t).where((t.c.job_id == job_id) & (t.c.name == name))).mappings().first()
    return dict(row) if row else None


def _take_back(place: Path, draft: Path, name: str, version: int) -> None:
    """The commit failed: if the row is certainly absent, the folder goes as well. If nobody can tell, it stays."""
    with suppress(Exception):
        if not reading.rows("SELECT 1 AS x FROM adapter_versions WHERE name = :name AND version = :version", name=name, version=version):
            os.rename(place, draft)


def _lock_live(connection: Connection, target: Adapter) -> None:
    """Hold the version's row until the commit, so that it cannot be trashed meanwhile. Raises `NotFound` if it is."""
    from sqlalchemy import select

    from workbench.db.tables import adapter_versions as t

    mine = (t.c.name == target.name) & (t.c.version == target.version)
    if connection.execute(select(t.c.trashed_at).where(mine).with_for_update()).scalar_one() is not None:
        raise NotFound(f"{target.ref} is in the trash.", hint=f"Bring it back: workbench adapter restore {target.ref}")


def _move(connection: Connection, target: Adapter, trashed_at: float | None) -> None:
    """Mark a version and rename its folder: into the trash, or out of it for None. No rename where it is there already, or gone."""
    from sqlalchemy import update

    from workbench.db.tables import adapter_versions as t

    connection.execute(update(t).where((t.c.name == target.name) & (t.c.version == target.version)).values(trashed_at=trashed_at))
    to_trash = trashed_at is not None
    source, goal = (rows.place(target.name, target.version, trash=trash) for trash in (not to_trash, to_trash))
    if source.is_dir() and not goal.exists():
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, goal)
        flush(goal.parent)
        flush(source.parent)


def _point(connection: Connection, name: str, alias: str, old: int | None, new: int | None) -> None:
    """Have an alias mean version `new` in place of `old` (None: no such alias), and log it."""
    from sqlalchemy import delete, insert, update

    from workbench.db.tables import alias_log, aliases

    at, here = now(connection), (aliases.c.name == name) & (aliases.c.alias == alias)
    if new is None:
        connection.execute(delete(aliases).where(here))
    elif old is None:
        connection.execute(insert(aliases).values(name=name, alias=alias, version=new, updated_at=at))
    else:
        connection.execute(update(aliases).where(here).values(version=new, updated_at=at))
    connection.execute(insert(alias_log).values(name=name, alias=alias, from_version=old, to_version=new, at=at))


def _expected(expect: int | str | None) -> int | None:
    """The version an alias must point to now; 0 for nowhere, None for anywhere."""
    if expect is None or isinstance(expect, int):
        return expect
    text = expect.rpartition("@")[2].removeprefix("v")
    if text.lower() in {"none", "0"}:
        return 0
    if not VERSION.fullmatch(text):
        raise UsageError(f"{expect!r} is no version to expect.", hint="Give a number, or none for an alias that does not exist yet.")
    return int(text)


def _moved(name: str, alias: str, current: int | None, wanted: int) -> Conflict:
    now_it = f"points to version {current}" if current else "does not exist"
    expected = f"version {wanted}" if wanted else "no such alias"
    return Conflict(f"{name}@{alias} {now_it}, but {expected} was expected: somebody moved it.", hint="Look at it and decide again.")
