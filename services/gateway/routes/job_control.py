"""What is done to jobs: pause, resume, cancel, retry, clone; and why a job stands where it stands."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltp.bus.rpc import ask
from ltp.contracts.event import Event
from ltp.contracts.faults import faults_of
from ltp.contracts.job import JobCancellationRequested, JobOptions, JobPauseRequested, JobResumeRequested
from ltp.contracts.recipe import Recipe
from ltp.contracts.why import Why, WhyRequest
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, JobState
from ltp.service.runtime import Runtime
from services.gateway import store
from services.gateway.access import Serving
from services.gateway.admission import admit, resolve, submit
from services.gateway.routes.jobs import show_job
from services.gateway.routes.models import Job

router = APIRouter(tags=["jobs"])

DryRun = Annotated[bool, Query(description="Say what would happen, and change nothing.")]


class JobAnswer(Job):
    """The job after a request about it, and in words what the request does."""

    message: str


class Retry(BaseModel):
    """How a job that is over is tried again."""

    model_config = ConfigDict(extra="forbid")

    # False starts from step 0.
    resume: bool = True


class Clone(BaseModel):
    """What differs in the copy: `{"training.steps": 20, "name": "longer"}`."""

    model_config = ConfigDict(extra="forbid")

    changes: dict[str, Any] = Field(default_factory=dict[str, Any], max_length=100)


@router.post("/jobs/{job_id}/pause", status_code=202)
async def pause_job(job_id: UUID, runtime: Serving, dry_run: DryRun = False) -> JobAnswer:
    """Ask that a job save a checkpoint, give its devices up and keep its place. One that waits is paused at once."""
    job = await show_job(job_id, runtime.database.engine)
    _refuse_when_over(job, "pause")
    if job.state is JobState.PAUSED:
        return _answer(job, "The job is paused already; nothing was done.")
    waits = job.state in {JobState.SUBMITTED, JobState.PLANNED, JobState.QUEUED}
    manner = "It holds no devices and is paused at once." if waits else "It finishes its step, saves and leaves."
    return await _request(runtime, job, "pause", JobPauseRequested(job_id=job_id), manner, dry_run)


@router.post("/jobs/{job_id}/resume", status_code=202)
async def resume_job(job_id: UUID, runtime: Serving, dry_run: DryRun = False) -> JobAnswer:
    """Queue a paused job again, from its last checkpoint; or start one that was created without a start."""
    job = await show_job(job_id, runtime.database.engine)
    _refuse_when_over(job, "resume")
    if job.state is not JobState.PAUSED and job.requested != "pause":
        return _answer(job, f"The job is {job.state} and was not paused; nothing was done.")
    step = job.checkpoint_step
    where = "It has no checkpoint: it starts from step 0." if step is None else f"It goes on after step {step}."
    return await _request(runtime, job, "resume", JobResumeRequested(job_id=job_id), where, dry_run)


@router.post("/jobs/{job_id}/cancel", status_code=202)
async def cancel_job(job_id: UUID, runtime: Serving, dry_run: DryRun = False) -> JobAnswer:
    """Ask that a job end. It is `cancelled` once its processes are gone and its devices free."""
    job = await show_job(job_id, runtime.database.engine)
    _refuse_when_over(job, "cancel")
    if job.requested == "cancel":
        return _answer(job, "Its cancellation was requested before; nothing was done.")
    event = JobCancellationRequested(job_id=job_id)
    return await _request(runtime, job, "cancel", event, "Its processes are ended.", dry_run)


@router.post("/jobs/{job_id}/retry", status_code=202)
async def retry_job(
    job_id: UUID, runtime: Serving, response: Response, how: Annotated[Retry, Body()] = Retry(), dry_run: DryRun = False
) -> JobAnswer:
    """Submit the recipe of a failed or cancelled job as a new job, which goes on from the old one's last checkpoint."""
    job = await show_job(job_id, runtime.database.engine)
    if not JOB.is_over(job.state):
        raise LtpError(ErrorCode.CONFLICT, f"Job {job_id} is {job.state}, not over.", "Cancel it first, or wait.")
    if job.state is JobState.SUCCEEDED:
        hint = "`ltp job clone JOB --set training.steps=…` makes a new one."
        raise LtpError(ErrorCode.CONFLICT, f"Job {job_id} succeeded; there is nothing to retry.", hint)
    return await _again(runtime, response, job, job.recipe, resume=how.resume, dry_run=dry_run)


@router.post("/jobs/{job_id}/clone", status_code=202)
async def clone_job(
    job_id: UUID, runtime: Serving, response: Response, how: Annotated[Clone, Body()] = Clone(), dry_run: DryRun = False
) -> JobAnswer:
    """Submit a job's recipe, with changes, as a new job that starts from step 0."""
    job = await show_job(job_id, runtime.database.engine)
    return await _again(runtime, response, job, changed(job.recipe, how.changes), resume=False, dry_run=dry_run)


@router.get("/jobs/{job_id}/why")
async def why(job_id: UUID, runtime: Serving) -> Why:
    """What the job waits for and what would free it, from the same decision that gives devices away."""
    await show_job(job_id, runtime.database.engine)
    return await ask(runtime.client, "scheduler", "why", WhyRequest(job_id=job_id), Why)


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with values set by dotted names. Raises INVALID_RECIPE naming the first that cannot be."""
    settings = recipe.settings()
    for dotted, value in changes.items():
        *sections, last = dotted.split(".")
        place: Any = settings
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            message = f"{dotted}: the recipe has no section {'.'.join(sections)}."
            raise LtpError(ErrorCode.INVALID_RECIPE, message, "docs/recipes.md names them all.")
        place[last] = value
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        faults = faults_of(error)
        raise LtpError(ErrorCode.INVALID_RECIPE, faults, "docs/recipes.md names all keys.") from error


async def _again(
    runtime: Runtime, response: Response, job: Job, recipe: Recipe, *, resume: bool, dry_run: bool
) -> JobAnswer:
    if dry_run:
        resolved, dataset = await resolve(runtime, recipe)
        await admit(runtime, resolved, dataset)
        return _answer(job.model_copy(update={"recipe": resolved}), "A new job with this recipe would be submitted.")
    options = JobOptions.model_validate(
        {**job.options.model_dump(), "start": True, "parent_job_id": job.job_id, "resume": resume}
    )
    job_id = await submit(runtime, recipe, options)
    response.headers["Location"] = f"/api/v1/jobs/{job_id}"
    step = job.checkpoint_step if resume else None
    where = "from step 0" if step is None else f"on from the checkpoint of step {step}"
    return _answer(await show_job(job_id, runtime.database.engine), f"Submitted as a new job, which goes {where}.")


async def _request(runtime: Runtime, job: Job, wish: str, event: Event, message: str, dry_run: bool) -> JobAnswer:
    if dry_run:
        return _answer(job, f"Nothing was done. {message}")
    async with runtime.database.unit() as unit:
        await store.request(unit, job.job_id, wish)
        unit.emit(event, about=job.job_id)
    return _answer(job.model_copy(update={"requested": wish}), message)


def _answer(job: Job, message: str) -> JobAnswer:
    return JobAnswer(**dict(job), message=message)


def _refuse_when_over(job: Job, verb: str) -> None:
    if JOB.is_over(job.state):
        hint = f"`ltp job retry {job.job_id}` or `ltp job clone {job.job_id}` makes a new job of it."
        raise LtpError(ErrorCode.CONFLICT, f"Job {job.job_id} is {job.state}; there is nothing to {verb}.", hint)
