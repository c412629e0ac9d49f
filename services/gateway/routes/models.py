"""The shapes of the API's answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ltp.contracts.dataset import DatasetVersion, Split
from ltp.contracts.job import MOST_ATTEMPTS, JobOptions
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Name, Plan, Problem
from ltp.core.lifecycle import JobState


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="ignore")


class Job(_Answer):
    """A training job."""

    job_id: UUID
    name: str
    state: JobState
    recipe: Recipe
    recipe_hash: str
    dataset: DatasetVersion
    plan: Plan | None
    run_id: UUID | None
    problem: Problem | None
    options: JobOptions
    # What was asked of it and is not done yet: pause, resume, cancel.
    requested: str | None
    attempt: int
    # The step of its newest checkpoint: where a resume goes on from.
    checkpoint_step: int | None
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    # Said once, in the answer to a submission: what leak checks found in its dataset.
    warnings: list[str] = []


class SubmitOptions(BaseModel):
    """How a job is run, beside what it trains; see `JobOptions`."""

    model_config = ConfigDict(extra="forbid")

    project: Name = "default"
    owner: Name = "default"
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    preemptible: bool = False
    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] = 3
    start: bool = True
    # Refuse a dataset in which a leak check found something; else that is a warning.
    refuse_leaks: bool = False


class JobPage(BaseModel):
    """Jobs, newest first. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    jobs: list[Job]
    next_cursor: str | None


class Dataset(_Answer):
    """A dataset: `uploaded` while it is read, then `frozen` with a version, or `rejected` with a problem."""

    dataset_id: UUID
    name: str
    state: str
    version: str | None
    filename: str | None
    size_bytes: int | None
    rows: int | None
    duplicates: int | None
    format: str | None
    splits: dict[str, Split] | None
    problem: Problem | None
    created_at: datetime


class StepLine(BaseModel):
    """The metrics of one logged line. `seq` orders them and is what `after` and Last-Event-ID take.

    A value that is not a number stands as the string "NaN": left out, a diverged loss would look like one not logged.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    seq: int
    attempt: int
    step: int
    at: datetime
    metrics: dict[str, float]


class EventLine(BaseModel):
    """A fact. `seq` orders them as the gateway heard them."""

    seq: int
    event_id: UUID
    subject: str
    job_id: UUID | None
    about: str | None
    cause: UUID | None
    at: datetime
    data: dict[str, Any]
    project: str | None = None
    actor: str | None = None
