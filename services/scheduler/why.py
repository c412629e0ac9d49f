"""The account of a job: what it waits for and what would end the waiting, from the same decision that places work."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from ltp.contracts.why import Reason, Why
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, JobState
from ltp.queue.limits import allowance
from ltp.queue.tables import work
from ltp.store.clock import now
from ltp.store.database import Unit
from services.scheduler import hosts, store
from services.scheduler.allocation import explain
from services.scheduler.jobs import work_key


async def explain_job(unit: Unit, job_id: UUID, silent_after: timedelta) -> Why:
    """Load what there is to know, and say why the job stands where it stands. Raises NOT_FOUND."""
    job = await store.read_job(unit, job_id)
    if job is None:
        message = f"The scheduler has not heard of job {job_id}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "If it was submitted this moment, ask again; else `ltp job list`.")
    turn, reasons = None, about_state(job, now())
    if reasons is None:
        turn, reasons = await _about_work(unit, job, silent_after)
    return Why(
        job_id=job_id,
        state=job.state,
        attempt=job.attempt,
        reasons=reasons,
        turn=turn,
        not_before=job.not_before,
        checkpoint_step=job.checkpoint_step,
        problem=job.problem,
    )


def about_state(job: store.Job, at: datetime) -> list[Reason] | None:
    """What the job's own row tells; None when it is its work that waits."""
    if JOB.is_over(job.state):
        message = f"the job is {job.state}"
        remedy = f"`ltp job retry {job.job_id}` tries again" if job.state is not JobState.SUCCEEDED else ""
        return [Reason(cause="over", message=message, remedy=remedy)]
    if job.state is JobState.PAUSED:
        where = "has no checkpoint and starts from step 0" if job.checkpoint_step is None else (
            f"goes on from the checkpoint of step {job.checkpoint_step}"
        )  # fmt: skip
        return [Reason(cause="paused", message=f"paused; it {where}", remedy=f"`ltp job resume {job.job_id}`")]
    if job.cancel_requested:
        return [Reason(cause="cancelling", message="its processes are being ended")]
    if job.pause_requested and job.state is JobState.RUNNING:
        return [Reason(cause="pausing", message="it finishes its step and saves a checkpoint")]
    if job.state is JobState.RUNNING:
        return [Reason(cause="running", message=f"attempt {job.attempt} runs")]
    if job.state in {JobState.SUBMITTED, JobState.PLANNED}:
        return [Reason(cause="planning", message="the planner looks for a configuration that fits")]
    if job.awaiting_plan:
        return [Reason(cause="replanning", message="an attempt ran out of memory; a smaller plan is being made")]
    if job.not_before is not None and job.not_before > at:
        seconds = (job.not_before - at).total_seconds()
        return [Reason(cause="backing_off", message=f"tried again in {seconds:.0f} s, after a failure")]
    return None


async def _about_work(unit: Unit, job: store.Job, silent_after: timedelta) -> tuple[int | None, list[Reason]]:
    query = select(work.c.id, work.c.placement).where(work.c.dedup_key == work_key(job.job_id, job.attempt))
    row = (await unit.execute(query)).one_or_none()
    if row is None or row.placement is not None:
        where = "" if row is None else f" on {row.placement['host_id']}"
        return None, [Reason(cause="starting", message=f"attempt {job.attempt} has its devices{where} and starts")]
    waiting = await hosts.waiting_work(unit)
    mine = next((i for i, other in enumerate(waiting) if other.work_id == row.id), None)
    if mine is None:
        return None, [Reason(cause="turn", message="more than 500 pieces of work wait before it")]
    refusal = (await allowance(unit)).refuses(waiting[mine])
    if refusal is not None:
        return mine + 1, [
            Reason(cause="limit", message=refusal, remedy="`ltp queue set` or `ltp queue quota` changes it")
        ]
    states = await hosts.host_states(unit, silent_after, lock=False)
    return mine + 1, explain(waiting[mine], waiting, states, now())
