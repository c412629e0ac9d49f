"""A job's moves from state to state: each in the transaction of its cause, guarded by the lifecycle, and said once."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select

from ltp.bus.delivery import NotYetError
from ltp.contracts.attempt import AttemptStopRequested
from ltp.contracts.job import (
    JobCancelled,
    JobFailed,
    JobOutgrown,
    JobPaused,
    JobPreempted,
    JobQueued,
    JobSucceeded,
)
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.core.lifecycle import JOB, JobState
from ltp.queue.policy import Queue
from ltp.queue.tables import work
from ltp.queue.work import enqueue, request_cancel
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.telemetry.spans import record
from services.scheduler import policy, store
from services.scheduler.store import Job


async def locked(unit: Unit, job_id: UUID) -> Job:
    """The job, its row held. An event may come before the one that makes its job known."""
    job = await store.read_job(unit, job_id, lock=True)
    if job is None:
        raise NotYetError(f"job {job_id} is not known yet")
    return job


def work_key(job_id: UUID, number: int) -> str:
    """The key of an attempt in the table of work."""
    return f"train:{job_id}:{number}"


async def queue_attempt(
    unit: Unit, job: Job, *, problem: Problem | None = None, delay: timedelta = timedelta(), **facts: Any
) -> None:
    """Put the next attempt of a job into the training queue, to be tried no earlier than after `delay`."""
    made = job.made
    if made is None:
        raise NotYetError(f"job {job.job_id} has no plan")
    number, attempt_id = job.attempt + 1, new_id()
    not_before = now() + delay if delay else None
    facts |= {"attempt": number, "attempt_id": attempt_id, "not_before": not_before}
    facts |= {"pause_requested": False, "awaiting_plan": False}
    # An attempt that ended may never have said that it started.
    await store.move(unit, job.job_id, JobState.RUNNING)
    if not await store.move(unit, job.job_id, JobState.QUEUED, **facts):
        raise NotYetError(f"job is {job.state}")
    payload = {
        "attempt_id": str(attempt_id),
        "run_id": str(job.run_id),
        "number": number,
        "made": made.model_dump(mode="json"),
        "resume_from": job.checkpoint_path,
    }
    avoid = facts.get("avoid", job.avoid)
    # A job that was paused, preempted or lost keeps the place its submission gave it.
    run_at, key = not_before or job.created_at, work_key(job.job_id, number)
    wants = _wants(job, avoid)
    options = job.options
    enqueue(
        unit,
        Queue.TRAINING,
        "train",
        payload,
        dedup_key=key,
        wants=wants,
        run_at=run_at,
        priority=options.priority,
        project=options.project,
        owner=options.owner,
        trace=job.trace,
    )
    event = JobQueued(
        job_id=job.job_id, attempt=number, problem=problem, resume_step=job.checkpoint_step, not_before=not_before
    )
    unit.emit(event, about=job.job_id)


def _wants(job: Job, avoid: list[str]) -> dict[str, Any]:
    assert job.made is not None
    plan, resources = job.made.plan, job.made.recipe.resources
    return {
        "count": plan.devices,
        "kind": plan.device_kind,
        "hosts": resources.hosts,
        "memory_bytes": plan.memory_upper_bytes,
        "labels": resources.labels,
        "avoid": avoid,
        "priority": job.options.priority,
        "preemptible": job.options.preemptible,
        "job_id": str(job.job_id),
    }


async def pause_now(unit: Unit, job: Job, problem: Problem | None = None, **facts: Any) -> None:
    """Bring a job that holds nothing to `paused`, keeping its checkpoint. `problem` is why its attempt ended, if for one."""
    await store.move(unit, job.job_id, JobState.QUEUED)
    if not await store.move(unit, job.job_id, JobState.PAUSED, pause_requested=False, **facts):
        raise NotYetError(f"job is {job.state}, not ready to be paused")
    event = JobPaused(job_id=job.job_id, attempt=job.attempt, step=job.checkpoint_step, problem=problem)
    unit.emit(event, about=job.job_id)


async def end(unit: Unit, job: Job, target: JobState, problem: Problem | None = None, steps: int = 0) -> None:
    """Bring a job to a final state and say so; a job that is over stays as it is."""
    if JOB.is_over(job.state):
        return
    evidence = {} if problem is None else {"problem": problem.model_dump()}
    if not await store.move(unit, job.job_id, target, **evidence):
        raise NotYetError(f"job is {job.state}, not ready to become {target}")
    _trace(job, target, problem)
    if target is JobState.SUCCEEDED:
        unit.emit(JobSucceeded(job_id=job.job_id, steps=steps), about=job.job_id)
    elif target is JobState.CANCELLED:
        unit.emit(JobCancelled(job_id=job.job_id), about=job.job_id)
    elif problem is not None:
        unit.emit(JobFailed(job_id=job.job_id, problem=problem), about=job.job_id)


def _trace(job: Job, target: JobState, problem: Problem | None) -> None:
    """The whole life of a job as one span of the trace in which it was submitted."""
    outcome = {JobState.SUCCEEDED: "success", JobState.CANCELLED: "cancellation"}.get(target, "failure")
    attributes: dict[str, str | int] = {
        "cicd.pipeline.run.id": str(job.job_id),
        "cicd.pipeline.result": outcome,
        "ltp.job.attempts": job.attempt,
    }
    if job.made is not None:
        attributes |= {"cicd.pipeline.name": job.made.recipe.name, "ltp.algorithm": job.made.recipe.algorithm}
    code = None if problem is None else problem.code
    record("job", job.created_at, now(), attributes, thing=job.job_id, parent=job.trace, error=code)


async def ask_to_pause(unit: Unit, job: Job) -> None:
    """Pause a job at once where it holds nothing; ask a running attempt to save and leave."""
    if JOB.is_over(job.state) or job.state is JobState.PAUSED:
        return
    await store.note(unit, job.job_id, pause_requested=True)
    if job.awaiting_plan or job.state in {JobState.SUBMITTED, JobState.PLANNED}:
        return  # Paused once there is a plan.
    if await request_cancel(unit, work_key(job.job_id, job.attempt), only_unstarted=True):
        await pause_now(unit, job)
        return
    await _ask_to_stop(unit, job, "paused")


async def preempt(unit: Unit, work_id: UUID, by_work_id: UUID) -> None:
    """Ask the job behind a piece of work to save and make room."""
    query = select(work.c.wants["job_id"].astext).where(work.c.id == work_id, work.c.kind == "train")
    job_id = (await unit.execute(query)).scalar_one_or_none()
    if job_id is None:
        return
    job = await locked(unit, UUID(job_id))
    if JOB.is_over(job.state) or job.run_id is None:
        return
    await _ask_to_stop(unit, job, "preempted")
    unit.emit(JobPreempted(job_id=job.job_id, attempt=job.attempt, by_work_id=by_work_id), about=job.job_id)


async def _ask_to_stop(unit: Unit, job: Job, reason: Any) -> None:
    assert job.run_id is not None
    event = AttemptStopRequested(job_id=job.job_id, run_id=job.run_id, number=job.attempt, reason=reason)
    unit.emit(event, about=job.job_id)


async def attempt_stopped(unit: Unit, job_id: UUID, problem: Problem | None = None) -> None:
    """An attempt ended because it was asked to: cancelled, paused, or waiting for its devices to come back.

    One that left by itself for a `problem` is paused: queued again, it would leave again.
    """
    job = await locked(unit, job_id)
    if JOB.is_over(job.state):
        return
    pause = job.pause_requested or problem is not None
    following = policy.after_stop(policy.Wishes(job.cancel_requested, pause))
    if problem is not None:
        await store.note(unit, job_id, problem=problem.model_dump())
    await _follow(unit, job, following, problem)


async def attempt_over(
    unit: Unit, job_id: UUID, problem: Problem, *, host_id: str | None = None, peak_bytes: int | None = None
) -> None:
    """An attempt ended by a failure, or was lost: tried again as its cause deserves, or the end of the job.

    `peak_bytes` is what it had reached on its fullest device, where that is known.
    """
    job = await locked(unit, job_id)
    if JOB.is_over(job.state):
        return
    failures = {**job.failures, problem.code: job.failures.get(problem.code, 0) + 1}
    await store.note(unit, job_id, failures=failures, problem=problem.model_dump())
    following = policy.after_failure(
        problem,
        failures[problem.code],
        sum(failures.values()),
        job.options.max_attempts,
        policy.Wishes(job.cancel_requested, job.pause_requested),
        secrets.randbelow(1000) / 1000,
    )
    avoid = [*job.avoid, host_id] if following.change == "host" and host_id is not None else job.avoid
    if following.change == "plan" and not JOB.is_over(following.state):
        await _outgrow(unit, job, problem, peak_bytes)
    else:
        await _follow(unit, job, following, problem, avoid=avoid)


async def _follow(unit: Unit, job: Job, following: policy.Next, problem: Problem | None, **facts: Any) -> None:
    """Do what the policy decided."""
    if following.state is JobState.QUEUED:
        await queue_attempt(unit, job, problem=problem, delay=following.delay, **facts)
    elif following.state is JobState.PAUSED:
        await store.move(unit, job.job_id, JobState.RUNNING)
        await pause_now(unit, job, problem, **facts)
    else:
        await end(unit, job, following.state, problem)


async def _outgrow(unit: Unit, job: Job, problem: Problem, peak_bytes: int | None) -> None:
    """Wait, queued, for a smaller plan."""
    await store.move(unit, job.job_id, JobState.RUNNING)
    if not await store.move(unit, job.job_id, JobState.QUEUED, awaiting_plan=True):
        raise NotYetError(f"job is {job.state}")
    _ask_for_plan(unit, job, problem, measured_peak_bytes=peak_bytes)


async def plan_for_room(unit: Unit, work_id: UUID, free_bytes: int) -> None:
    """Have a queued job planned anew for what other programs leave free; refused by the planner, it fails and says so."""
    query = select(work.c.wants["job_id"].astext).where(work.c.id == work_id, work.c.kind == "train")
    found = (await unit.execute(query)).scalar_one_or_none()
    if found is None:
        return
    job = await locked(unit, UUID(found))
    if job.made is None or job.awaiting_plan or job.state is not JobState.QUEUED:
        return
    if not await request_cancel(unit, work_key(job.job_id, job.attempt), only_unstarted=True):
        return
    need = job.made.plan.memory_upper_bytes
    message = (
        f"The plan needs {need / 2**30:.1f} GiB of each device, and other programs leave {free_bytes / 2**30:.1f} GiB."
    )
    problem = Problem(code=ErrorCode.PLAN_DOES_NOT_FIT, message=message, hint="End them, or wait for a smaller plan.")
    await store.note(unit, job.job_id, awaiting_plan=True)
    _ask_for_plan(unit, job, problem, free_bytes=free_bytes)


def _ask_for_plan(unit: Unit, job: Job, problem: Problem, **seen: int | None) -> None:
    made = job.made
    assert made is not None
    event = JobOutgrown(
        job_id=job.job_id,
        attempt=job.attempt,
        recipe=made.recipe,
        dataset=made.dataset,
        plan=made.plan,
        problem=problem,
        **seen,
    )
    unit.emit(event, about=job.job_id)
