"""What happens to a job: a user's request to realise a recipe."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field

from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Event, Value
from ltp.contracts.recipe import Recipe, RecipeHash
from ltp.contracts.values import Name, Plan, Problem

MOST_ATTEMPTS = 100


class JobOptions(Value):
    """How a job is run, beside what it trains: none of it changes the result, so none of it is in the recipe's hash."""

    project: Name = "default"
    owner: Name = "default"
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    # A job of higher priority may pause this one: it saves a checkpoint, gives its devices up and keeps its place.
    preemptible: bool = False
    # Attempts that may end in a failure before the job does; each kind of failure has its own rules beside this limit.
    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] = 3
    # False: planned and checked, then paused until it is started.
    start: bool = True
    # The job this one is a retry or a clone of; `resume` goes on from that job's last checkpoint.
    parent_job_id: UUID | None = None
    resume: bool = False


class JobSubmitted(Event, subject="ltp.job.v1.submitted", speaker="gateway"):
    """A user asked for a training job and the recipe was accepted at the door."""

    job_id: UUID
    recipe: Recipe
    recipe_hash: RecipeHash
    dataset: DatasetVersion
    options: JobOptions = JobOptions()


class JobPauseRequested(Event, subject="ltp.job.v1.pause-requested", speaker="gateway"):
    """A user asked that a job stop at its next step, save, and give its devices up."""

    job_id: UUID


class JobResumeRequested(Event, subject="ltp.job.v1.resume-requested", speaker="gateway"):
    """A user asked that a paused job go on, or that one created without a start be started."""

    job_id: UUID


class JobCancellationRequested(Event, subject="ltp.job.v1.cancellation-requested", speaker="gateway"):
    """A user asked that a job end, whatever its state."""

    job_id: UUID


class JobPlanned(Event, subject="ltp.job.v1.planned", speaker="scheduler"):
    """A plan that fits was attached to the job."""

    job_id: UUID
    plan_id: UUID


class JobQueued(Event, subject="ltp.job.v1.queued", speaker="scheduler"):
    """The job waits for devices: for the first time, or again (`attempt` > 1) after a pause or a failed attempt."""

    job_id: UUID
    attempt: int
    # Why there is another attempt, the step it goes on from, and the instant before which it is not tried.
    problem: Problem | None = None
    resume_step: int | None = None
    not_before: datetime | None = None


class JobStarted(Event, subject="ltp.job.v1.started", speaker="scheduler"):
    """The first step of an attempt is under way: the job runs."""

    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    attempt: int


class JobPaused(Event, subject="ltp.job.v1.paused", speaker="scheduler"):
    """The job holds no devices and waits to be resumed. `step` is that of its last checkpoint, null when it has none."""

    job_id: UUID
    attempt: int
    step: int | None = None
    # Why its attempt ended, where that was not for the pause alone: what must be mended before it is resumed.
    problem: Problem | None = None


class JobPreempted(Event, subject="ltp.job.v1.preempted", speaker="scheduler"):
    """The job was asked to save and give its devices to one of higher priority; it goes on when devices are free again."""

    job_id: UUID
    attempt: int
    by_work_id: UUID


class JobOutgrown(Event, subject="ltp.job.v1.outgrown", speaker="scheduler"):
    """An attempt ran out of memory, or other programs hold what a waiting one needs: the planner is to find a smaller plan."""

    job_id: UUID
    attempt: int
    recipe: Recipe
    dataset: DatasetVersion
    plan: Plan
    problem: Problem
    # What it reached on its fullest device before it ended, where its metrics told.
    measured_peak_bytes: int | None = None
    # What other programs leave free of each device it could have; null where it ran.
    free_bytes: int | None = None


class JobSucceeded(Event, subject="ltp.job.v1.succeeded", speaker="scheduler"):
    """All steps were trained and the last checkpoint is complete."""

    job_id: UUID
    steps: int


class JobFailed(Event, subject="ltp.job.v1.failed", speaker="scheduler"):
    """The job ended without its result; `problem` says why and what to do."""

    job_id: UUID
    problem: Problem


class JobCancelled(Event, subject="ltp.job.v1.cancelled", speaker="scheduler"):
    """The job ended because a user asked for it."""

    job_id: UUID
