"""What the dataset service hears: every request becomes a note and a piece of work in the queue."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.dataset import (
    DEFAULT_PROJECT,
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
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue
from ltp.store.database import Unit
from services.dataset import store
from services.dataset.removal import forget

SERVICE = "dataset"
router = NatsRouter()

for event in (DatasetFrozen, DatasetRejected, DatasetDeleted):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, DatasetUploaded))
async def queue_upload(event: DatasetUploaded, unit: InboxUnit) -> None:
    told = {"source_sha256": event.sha256, "source": event.filename}
    await store.open_dataset(unit, event.dataset_id, project_of(event.options), event.name, **told)
    await _queue_freeze(unit, event.dataset_id, event.name, event.options, event.model_dump(mode="json"))


@router.subscriber(**heard_by(SERVICE, DatasetRequested))
async def queue_source(event: DatasetRequested, unit: InboxUnit) -> None:
    await store.open_dataset(unit, event.dataset_id, event.options.project, event.name, source=event.source)
    await _queue_freeze(unit, event.dataset_id, event.name, event.options, event.model_dump(mode="json"))


@router.subscriber(**heard_by(SERVICE, DatasetDerivationRequested))
async def queue_derivation(event: DatasetDerivationRequested, unit: InboxUnit) -> None:
    await store.open_dataset(unit, event.dataset_id, event.project, event.name)
    key = f"derive:{event.dataset_id}"
    enqueue(unit, Queue.PREPROCESSING, "derive", event.model_dump(mode="json"), dedup_key=key)


@router.subscriber(**heard_by(SERVICE, DatasetDeletionRequested))
async def delete_versions(event: DatasetDeletionRequested, unit: InboxUnit) -> None:
    await forget(unit, event.project, event.name, event.version, "requested")


@router.subscriber(**heard_by(SERVICE, DatasetMarked))
async def mark(event: DatasetMarked, unit: InboxUnit) -> None:
    values = {"personal": event.personal, "keep_days": event.keep_days}
    await store.mark_name(unit, event.project or DEFAULT_PROJECT, event.name, **values)


@router.subscriber(**heard_by(SERVICE, ProjectQuotaSet))
async def limit_project(event: ProjectQuotaSet, unit: InboxUnit) -> None:
    await store.set_quota(unit, event.project, event.quota_bytes)


def project_of(options: ReadOptions | None) -> str:
    """Whose dataset an upload becomes."""
    return DEFAULT_PROJECT if options is None else options.project


async def _queue_freeze(
    unit: Unit, dataset_id: UUID, name: str, options: ReadOptions | None, payload: dict[str, Any]
) -> None:
    if options is not None:
        await store.mark_name(
            unit, options.project, name, personal=options.personal or None, keep_days=options.keep_days
        )
    # Reading may take minutes: a message is never held that long.
    enqueue(unit, Queue.PREPROCESSING, "freeze", payload, dedup_key=f"freeze:{dataset_id}")
