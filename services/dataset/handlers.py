"""What the dataset service hears, and the work of turning an upload into an immutable version."""

from __future__ import annotations

import asyncio
from pathlib import Path

from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.dataset import DatasetFrozen, DatasetRejected, DatasetUploaded
from ltp.contracts.values import Problem
from ltp.core.errors import LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import Work, enqueue, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset import store
from services.dataset.ingest import SourceFile, freeze
from services.dataset.versions import publish

SERVICE = "dataset"
router = NatsRouter()

for event in (DatasetFrozen, DatasetRejected):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, DatasetUploaded))
async def queue_freeze(event: DatasetUploaded, unit: InboxUnit) -> None:
    await store.open_dataset(unit, event.dataset_id, event.name, source_sha256=event.sha256, source=event.filename)
    # Reading may take minutes: a message is never held that long.
    key = f"freeze:{event.dataset_id}"
    await enqueue(unit, Queue.PREPROCESSING, "freeze", event.model_dump(mode="json"), dedup_key=key)


async def freeze_upload(held: Held, database: Database, versions: Path) -> None:
    """Read the upload, write the version, say so. The upload is a copy: it goes as soon as it was read or refused."""
    event = DatasetUploaded.model_validate(held.work.payload)
    source = Path(event.path)
    # A folder per name, since the rows carry the name while the version is a hash of their content alone.
    folder = versions / event.name
    try:
        frozen = await asyncio.to_thread(
            freeze,
            [SourceFile(source, event.filename)],
            name=event.name,
            holdout=event.holdout,
            versions_dir=folder,
            owner=str(event.dataset_id),
        )
    except LtpError:
        await asyncio.to_thread(source.unlink, missing_ok=True)
        raise
    await publish(database, event.dataset_id, event.name, frozen, settle=lambda unit: finish(unit, held.work))
    await asyncio.to_thread(source.unlink, missing_ok=True)


async def reject_upload(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why an upload could not become a dataset."""
    event = DatasetUploaded.model_validate(work.payload)
    if await store.close_dataset(unit, event.dataset_id, problem=problem.model_dump()):
        unit.emit(
            DatasetRejected(dataset_id=event.dataset_id, name=event.name, problem=problem), about=event.dataset_id
        )
