"""What the scheduler hears, and what it says back: the life of a job from its plan to its end."""

from __future__ import annotations

from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.attempt import AttemptFailed, AttemptLost, AttemptStarted, AttemptStopped, AttemptSucceeded
from ltp.contracts.checkpoint import CheckpointWritten
from ltp.contracts.host import HostSeen
from ltp.contracts.job import (
    JobCancellationRequested,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobQueued,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)
from ltp.contracts.lease import LeaseGranted, LeaseReleased
from ltp.contracts.plan import PlanMade, PlanRefused
from ltp.contracts.values import Problem
from ltp.core.lifecycle import JOB, JobState
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue, request_cancel
from ltp.store.clock import new_id
from ltp.store.database import Unit
from services.scheduler import policy, store
from services.scheduler.pipelines.triggers import start_triggered
from services.scheduler.settings import SchedulerSettings

SERVICE = "scheduler"
router = NatsRouter()

for event in (JobPlanned, JobQueued, JobStarted, JobSucceeded, JobFailed, JobCancelled, LeaseGranted, LeaseReleased):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, JobSubmitted))
async def open_job(event: JobSubmitted, unit: InboxUnit) -> None:
    await store.open_job(unit, event.job_id)


@router.subscriber(**heard_by(SERVICE, PlanMade))
async def queue_planned(event: PlanMade, unit: InboxUnit) -> None:
    # The submission may still be on its way: the plan carries all that is needed.
    await store.open_job(unit, event.job_id)
    job = await _job(unit, event.job_id)
    if JOB.is_over(job.state):
        return  # Cancelled while it was planned.
    if not await store.move(unit, event.job_id, JobState.PLANNED, made=event.model_dump(mode="json"), run_id=new_id()):
        return
    unit.emit(JobPlanned(job_id=event.job_id, plan_id=event.plan_id), about=event.job_id)
    await _queue_attempt(unit, event.job_id)


@router.subscriber(**heard_by(SERVICE, PlanRefused))
async def fail_unplannable(event: PlanRefused, unit: InboxUnit) -> None:
    await store.open_job(unit, event.job_id)
    await _end(unit, event.job_id, JobState.FAILED, event.problem)


@router.subscriber(**heard_by(SERVICE, JobCancellationRequested))
async def cancel(event: JobCancellationRequested, unit: InboxUnit) -> None:
    job = await _job(unit, event.job_id)
    if JOB.is_over(job.state):
        return
    await store.note(unit, event.job_id, cancel_requested=True)
    unstarted = job.attempt == 0 or await request_cancel(unit, _work_key(event.job_id, job.attempt))
    if unstarted:
        await _end(unit, event.job_id, JobState.CANCELLED)


@router.subscriber(**heard_by(SERVICE, AttemptStarted))
async def start(event: AttemptStarted, unit: InboxUnit) -> None:
    job = await _job(unit, event.job_id)
    if job.attempt != event.number or JOB.is_over(job.state):
        return
    if not await store.move(unit, event.job_id, JobState.RUNNING):
        raise NotYetError(f"job is {job.state}")
    started = JobStarted(job_id=event.job_id, run_id=event.run_id, attempt_id=event.attempt_id, attempt=event.number)
    unit.emit(started, about=event.job_id)


@router.subscriber(**heard_by(SERVICE, AttemptSucceeded))
async def succeed(event: AttemptSucceeded, unit: InboxUnit) -> None:
    await _job(unit, event.job_id)
    await _end(unit, event.job_id, JobState.SUCCEEDED, steps=event.steps)


@router.subscriber(**heard_by(SERVICE, AttemptFailed))
async def fail(event: AttemptFailed, unit: InboxUnit) -> None:
    job = await _job(unit, event.job_id)
    target = JobState.CANCELLED if job.cancel_requested else JobState.FAILED
    await _end(unit, event.job_id, target, event.problem)


@router.subscriber(**heard_by(SERVICE, AttemptStopped))
async def stop(event: AttemptStopped, unit: InboxUnit) -> None:
    job = await _job(unit, event.job_id)
    await _continue_or_end(unit, job, policy.after_stop(job.cancel_requested), None)


@router.subscriber(**heard_by(SERVICE, AttemptLost))
async def retry_lost(event: AttemptLost, unit: InboxUnit, settings: SchedulerSettings = Context("settings")) -> None:
    job = await _job(unit, event.job_id)
    target = policy.after_loss(job.attempt, settings.scheduler_max_attempts, job.cancel_requested)
    await _continue_or_end(unit, job, target, event.problem)


@router.subscriber(**heard_by(SERVICE, CheckpointWritten))
async def note_checkpoint(event: CheckpointWritten, unit: InboxUnit) -> None:
    await _job(unit, event.job_id)
    await store.note(unit, event.job_id, checkpoint_path=event.path)
    await start_triggered(unit, event)


@router.subscriber(**heard_by(SERVICE, HostSeen))
async def see_host(event: HostSeen, unit: InboxUnit) -> None:
    await store.see_host(unit, event)


async def _job(unit: Unit, job_id: UUID) -> store.Job:
    job = await store.lock_job(unit, job_id)
    if job is None:
        raise NotYetError(f"job {job_id} is not known yet")
    return job


async def _queue_attempt(unit: Unit, job_id: UUID) -> None:
    """Put the next attempt of a job into the training queue."""
    job = await _job(unit, job_id)
    if job.made is None or not await store.move(unit, job_id, JobState.QUEUED, attempt=job.attempt + 1):
        raise NotYetError(f"job is {job.state}")
    number = job.attempt + 1
    payload = {
        "attempt_id": str(new_id()),
        "run_id": str(job.run_id),
        "number": number,
        "made": job.made.model_dump(mode="json"),
        "resume_from": job.checkpoint_path,
    }
    wants = {"count": job.made.plan.devices, "kind": job.made.plan.device_kind}
    await enqueue(unit, Queue.TRAINING, "train", payload, dedup_key=_work_key(job_id, number), wants=wants)
    unit.emit(JobQueued(job_id=job_id, attempt=number), about=job_id)


async def _continue_or_end(unit: Unit, job: store.Job, target: JobState, problem: Problem | None) -> None:
    if JOB.is_over(job.state):
        return
    if target is JobState.QUEUED:
        # A lost attempt may never have said that it started.
        await store.move(unit, job.job_id, JobState.RUNNING)
        await _queue_attempt(unit, job.job_id)
    else:
        await _end(unit, job.job_id, target, problem)


async def _end(unit: Unit, job_id: UUID, target: JobState, problem: Problem | None = None, steps: int = 0) -> None:
    """Bring a job to a final state and say so; a job that is over stays as it is."""
    job = await _job(unit, job_id)
    if JOB.is_over(job.state):
        return
    evidence = None if problem is None else problem.model_dump()
    if not await store.move(unit, job_id, target, problem=evidence):
        raise NotYetError(f"job is {job.state}, not ready to become {target}")
    if target is JobState.SUCCEEDED:
        unit.emit(JobSucceeded(job_id=job_id, steps=steps), about=job_id)
    elif target is JobState.CANCELLED:
        unit.emit(JobCancelled(job_id=job_id), about=job_id)
    elif problem is not None:
        unit.emit(JobFailed(job_id=job_id, problem=problem), about=job_id)


def _work_key(job_id: UUID, number: int) -> str:
    return f"train:{job_id}:{number}"
