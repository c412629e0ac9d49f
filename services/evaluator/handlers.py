"""What the evaluator hears, and what it says back: scores before and after training, and the verdict between them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.checkpoint import CheckpointExported
from ltp.contracts.evaluation import ComparisonCompleted, EvaluationCompleted, EvaluationFailed
from ltp.contracts.job import JobCancelled, JobFailed
from ltp.contracts.plan import PlanMade
from ltp.contracts.questions import SamplePair, SamplePairs, SamplesRequest
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue, request_cancel
from ltp.store.database import Database, Unit
from services.evaluator import store
from services.evaluator.evaluation import EvaluationWork

SERVICE = "evaluator"
router = NatsRouter()

for event in (EvaluationCompleted, EvaluationFailed, ComparisonCompleted):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, PlanMade))
async def queue_base(event: PlanMade, unit: InboxUnit) -> None:
    await store.open_job(unit, event)
    await _queue(unit, event, "base", event.recipe.model.path, None)


@router.subscriber(**heard_by(SERVICE, CheckpointExported))
async def queue_trained(event: CheckpointExported, unit: InboxUnit) -> None:
    if not event.is_final:
        return
    made = await store.job(unit, event.job_id)
    if made is None:
        raise NotYetError(f"the plan of job {event.job_id} is not known yet")
    await _queue(unit, made, "trained", event.path, event.checkpoint_id)


@router.subscriber(**heard_by(SERVICE, JobFailed))
async def drop_failed(event: JobFailed, unit: InboxUnit) -> None:
    await request_cancel(unit, _key(event.job_id, "base"))


@router.subscriber(**heard_by(SERVICE, JobCancelled))
async def drop_cancelled(event: JobCancelled, unit: InboxUnit) -> None:
    await request_cancel(unit, _key(event.job_id, "base"))


@router.subscriber(**answered_by(SERVICE, "samples"))
@replies
async def read_samples(request: SamplesRequest, database: Annotated[Database, Context("database")]) -> SamplePairs:
    rows = await store.pairs(database.engine, request.job_id)
    # What changed is what one wants to see first.
    order = {"regressed": 0, "improved": 1, "unchanged": 2}
    wanted = [SamplePair.model_validate(r) for r in rows if request.change in (None, r["change"])]
    wanted.sort(key=lambda pair: (order[pair.change], pair.row_id))
    return SamplePairs(total=len(wanted), samples=wanted[request.offset : request.offset + request.limit])


async def _queue(
    unit: Unit, made: PlanMade, kind: store.SubjectKind, model_path: str, checkpoint_id: UUID | None
) -> None:
    if made.recipe.evaluation is None:
        return
    evaluation_id = await store.open_evaluation(unit, made.job_id, kind, model_path)
    work = EvaluationWork(
        evaluation_id=evaluation_id,
        job_id=made.job_id,
        subject_kind=kind,
        model_path=model_path,
        checkpoint_id=checkpoint_id,
        spec=made.recipe.evaluation,
        split=made.dataset.splits[made.recipe.evaluation.split],
    )
    # A model is served on a device of the kind the job trains on, under a lease as any other work.
    wants = {"count": 1, "kind": made.plan.device_kind}
    key = _key(made.job_id, kind)
    await enqueue(unit, Queue.EVALUATION, "evaluate", work.model_dump(mode="json"), dedup_key=key, wants=wants)


def _key(job_id: UUID, kind: store.SubjectKind) -> str:
    return f"evaluate:{job_id}:{kind}"
