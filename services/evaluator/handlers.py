"""What the evaluator hears: jobs, checkpoints and requests become evaluations; devices given to others are left."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.checkpoint import CheckpointExported, CheckpointExportFailed, CheckpointWritten
from ltp.contracts.evaluation import (
    BestCheckpointChanged,
    ComparisonCompleted,
    EvaluationCancellationRequested,
    EvaluationCancelled,
    EvaluationCompleted,
    EvaluationFailed,
    EvaluationFinished,
    EvaluationGivenUp,
    EvaluationRequested,
    EvaluationRescoreRequested,
    EvaluationUploaded,
    PromotionDecided,
    RegressionFound,
)
from ltp.contracts.job import JobCancelled, JobFailed
from ltp.contracts.lease import LeaseGranted
from ltp.contracts.operation import OperationSucceeded
from ltp.contracts.plan import PlanMade
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue, request_cancel
from services.evaluator import questions, store
from services.evaluator.evaluation import Evaluator, give_up
from services.evaluator.opening import (
    WORK_KIND,
    key_of,
    open_for_job,
    open_requested,
    queue_waiting,
)

SERVICE = "evaluator"
router = NatsRouter()
router.include_router(questions.router)

for event in (
    *(EvaluationCompleted, EvaluationFailed, ComparisonCompleted, EvaluationFinished, EvaluationGivenUp),
    *(EvaluationCancelled, BestCheckpointChanged, PromotionDecided, RegressionFound),
):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, PlanMade))
async def queue_base(event: PlanMade, unit: InboxUnit) -> None:
    await store.open_job(unit, event)
    await open_for_job(unit, event, "base", event.recipe.model.path)


@router.subscriber(**heard_by(SERVICE, CheckpointWritten))
async def wait_for_export(event: CheckpointWritten, unit: InboxUnit) -> None:
    await store.see_checkpoint(unit, event)


@router.subscriber(**heard_by(SERVICE, CheckpointExported))
async def queue_trained(event: CheckpointExported, unit: InboxUnit) -> None:
    await store.see_checkpoint(unit, event, path=event.path, weights_sha256=event.weights_sha256)
    await queue_waiting(unit, event.checkpoint_id, event.path)
    made = await store.job(unit, event.job_id)
    if made is None:
        raise NotYetError(f"the plan of job {event.job_id} is not known yet")
    spec = made.recipe.evaluation
    if spec is not None and (event.is_final or spec.checkpoints == "every"):
        kind = "trained" if event.is_final else None
        await open_for_job(unit, made, kind, event.path, event.checkpoint_id, event.step)


@router.subscriber(**heard_by(SERVICE, CheckpointExportFailed))
async def give_up_on_export(event: CheckpointExportFailed, unit: InboxUnit) -> None:
    await store.spoil_checkpoint(unit, event.checkpoint_id, event.problem)
    for row in await store.waiting_for(unit, event.checkpoint_id):
        await give_up(unit, row["evaluation_id"], event.problem)


@router.subscriber(**heard_by(SERVICE, EvaluationRequested))
async def queue_requested(event: EvaluationRequested, unit: InboxUnit) -> None:
    await open_requested(unit, event)


@router.subscriber(**heard_by(SERVICE, OperationSucceeded))
async def queue_result(event: OperationSucceeded, unit: InboxUnit) -> None:
    # Ids and rows were settled when the operation was asked for.
    for one in (event.evaluate or {}).get("evaluations", []):
        await open_requested(unit, EvaluationRequested.model_validate(one))


@router.subscriber(**heard_by(SERVICE, EvaluationRescoreRequested))
async def queue_rescore(event: EvaluationRescoreRequested, unit: InboxUnit) -> None:
    source = await store.evaluation(unit, event.source_id)
    if source is None:
        raise NotYetError(f"evaluation {event.source_id} is not known yet")
    copied = ("model", "model_path", "dataset", "checkpoint_id", "step", "fingerprint")
    values = {name: source[name] for name in copied}
    values |= {"evaluation_id": event.evaluation_id, "name": event.name, "spec": event.spec.model_dump(mode="json")}
    values |= {"state": "queued", "source": "rescored", "source_id": event.source_id}
    if await store.open_evaluation(unit, values):
        payload = {"evaluation_id": str(event.evaluation_id)}
        enqueue(unit, Queue.EVALUATION, "rescore", payload, dedup_key=key_of(event.evaluation_id))


@router.subscriber(**heard_by(SERVICE, EvaluationUploaded))
async def queue_import(event: EvaluationUploaded, unit: InboxUnit) -> None:
    values = {"evaluation_id": event.evaluation_id, "name": event.name, "state": "queued", "source": "imported"}
    if await store.open_evaluation(unit, values):
        payload = {"evaluation_id": str(event.evaluation_id), "path": event.path}
        enqueue(unit, Queue.PREPROCESSING, "import-scores", payload, dedup_key=key_of(event.evaluation_id))


@router.subscriber(**heard_by(SERVICE, EvaluationCancellationRequested))
async def cancel(event: EvaluationCancellationRequested, unit: InboxUnit) -> None:
    row = await store.evaluation(unit, event.evaluation_id)
    if row is None:
        raise NotYetError(f"evaluation {event.evaluation_id} is not known yet")
    unstarted = await request_cancel(unit, key_of(event.evaluation_id)) or row["state"] == "waiting"
    if unstarted and await store.close_evaluation(unit, event.evaluation_id, "cancelled"):
        unit.emit(EvaluationCancelled(evaluation_id=event.evaluation_id), about=event.evaluation_id)


@router.subscriber(**heard_by(SERVICE, JobFailed))
async def drop_failed(event: JobFailed, unit: InboxUnit) -> None:
    await request_cancel(unit, _base_key(event.job_id))


@router.subscriber(**heard_by(SERVICE, JobCancelled))
async def drop_cancelled(event: JobCancelled, unit: InboxUnit) -> None:
    await request_cancel(unit, _base_key(event.job_id))


@router.subscriber(**heard_by(SERVICE, LeaseGranted))
async def leave_devices(
    event: LeaseGranted, unit: InboxUnit, evaluator: Annotated[Evaluator, Context("evaluator")]
) -> None:
    # A warm server is a guest on devices that nobody wants; an evaluation of its own may find it there.
    if event.kind != WORK_KIND:
        await evaluator.cache.leave(event.placement.device_kind, event.placement.device_indexes)


def _base_key(job_id: UUID) -> str:
    return f"{WORK_KIND}:{job_id}:base"
