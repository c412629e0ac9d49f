"""What becomes of the work that schedules and pipelines asked for: the facts of its nouns, handed to both."""

from __future__ import annotations

from uuid import UUID

from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by
from ltp.contracts.admission import AdmissionRefused, TelemetryPruned
from ltp.contracts.checkpoint import CheckpointExported, CheckpointExportFailed
from ltp.contracts.dataset import DatasetFrozen, DatasetRejected
from ltp.contracts.evaluation import ComparisonCompleted, EvaluationFailed
from ltp.contracts.event import Event
from ltp.contracts.job import JobCancelled, JobFailed, JobSucceeded
from ltp.contracts.operation import OperationCancelled, OperationFailed, OperationSucceeded
from ltp.store.database import Unit
from services.scheduler.pipelines import store as pipelines
from services.scheduler.pipelines.engine import PIPELINES_CHANNEL
from services.scheduler.pipelines.triggers import said_at, start_triggered
from services.scheduler.schedules.firing import end_action

SERVICE = "scheduler"
router = NatsRouter()


@router.subscriber(**heard_by(SERVICE, JobSucceeded))
async def job_succeeded(event: JobSucceeded, unit: InboxUnit) -> None:
    await _hear(unit, event.job_id, "succeeded", event)
    await end_action(unit, event.job_id, "succeeded")


@router.subscriber(**heard_by(SERVICE, JobFailed))
async def job_failed(event: JobFailed, unit: InboxUnit) -> None:
    await _hear(unit, event.job_id, "failed", event)
    await end_action(unit, event.job_id, "failed", problem=event.problem)


@router.subscriber(**heard_by(SERVICE, JobCancelled))
async def job_cancelled(event: JobCancelled, unit: InboxUnit) -> None:
    await _hear(unit, event.job_id, "cancelled", event)
    await end_action(unit, event.job_id, "cancelled")


@router.subscriber(**heard_by(SERVICE, CheckpointExported))
async def checkpoint_exported(event: CheckpointExported, unit: InboxUnit) -> None:
    await _hear(unit, event.job_id, f"exported-{event.step}", event)
    if event.is_final:
        await _hear(unit, event.job_id, "exported", event)
    await start_triggered(unit, event)


@router.subscriber(**heard_by(SERVICE, CheckpointExportFailed))
async def checkpoint_export_failed(event: CheckpointExportFailed, unit: InboxUnit) -> None:
    # Which step's export matters the stage knows: the job's last, or the one it was given.
    await _hear(unit, event.job_id, f"export-failed-{event.step}", event)


@router.subscriber(**heard_by(SERVICE, ComparisonCompleted))
async def compared(event: ComparisonCompleted, unit: InboxUnit) -> None:
    await _hear(unit, event.job_id, "compared", event)


@router.subscriber(**heard_by(SERVICE, EvaluationFailed))
async def evaluation_failed(event: EvaluationFailed, unit: InboxUnit) -> None:
    await _hear(unit, event.job_id, "evaluation-failed", event)


@router.subscriber(**heard_by(SERVICE, DatasetFrozen))
async def dataset_frozen(event: DatasetFrozen, unit: InboxUnit) -> None:
    await pipelines.add_version(unit, event, said_at(unit.cause))
    await _hear(unit, event.dataset_id, "frozen", event)
    await pipelines.look_again(unit, kind="dataset")
    await unit.notify(PIPELINES_CHANNEL)
    await start_triggered(unit, event)


@router.subscriber(**heard_by(SERVICE, DatasetRejected))
async def dataset_rejected(event: DatasetRejected, unit: InboxUnit) -> None:
    await _hear(unit, event.dataset_id, "rejected", event)


@router.subscriber(**heard_by(SERVICE, OperationSucceeded))
async def operation_succeeded(event: OperationSucceeded, unit: InboxUnit) -> None:
    await _hear(unit, event.operation_id, "operation-succeeded", event)


@router.subscriber(**heard_by(SERVICE, OperationFailed))
async def operation_failed(event: OperationFailed, unit: InboxUnit) -> None:
    await _hear(unit, event.operation_id, "failed", event)


@router.subscriber(**heard_by(SERVICE, OperationCancelled))
async def operation_cancelled(event: OperationCancelled, unit: InboxUnit) -> None:
    await _hear(unit, event.operation_id, "cancelled", event)


@router.subscriber(**heard_by(SERVICE, AdmissionRefused))
async def refused(event: AdmissionRefused, unit: InboxUnit) -> None:
    if event.what.endswith("-cancellation"):
        return  # The noun goes on to its own end.
    await _hear(unit, event.noun_id, "refused", event)
    await end_action(unit, event.noun_id, "failed", problem=event.problem)


@router.subscriber(**heard_by(SERVICE, TelemetryPruned))
async def telemetry_pruned(event: TelemetryPruned, unit: InboxUnit) -> None:
    await end_action(unit, event.tick_id, "succeeded", result={"rows_deleted": event.rows, "jobs": event.jobs})


async def _hear(unit: Unit, noun_id: UUID, name: str, event: Event) -> None:
    if await pipelines.hear(unit, noun_id, name, event.model_dump(mode="json")):
        await unit.notify(PIPELINES_CHANNEL)
