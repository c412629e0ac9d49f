"""The one way to a new version: the files first, then its row and the news of it in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from ltp.contracts.dataset import DatasetFrozen, Split
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.names import require_one_project
from ltp.store.database import Database, Unit
from services.dataset import store
from services.dataset.apart import apart
from services.dataset.derive import Keep, Source, derive_files
from services.dataset.files import FrozenVersion

Settle = Callable[[Unit], Awaitable[None]]


async def find(
    database: Database, versions_dir: Path, project: str | None, name: str, version: str | None = None
) -> Source:
    """The version of a project's name: its newest, or the one that `version` (or the first digits of it) names.

    Without a project, of whichever project has the name. Raises LtpError: NOT_FOUND, CONFLICT when several projects have it
    or the digits fit several versions.
    """
    found = await store.hashes(database.engine, project, name, version)
    if not found:
        wanted = f"dataset {name}" if version is None else f"version {version} of dataset {name}"
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no frozen {wanted}.", "`ltp dataset list` shows what there is.")
    require_one_project(name, {whose for whose, _ in found})
    if len(found) > 1:
        message = f"{version} is the beginning of {len(found)} versions of {name}."
        raise LtpError(ErrorCode.CONFLICT, message, "Give more of its digits; `ltp dataset versions` shows them.")
    ((whose, digest),) = found
    return Source(name, digest, versions_dir / name / digest, whose)


async def same_rows(database: Database, versions_dir: Path, name: str, version: str) -> Source:
    """A version by its whole hash, whosever it is: under one name the same hash is the same rows. Raises NOT_FOUND."""
    if not await store.is_kept(database.engine, name, version):
        return await find(database, versions_dir, None, name, version)
    return Source(name, version, versions_dir / name / version)


async def derive(
    database: Database,
    versions_dir: Path,
    parent: Source,
    keep: Keep,
    *,
    dataset_id: UUID,
    reason: str,
    provenance: Mapping[str, Any],
    name: str | None = None,
    project: str | None = None,
    settle: Settle | None = None,
    cancelled: asyncio.Event | None = None,
) -> FrozenVersion:
    """Freeze the rows of `parent` that `keep` keeps as a version of `project`'s `name` (the parent's, when left out) and say so.

    `keep` is a function of a table of frozen rows that returns a mask (one that can be pickled), or the row ids to keep. Doing it again with the
    same `dataset_id` changes nothing. `settle` runs in the transaction that says so; finish the work there.
    `provenance` is kept beside the version: what was removed, by which method, on whose word.
    """
    name = name or parent.name
    facts = {**_of(parent), "reason": reason, "parents": [parent.version], "provenance": dict(provenance)}
    write = partial(derive_files, name=name, versions_dir=versions_dir / name, owner=str(dataset_id), facts=facts)
    frozen = await apart(write, parent, keep, cancelled=cancelled)
    await publish(
        database, dataset_id, project or parent.project, name, frozen, parents=[parent.version], of=parent.project,
        reason=reason, provenance=provenance, settle=settle,
    )  # fmt: skip
    return frozen


def _of(parent: Source) -> dict[str, Any]:
    manifest = parent.manifest()
    return {"format": manifest["format"], "evidence": manifest["evidence"]}


async def publish(
    database: Database,
    dataset_id: UUID,
    project: str,
    name: str,
    frozen: FrozenVersion,
    *,
    parents: list[str] | None = None,
    of: str | None = None,
    reason: str = "",
    provenance: Mapping[str, Any] | None = None,
    settle: Settle | None = None,
) -> None:
    """Note a version that lies on the disk and say `DatasetFrozen`, once for each `dataset_id`.

    `of` is the project whose its parents are, where they are of one.
    """
    splits = {
        split: Split(rows=part.rows, path=str(part.path), answered=part.answered)
        for split, part in frozen.splits.items()
    }
    values = {
        "version": frozen.version, "rows": frozen.rows, "duplicates": frozen.duplicates, "format": frozen.format,
        "evidence": frozen.evidence, "splits": {split: part.model_dump() for split, part in splits.items()},
        "size_bytes": sum(part.path.stat().st_size for part in frozen.splits.values()), "parents": parents or [],
        "reason": reason, "provenance": dict(provenance or {}),
    }  # fmt: skip
    async with database.unit() as unit:
        await store.open_dataset(unit, dataset_id, project, name)
        await store.mark_name(unit, project, name)
        if parents:
            await store.inherit_personal(unit, project, name, parents, of)
        if await store.close_dataset(unit, dataset_id, **values):
            fact = DatasetFrozen(
                dataset_id=dataset_id, name=name, version=frozen.version, format=frozen.format, rows=frozen.rows,
                duplicates=frozen.duplicates, splits=splits, parents=parents or [], reason=reason, project=project,
                evidence=frozen.evidence,
            )  # fmt: skip
            unit.emit(fact, about=dataset_id)
        if settle is not None:
            await settle(unit)
