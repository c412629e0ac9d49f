"""Schedules: what is done when, what happens at each tick, and the questions about it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.pipeline import PipelineSpec
from ltp.contracts.recipe import Recipe
from ltp.contracts.stages import Settings
from ltp.contracts.values import Name, Problem

_YEAR_SECONDS = 366 * 86_400.0
Overlap = Literal["skip", "allow", "queue-one"]
CatchUp = Literal["none", "last", "all"]
Task = Literal["work-retention", "telemetry-retention", "bus-retention", "orphan-sweep", "host-probe"]
TickState = Literal["waiting", "running", "succeeded", "failed", "cancelled", "skipped", "missed"]
ScheduleState = Literal["active", "paused"]
Change = Literal["pause", "resume", "delete", "run-now"]
CronText = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9*,/#\- \t]+$")]


class PipelineAction(Settings):
    """Run a pipeline."""

    kind: Literal["pipeline"] = "pipeline"
    pipeline: PipelineSpec

    @model_validator(mode="after")
    def _needs_no_trigger(self) -> PipelineAction:
        if self.pipeline.triggers:
            raise ValueError("a scheduled pipeline has no `triggers`; arm it with `ltp pipeline submit` instead")
        return self


class JobAction(Settings):
    """Submit a training job."""

    kind: Literal["job"] = "job"
    recipe: Recipe


class MaintenanceAction(Settings):
    """One of the platform's own chores."""

    kind: Literal["maintenance"] = "maintenance"
    task: Task
    settings: dict[str, float] = Field(default_factory=dict[str, float])


Action = Annotated[PipelineAction | JobAction | MaintenanceAction, Field(discriminator="kind")]


class ScheduleSpec(Settings):
    """When, what, and what happens when ticks meet or were missed."""

    name: Name
    cron: CronText | None = Field(default=None, description="Five fields, or six with seconds in front.")
    every_seconds: float | None = Field(default=None, ge=1, le=_YEAR_SECONDS, allow_inf_nan=False)
    timezone: str = Field(default="UTC", min_length=1, max_length=64, description="Of the cron expression (IANA).")
    jitter_seconds: float = Field(default=0, ge=0, le=3600, allow_inf_nan=False)
    overlap: Overlap = "skip"
    catch_up: CatchUp = "last"
    catch_up_limit: int = Field(default=10, ge=1, le=100, description="Of catch_up all: the newest so many.")
    paused: bool = False
    action: Action

    @model_validator(mode="after")
    def _one_rhythm(self) -> ScheduleSpec:
        if (self.cron is None) == (self.every_seconds is None):
            raise ValueError("give exactly one of cron and every_seconds")
        if self.every_seconds is not None and self.jitter_seconds > self.every_seconds:
            raise ValueError("jitter_seconds is longer than every_seconds, so that ticks would overtake each other")
        if self.every_seconds is not None and self.timezone != "UTC":
            raise ValueError("timezone belongs to cron; an interval is the same length everywhere")
        return self


class ScheduleSubmitted(Event, subject="ltp.schedule.v1.submitted", speaker="gateway"):
    """A user's schedule was accepted at the door."""

    schedule_id: UUID
    spec: ScheduleSpec
    submitted_at: datetime


class ScheduleChangeRequested(Event, subject="ltp.schedule.v1.change-requested", speaker="gateway"):
    """A user asked that a schedule pause, resume, be deleted, or fire now."""

    change_id: UUID
    schedule_id: UUID
    change: Change
    requested_at: datetime


class ScheduleCreated(Event, subject="ltp.schedule.v1.created", speaker="scheduler"):
    """The schedule ticks from now on."""

    schedule_id: UUID
    name: Name
    next_at: datetime


class ScheduleChanged(Event, subject="ltp.schedule.v1.changed", speaker="scheduler"):
    """The schedule was paused, resumed or deleted."""

    schedule_id: UUID
    name: Name
    change: Change


class ScheduleFired(Event, subject="ltp.schedule.v1.fired", speaker="scheduler"):
    """A tick's action was started. `noun_id` is the id of the job or run it becomes, or the tick's own for a chore."""

    schedule_id: UUID
    name: Name
    tick_id: UUID
    due_at: datetime
    fired_at: datetime
    noun_id: UUID
    action: str
    by_hand: bool = False


class ScheduleTickMissed(Event, subject="ltp.schedule.v1.tick-missed", speaker="scheduler"):
    """A tick did nothing: the one before was still at work, or it lies too far back to be caught up."""

    schedule_id: UUID
    name: Name
    tick_id: UUID
    due_at: datetime
    reason: str


class ScheduleTickEnded(Event, subject="ltp.schedule.v1.tick-ended", speaker="scheduler"):
    """What a tick started is over. `result` is what a chore found and did."""

    schedule_id: UUID
    tick_id: UUID
    state: TickState
    result: dict[str, Any] | None = None
    problem: Problem | None = None


# Questions to the scheduler.


class ScheduleCheck(Value):
    """Could this schedule be? Changes nothing."""

    spec: ScheduleSpec


class ScheduleView(Value):
    """A schedule with its next ticks."""

    schedule_id: UUID | None
    name: Name
    state: ScheduleState
    builtin: bool
    spec: ScheduleSpec
    created_at: datetime | None
    # The next instant, and, for one schedule alone, those after it.
    next_at: datetime | None
    upcoming: list[datetime] = Field(default_factory=list[datetime])


class ScheduleRequest(Value):
    """One schedule, by id or name."""

    schedule: str = Field(max_length=200)


class SchedulesRequest(PageQuery):
    """A page of schedules."""


class Schedules(Value):
    """A page of schedules. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    schedules: list[ScheduleView]
    next_cursor: str | None = None


class TicksRequest(PageQuery):
    """A page of a schedule's ticks."""

    schedule: str = Field(max_length=200)
    sort: str = "-due_at"


class TickView(Value):
    """One tick: when it was due, when it fired, and what came of it."""

    tick_id: UUID
    due_at: datetime
    state: TickState
    by_hand: bool
    noun_id: UUID | None
    fired_at: datetime | None
    ended_at: datetime | None
    reason: str | None
    result: dict[str, Any] | None
    problem: Problem | None


class Ticks(Value):
    """A page of ticks. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    ticks: list[TickView]
    next_cursor: str | None = None
