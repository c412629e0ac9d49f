"""What the dataset service hears, and the work of turning files and versions into new versions."""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.dataset import (
    DatasetDeleted,
    DatasetDeletionRequested,
    DatasetDerivationRequested,
    DatasetFrozen,
    DatasetMarked,
    DatasetRejected,
    DatasetRequested,
    DatasetUploaded,
    ProjectQuotaSet,
    ReadOptions,
)
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import Work, enqueue, finish
from ltp.queue.worker import Held
from ltp.store.clock import now
from ltp.store.database import Database, Unit
from services.dataset import store
from services.dataset.derive import Source, mix_files, split_files
from services.dataset.files import FrozenVersion, staging_directory
from services.dataset.ingest import freeze
from services.dataset.leftovers import expire_uploads
from services.dataset.obtain import obtain
from services.dataset.settings import DatasetSettings
from services.dataset.versions import derive, find, publish

SERVICE = "dataset"
router = NatsRouter()

for event in (DatasetFrozen, DatasetRejected, DatasetDeleted):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, DatasetUploaded))
async def queue_upload(event: DatasetUploaded, unit: InboxUnit) -> None:
    await store.open_dataset(unit, event.dataset_id, event.name, source_sha256=event.sha256, source=event.filename)
    await _queue_freeze(unit, event.dataset_id, event.name, event.options, event.model_dump(mode="json"))


@router.subscriber(**heard_by(SERVICE, DatasetRequested))
async def queue_source(event: DatasetRequested, unit: InboxUnit) -> None:
    await store.open_dataset(unit, event.dataset_id, event.name, source=event.source)
    await _queue_freeze(unit, event.dataset_id, event.name, event.options, event.model_dump(mode="json"))


@router.subscriber(**heard_by(SERVICE, DatasetDerivationRequested))
async def queue_derivation(event: DatasetDerivationRequested, unit: InboxUnit) -> None:
    await store.open_dataset(unit, event.dataset_id, event.name)
    key = f"derive:{event.dataset_id}"
    enqueue(unit, Queue.PREPROCESSING, "derive", event.model_dump(mode="json"), dedup_key=key)


@router.subscriber(**heard_by(SERVICE, DatasetDeletionRequested))
async def delete_versions(event: DatasetDeletionRequested, unit: InboxUnit) -> None:
    await forget(unit, event.name, event.version, "requested")


@router.subscriber(**heard_by(SERVICE, DatasetMarked))
async def mark(event: DatasetMarked, unit: InboxUnit) -> None:
    values = {"personal": event.personal, "keep_days": event.keep_days, "project": event.project}
    await store.mark_name(unit, event.name, **values)


@router.subscriber(**heard_by(SERVICE, ProjectQuotaSet))
async def limit_project(event: ProjectQuotaSet, unit: InboxUnit) -> None:
    await store.set_quota(unit, event.project, event.quota_bytes)


async def _queue_freeze(
    unit: Unit, dataset_id: UUID, name: str, options: ReadOptions | None, payload: dict[str, Any]
) -> None:
    if options is not None:
        project = options.project if options.model_fields_set & {"project"} else None
        personal = options.personal or None
        await store.mark_name(unit, name, project=project, personal=personal, keep_days=options.keep_days)
    # Reading may take minutes: a message is never held that long.
    enqueue(unit, Queue.PREPROCESSING, "freeze", payload, dedup_key=f"freeze:{dataset_id}")


async def forget(unit: Unit, name: str, version: str | None, reason: Any) -> None:
    """Note that versions are gone, say so, and queue the removal of their files."""
    for row in await store.mark_deleted(unit, name, version):
        fact = DatasetDeleted(dataset_id=row["dataset_id"], name=name, version=row["version"], reason=reason)
        unit.emit(fact, about=row["dataset_id"])
        payload = {"name": name, "version": row["version"]}
        enqueue(unit, Queue.DEFAULT, "remove", payload, dedup_key=f"remove:{row['dataset_id']}")


# -- work ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Freezer:
    """The work of reading a source. Whatever it unpacks or fetches lies beside the versions and goes with the work."""

    database: Database
    settings: DatasetSettings
    versions: Path
    warm: Callable[[], None]

    async def __call__(self, held: Held) -> None:
        """Read the source, write the version, say so. An upload is a copy: it goes once it was read or refused."""
        # A dataset is added to be trained on: the gate will ask soon, and verl takes its time to start.
        self.warm()
        payload = held.work.payload
        event = DatasetUploaded if "path" in payload else DatasetRequested
        asked = event.model_validate(payload)
        upload = Path(asked.path) if isinstance(asked, DatasetUploaded) else None
        options = asked.options or ReadOptions()
        await _check_quota(self.database, asked.name, options.project)
        try:
            frozen = await asyncio.to_thread(self._freeze, asked, options)
            await self._check_fits(asked.name, frozen)
        except LtpError:
            if upload is not None:
                await asyncio.to_thread(upload.unlink, missing_ok=True)
            raise
        settle = held.work
        await publish(
            self.database, asked.dataset_id, asked.name, frozen, settle=lambda unit: finish(unit, settle)
        )  # fmt: skip
        if upload is not None:
            await asyncio.to_thread(upload.unlink, missing_ok=True)

    def _freeze(self, asked: DatasetUploaded | DatasetRequested, options: ReadOptions) -> FrozenVersion:
        # A folder per name, since the rows carry the name while the version is a hash of their content alone.
        folder, owner = self.versions / asked.name, str(asked.dataset_id)
        uploaded = isinstance(asked, DatasetUploaded)
        with staging_directory(folder, f"{owner}.source") as work:
            got = obtain(
                asked.path if uploaded else asked.source,
                asked.filename if uploaded else None,
                member=options.member,
                mapping=options.mapping,
                roots=self.settings.roots(),
                hub=self.settings.hub(),
                work=work,
            )
            facts = {"source": asked.filename if uploaded else asked.source, "mapping": options.mapping}
            return freeze(
                got.files, name=asked.name, holdout=asked.holdout, versions_dir=folder, owner=owner,
                columns=got.columns, facts=facts,
            )  # fmt: skip

    async def _check_fits(self, name: str, frozen: FrozenVersion) -> None:
        project, quota_bytes, used = await store.quota(self.database.engine, name)
        size = sum(part.path.stat().st_size for part in frozen.splits.values())
        known = await store.version(self.database.engine, name, frozen.version)
        if quota_bytes is not None and not known and used + size > quota_bytes:
            await asyncio.to_thread(shutil.rmtree, self.versions / name / frozen.version, ignore_errors=True)
            raise _over_quota(project, quota_bytes, used, size)


async def _check_quota(database: Database, name: str, project: str | None) -> None:
    found, quota_bytes, used = await store.quota(database.engine, name, project)
    if quota_bytes is not None and used >= quota_bytes:
        raise _over_quota(found, quota_bytes, used, 0)


def _over_quota(project: str, quota_bytes: int, used: int, size: int) -> LtpError:
    message = f"Project {project} may take {quota_bytes} bytes and takes {used}" + (
        f"; this version needs {size} more." if size else " already."
    )
    return LtpError(ErrorCode.QUOTA_EXCEEDED, message, "Delete versions, or raise it with `ltp dataset quota`.")


async def derive_version(held: Held, database: Database, versions: Path) -> None:
    """Make the version that was asked for out of others, and say so."""
    event = DatasetDerivationRequested.model_validate(held.work.payload)
    await _check_quota(database, event.name, None)
    sources = [await find(database, versions, part.name, part.version) for part in event.parts]

    async def settle(unit: Unit) -> None:
        await finish(unit, held.work)

    if event.kind == "keep":
        provenance = {"where": event.where}
        keep = rows_where(sources[0], event.where)
        await derive(
            database, versions, sources[0], keep, dataset_id=event.dataset_id, name=event.name,
            reason="rows kept by their fields", provenance=provenance, settle=settle,
        )  # fmt: skip
        return
    frozen = await asyncio.to_thread(_combine, event, sources, versions / event.name)
    parents = [source.version for source in sources]
    reason = "split by hash" if event.kind == "split" else "mixed by weight"
    provenance = event.model_dump(mode="json", include={"parts", "shares", "rows"})
    await publish(
        database, event.dataset_id, event.name, frozen, parents=parents, reason=reason, provenance=provenance,
        settle=settle,
    )  # fmt: skip


def _combine(event: DatasetDerivationRequested, sources: list[Source], folder: Path) -> FrozenVersion:
    formats = sorted({source.manifest()["format"] for source in sources})
    evidence = sources[0].manifest()["evidence"] if len(sources) == 1 else f"mixed of {len(sources)} versions"
    facts = {"format": "+".join(formats), "evidence": evidence, "parents": [s.version for s in sources]}
    owner = str(event.dataset_id)
    if event.kind == "split":
        return split_files(sources[0], event.shares, name=event.name, versions_dir=folder, owner=owner, facts=facts)
    weights = [part.weight for part in event.parts]
    return mix_files(sources, weights, event.rows, name=event.name, versions_dir=folder, owner=owner, facts=facts)


def rows_where(source: Source, where: dict[str, list[Any]]) -> Callable[[pa.Table], np.ndarray]:
    """A mask of the rows whose fields have one of the given values each. Raises INVALID_REQUEST for unknown fields."""
    schema = next(table.schema for _, table in source.tables(rows=1))
    names = [f.name for f in schema.field("fields").type] if "fields" in schema.names else []
    if unknown := sorted({*where} - {*names}):
        message = f"{source.name} has no field {unknown[0]!r}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"It has: {', '.join(names) or 'none'}.")

    def keep(table: pa.Table) -> np.ndarray:
        mask = np.ones(table.num_rows, dtype=bool)
        for name, values in where.items():
            column = pc.struct_field(table.column("fields"), name).combine_chunks()
            text = pc.fill_null(column.cast(pa.string()), "")
            wanted = pa.array([_spelt(value) for value in values])
            mask &= pc.is_in(text, wanted).to_numpy(zero_copy_only=False)
        return mask

    return keep


def _spelt(value: Any) -> str:
    """As Arrow spells the value: null as nothing."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


async def reject(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why a source or a version could not become a dataset."""
    dataset_id, name = UUID(work.payload["dataset_id"]), str(work.payload["name"])
    if await store.close_dataset(unit, dataset_id, problem=problem.model_dump()):
        unit.emit(DatasetRejected(dataset_id=dataset_id, name=name, problem=problem), about=dataset_id)


async def remove_files(
    held: Held, database: Database, versions: Path, forget_derived: Callable[[str], Awaitable[None]]
) -> None:
    """Remove a version's files and what was derived of it, unless the same rows were added again meanwhile."""
    name, version = held.work.payload["name"], held.work.payload["version"]
    await forget_derived(version)
    if not await store.version(database.engine, name, version):
        await asyncio.to_thread(shutil.rmtree, versions / name / version, ignore_errors=True)
    async with database.unit() as unit:
        await finish(unit, held.work)


async def retire_forever(database: Database, settings: DatasetSettings) -> None:
    """Delete versions and uploads whose time is over, for as long as the service runs."""
    while True:
        unfinished = settings.dataset_upload_keep_hours * 3600
        await asyncio.to_thread(expire_uploads, settings.root() / "uploads", unfinished)
        for row in await store.expired(database.engine, now()):
            async with database.unit() as unit:
                await forget(unit, row["name"], row["version"], "retention")
        await asyncio.sleep(settings.dataset_retention_poll_seconds)
