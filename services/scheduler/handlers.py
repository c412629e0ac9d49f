"""What the scheduler hears, and what it says back: the life of a job from its plan to its end."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.attempt import (
    AttemptFailed,
    AttemptLost,
    AttemptStarted,
    AttemptStopped,
    AttemptStopRequested,
    AttemptSucceeded,
)
from ltp.contracts.checkpoint import CheckpointWritten
from ltp.contracts.host import (
    HostCordoned,
    HostGivenUp,
    HostLabelled,
    HostList,
    HostLost,
    HostSeen,
    HostsRequest,
    HostUncordoned,
)
from ltp.contracts.host_access import HostRegistered, HostRemoved
from ltp.contracts.job import (
    JobCancellationRequested,
    JobCancelled,
    JobFailed,
    JobOutgrown,
    JobPaused,
    JobPauseRequested,
    JobPlanned,
    JobPreempted,
    JobQueued,
    JobResumeRequested,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)
from ltp.contracts.lease import LeaseGranted, LeaseReleased
from ltp.contracts.plan import PlanMade, PlanRefused
from ltp.contracts.why import Why, WhyRequest
from ltp.core.lifecycle import JOB, JobState
from ltp.queue.work import request_cancel
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.scheduler import hosts, jobs, store
from services.scheduler.pipelines.triggers import start_triggered
from services.scheduler.placement import lose_host
from services.scheduler.settings import SchedulerSettings
from services.scheduler.why import explain_job

SERVICE = "scheduler"
router = NatsRouter()

for event in (
    JobPlanned,
    JobQueued,
    JobStarted,
    JobPaused,
    JobPreempted,
    JobOutgrown,
    JobSucceeded,
    JobFailed,
    JobCancelled,
    AttemptStopRequested,
    LeaseGranted,
    LeaseReleased,
    HostLost,
):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, JobSubmitted))
async def open_job(event: JobSubmitted, unit: InboxUnit) -> None:
    await store.open_job(unit, event)


@router.subscriber(**heard_by(SERVICE, PlanMade))
async def take_plan(event: PlanMade, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if JOB.is_over(job.state):
        return  # Cancelled while it was planned.
    made = event.model_dump(mode="json")
    if event.after_attempt is not None:
        if job.awaiting_plan and event.after_attempt == job.attempt:
            await store.note(unit, event.job_id, made=made, awaiting_plan=False)
            await _queue_or_hold(unit, await jobs.locked(unit, event.job_id))
        return
    if await store.move(unit, event.job_id, JobState.PLANNED, made=made, run_id=new_id()):
        unit.emit(JobPlanned(job_id=event.job_id, plan_id=event.plan_id), about=event.job_id)
        await _queue_or_hold(unit, await jobs.locked(unit, event.job_id))


@router.subscriber(**heard_by(SERVICE, PlanRefused))
async def fail_unplannable(event: PlanRefused, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if event.after_attempt is None or (job.awaiting_plan and event.after_attempt == job.attempt):
        await jobs.end(unit, job, JobState.FAILED, event.problem)


@router.subscriber(**heard_by(SERVICE, JobPauseRequested))
async def pause(event: JobPauseRequested, unit: InboxUnit) -> None:
    await jobs.ask_to_pause(unit, await jobs.locked(unit, event.job_id))


@router.subscriber(**heard_by(SERVICE, JobResumeRequested))
async def resume(event: JobResumeRequested, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if job.state is JobState.PAUSED:
        await jobs.queue_attempt(unit, job)
    elif not JOB.is_over(job.state):
        # A pause on its way is taken back: the attempt may leave, but the job queues again by itself.
        await store.note(unit, event.job_id, pause_requested=False)


@router.subscriber(**heard_by(SERVICE, JobCancellationRequested))
async def cancel(event: JobCancellationRequested, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if JOB.is_over(job.state):
        return
    await store.note(unit, event.job_id, cancel_requested=True)
    idle = job.attempt == 0 or job.awaiting_plan or job.state is JobState.PAUSED
    if idle or await request_cancel(unit, jobs.work_key(event.job_id, job.attempt)):
        await jobs.end(unit, job, JobState.CANCELLED)


@router.subscriber(**heard_by(SERVICE, AttemptStarted))
async def start(event: AttemptStarted, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if job.attempt_id != event.attempt_id or JOB.is_over(job.state):
        return
    if not await store.move(unit, event.job_id, JobState.RUNNING):
        raise NotYetError(f"job is {job.state}")
    started = JobStarted(job_id=event.job_id, run_id=event.run_id, attempt_id=event.attempt_id, attempt=event.number)
    unit.emit(started, about=event.job_id)


@router.subscriber(**heard_by(SERVICE, AttemptSucceeded))
async def succeed(event: AttemptSucceeded, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if job.attempt_id == event.attempt_id:
        await jobs.end(unit, job, JobState.SUCCEEDED, steps=event.steps)


@router.subscriber(**heard_by(SERVICE, AttemptFailed))
async def retry_or_fail(event: AttemptFailed, unit: InboxUnit) -> None:
    if await _is_newest(unit, event):
        peak = None if event.measured is None else event.measured.allocated_bytes
        await jobs.attempt_over(unit, event.job_id, event.problem, host_id=event.host_id, peak_bytes=peak)


@router.subscriber(**heard_by(SERVICE, AttemptStopped))
async def go_on_after_stop(event: AttemptStopped, unit: InboxUnit) -> None:
    if await _is_newest(unit, event):
        await jobs.attempt_stopped(unit, event.job_id, event.problem)


@router.subscriber(**heard_by(SERVICE, AttemptLost))
async def retry_lost(event: AttemptLost, unit: InboxUnit) -> None:
    if await _is_newest(unit, event):
        await jobs.attempt_over(unit, event.job_id, event.problem, host_id=event.host_id)


@router.subscriber(**heard_by(SERVICE, CheckpointWritten))
async def note_checkpoint(event: CheckpointWritten, unit: InboxUnit) -> None:
    job = await jobs.locked(unit, event.job_id)
    if job.checkpoint_step is None or event.step >= job.checkpoint_step:
        await store.note(unit, event.job_id, checkpoint_path=event.path, checkpoint_step=event.step)
    await start_triggered(unit, event)


@router.subscriber(**heard_by(SERVICE, HostSeen))
async def see_host(event: HostSeen, unit: InboxUnit) -> None:
    await hosts.see_host(unit, event)


@router.subscriber(**heard_by(SERVICE, HostRegistered))
async def register_host(event: HostRegistered, unit: InboxUnit) -> None:
    await hosts.register_host(unit, event.host_id, dict(event.labels))


@router.subscriber(**heard_by(SERVICE, HostRemoved))
async def remove_host(event: HostRemoved, unit: InboxUnit) -> None:
    await hosts.remove_host(unit, event.host_id)


@router.subscriber(**heard_by(SERVICE, HostLabelled))
async def label_host(event: HostLabelled, unit: InboxUnit) -> None:
    await hosts.note_host(unit, event.host_id, labels=dict(event.labels))


@router.subscriber(**heard_by(SERVICE, HostCordoned))
async def cordon_host(event: HostCordoned, unit: InboxUnit) -> None:
    await hosts.note_host(unit, event.host_id, cordoned=True)


@router.subscriber(**heard_by(SERVICE, HostUncordoned))
async def uncordon_host(event: HostUncordoned, unit: InboxUnit) -> None:
    await hosts.note_host(unit, event.host_id, cordoned=False)


@router.subscriber(**heard_by(SERVICE, HostGivenUp))
async def give_up_host(event: HostGivenUp, unit: InboxUnit) -> None:
    await lose_host(unit, event.host_id)


@router.subscriber(**answered_by(SERVICE, "why"))
@replies
async def why(
    request: WhyRequest, database: Annotated[Database, Context()], settings: Annotated[SchedulerSettings, Context()]
) -> Why:
    async with database.unit() as unit:
        return await explain_job(unit, request.job_id, timedelta(seconds=settings.scheduler_host_silent_seconds))


@router.subscriber(**answered_by(SERVICE, "hosts"))
@replies
async def list_hosts(
    request: HostsRequest, database: Annotated[Database, Context()], settings: Annotated[SchedulerSettings, Context()]
) -> HostList:
    async with database.unit() as unit:
        silent_after = timedelta(seconds=settings.scheduler_host_silent_seconds)
        return HostList(hosts=await hosts.views(unit, silent_after, request.host_id))


async def _is_newest(unit: InboxUnit, event: AttemptFailed | AttemptStopped | AttemptLost) -> bool:
    """News of an attempt that was replaced comes too late to matter."""
    return (await jobs.locked(unit, event.job_id)).attempt_id == event.attempt_id


async def _queue_or_hold(unit: InboxUnit, job: store.Job) -> None:
    """Queue a job that has a plan, unless it was to be paused first."""
    if job.pause_requested:
        await jobs.pause_now(unit, job)
    else:
        await jobs.queue_attempt(unit, job)
