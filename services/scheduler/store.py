"""The scheduler's table of jobs and every statement it runs on it; hosts and leases have theirs in `hosts.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Column, Integer, String, Table, Uuid, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from ltp.contracts.job import JobOptions, JobSubmitted
from ltp.contracts.plan import PlanMade
from ltp.contracts.values import Problem
from ltp.core.lifecycle import JOB, JobState
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from ltp.telemetry.spans import carried

SCHEMA = "scheduler"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("state", String, nullable=False),
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),
    # What users asked for and did not get yet.
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("pause_requested", Boolean, nullable=False, server_default=text("false")),
    Column("run_id", Uuid),
    Column("made", JSONB),  # the newest PlanMade event: recipe, dataset, plan
    # The newest attempt: its number and id. News of any other comes too late to matter.
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("attempt_id", Uuid),
    Column("awaiting_plan", Boolean, nullable=False, server_default=text("false")),
    Column("not_before", TIME),
    # How often attempts failed, by code, and the hosts on which the next one is not to run.
    Column("failures", JSONB, nullable=False, server_default=text("'{}'")),
    Column("avoid", JSONB, nullable=False, server_default=text("'[]'")),
    Column("checkpoint_path", String),
    Column("checkpoint_step", Integer),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    # The trace in which it was submitted: whatever is done for it later, by whoever's wish, belongs there.
    Column("trace", JSONB, nullable=False, server_default=text("'{}'")),
    schema=SCHEMA,
)


@dataclass(frozen=True)
class Job:
    """A job as the scheduler sees it."""

    job_id: UUID
    state: JobState
    options: JobOptions
    cancel_requested: bool
    pause_requested: bool
    run_id: UUID | None
    made: PlanMade | None
    attempt: int
    attempt_id: UUID | None
    awaiting_plan: bool
    not_before: datetime | None
    failures: dict[str, int]
    avoid: list[str]
    checkpoint_path: str | None
    checkpoint_step: int | None
    problem: Problem | None
    created_at: datetime
    trace: dict[str, str] = field(default_factory=dict[str, str])


async def open_job(unit: Unit, event: JobSubmitted) -> None:
    """Note a job; one that resumes another starts with that one's last checkpoint."""
    options = event.options
    parent_id = options.parent_job_id if options.resume else None
    parent = None if parent_id is None else await read_job(unit, parent_id)
    statement = insert(jobs).values(
        job_id=event.job_id,
        state=JOB.initial,
        options=options.model_dump(mode="json"),
        pause_requested=not options.start,
        trace=carried(),
        checkpoint_path=None if parent is None else parent.checkpoint_path,
        checkpoint_step=None if parent is None else parent.checkpoint_step,
    )
    await unit.execute(statement.on_conflict_do_nothing())


async def read_job(unit: Unit, job_id: UUID, *, lock: bool = False) -> Job | None:
    """Read a job; with `lock` its row is held until the unit ends, so that events about one job take effect in turn."""
    query = select(jobs).where(jobs.c.job_id == job_id)
    row = (await unit.execute(query.with_for_update() if lock else query)).mappings().one_or_none()
    if row is None:
        return None
    fields = {name: row[name] for name in Job.__dataclass_fields__}
    made = None if row["made"] is None else PlanMade.model_validate(row["made"])
    problem = None if row["problem"] is None else Problem.model_validate(row["problem"])
    options = JobOptions.model_validate(row["options"])
    return Job(**{**fields, "state": JobState(row["state"]), "made": made, "problem": problem, "options": options})


async def move(unit: Unit, job_id: UUID, target: JobState, **values: Any) -> bool:
    """Advance a job if the lifecycle allows it from where it stands; False when it does not."""
    if JOB.is_over(target):
        values["ended_at"] = now()
    statement = update(jobs).where(jobs.c.job_id == job_id, jobs.c.state.in_(sorted(JOB.sources(target))))
    return await unit.change(statement.values(state=target, **values)) == 1


async def note(unit: Unit, job_id: UUID, **values: Any) -> None:
    """Record facts about a job that do not change its state."""
    await unit.execute(update(jobs).where(jobs.c.job_id == job_id).values(**values))
