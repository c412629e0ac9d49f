"""What happens to a job: a user's request to realise a recipe."""

from __future__ import annotations

from uuid import UUID

from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Event
from ltp.contracts.recipe import Recipe, RecipeHash
from ltp.contracts.values import Problem


class JobSubmitted(Event, subject="ltp.job.v1.submitted", speaker="gateway"):
    """A user asked for a training job and the recipe was accepted at the door."""

    job_id: UUID
    recipe: Recipe
    recipe_hash: RecipeHash
    dataset: DatasetVersion


class JobCancellationRequested(Event, subject="ltp.job.v1.cancellation-requested", speaker="gateway"):
    """A user asked that a job end, whatever its state."""

    job_id: UUID


class JobPlanned(Event, subject="ltp.job.v1.planned", speaker="scheduler"):
    """A plan that fits was attached to the job."""

    job_id: UUID
    plan_id: UUID


class JobQueued(Event, subject="ltp.job.v1.queued", speaker="scheduler"):
    """The job waits for devices: for the first time, or again after a lost attempt (`attempt` > 1)."""

    job_id: UUID
    attempt: int


class JobStarted(Event, subject="ltp.job.v1.started", speaker="scheduler"):
    """The first step of an attempt is under way: the job runs."""

    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    attempt: int


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
