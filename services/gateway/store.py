"""The gateway's tables and every statement it runs on them: what was submitted, and the read models folded from events."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    String,
    Table,
    Uuid,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.elements import ColumnElement

from ltp.contracts.pages import PageQuery
from ltp.contracts.telemetry import StepMetrics
from ltp.core.lifecycle import JobState
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from ltp.store.pages import in_order

SCHEMA = "gateway"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("rank", Integer, nullable=False, server_default=text("0")),
    Column("recipe", JSONB, nullable=False),
    Column("recipe_hash", String, nullable=False),
    Column("dataset", JSONB, nullable=False),
    Column("plan", JSONB),
    Column("run_id", Uuid),
    Column("problem", JSONB),
    Column("options", JSONB, nullable=False, server_default=text("'{}'")),
    # What a user asked for and the scheduler has not said to be done: pause, resume or cancel.
    Column("requested", String),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("checkpoint_step", Integer),
    Column("idempotency_key", String, unique=True),
    Column("submitted_at", TIME, nullable=False),
    Column("started_at", TIME),
    Column("ended_at", TIME),
    schema=SCHEMA,
)
_JOBS_SORTED_BY = {name: jobs.c[name] for name in ("name", "state", "submitted_at", "started_at", "ended_at")}
datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False, server_default=text("'uploaded'")),
    Column("version", String),
    Column("filename", String),
    Column("size_bytes", BigInteger),
    Column("rows", Integer),
    Column("duplicates", Integer),
    Column("format", String),
    Column("splits", JSONB),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    schema=SCHEMA,
)
_DATASETS_SORTED_BY = {name: datasets.c[name] for name in ("name", "state", "rows", "size_bytes")}
Index("ix_datasets_name", datasets.c.name, datasets.c.created_at)
events = Table(
    "events",
    metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("event_id", Uuid, nullable=False, unique=True),
    Column("subject", String, nullable=False),
    Column("job_id", Uuid),
    Column("about", String),
    Column("cause", Uuid),
    Column("at", TIME, nullable=False),
    Column("data", JSONB, nullable=False),
    # Whose it is; None for what is the platform's own. And who caused it, where a person or a machine did.
    Column("project", String),
    Column("actor", String),
    schema=SCHEMA,
)
_EVENTS_SORTED_BY = {name: events.c[name] for name in ("seq", "at", "actor")}
Index("ix_events_job", events.c.job_id, events.c.seq)
Index("ix_events_project", events.c.project, events.c.seq)
steps = Table(
    "steps",
    metadata,
    Column("seq", BigInteger, Identity(), nullable=False, unique=True),
    Column("attempt_id", Uuid, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("at", TIME, nullable=False),
    Column("metrics", JSONB, nullable=False),
    schema=SCHEMA,
)
Index("ix_steps_job", steps.c.job_id, steps.c.seq)


async def add_job(unit: Unit, row: dict[str, Any]) -> bool:
    """Note a submitted job. False when its idempotency key was used before."""
    statement = insert(jobs).values(state=JobState.SUBMITTED, **row).on_conflict_do_nothing()
    return await unit.change(statement) == 1


async def add_dataset(unit: Unit, row: dict[str, Any]) -> None:
    """Note an uploaded dataset."""
    await unit.execute(insert(datasets).values(**row))


async def change_job(unit: Unit, job_id: UUID, changes: dict[str, Any], state: tuple[JobState, int] | None) -> None:
    """Fold an event into a job's row; the state only moves to a higher rank."""
    if changes:
        # What only grows is not taken back by news that comes late.
        growing = {
            name: func.greatest(func.coalesce(jobs.c[name], 0), value)
            for name, value in changes.items()
            if name in {"attempt", "checkpoint_step"}
        }
        await unit.execute(update(jobs).where(jobs.c.job_id == job_id).values(**{**changes, **growing}))
    if state is not None:
        target, rank = state
        await unit.execute(
            update(jobs).where(jobs.c.job_id == job_id, jobs.c.rank < rank).values(state=target, rank=rank)
        )


async def request(unit: Unit, job_id: UUID, wish: str) -> None:
    """Note what a user asked of a job, until the scheduler says that it is so."""
    await unit.execute(update(jobs).where(jobs.c.job_id == job_id).values(requested=wish))


async def change_dataset(unit: Unit, dataset_id: UUID, changes: dict[str, Any]) -> None:
    """Fold an event into a dataset's row."""
    statement = insert(datasets).values(dataset_id=dataset_id, **changes)
    await unit.execute(statement.on_conflict_do_update(index_elements=["dataset_id"], set_=changes))


async def add_event(unit: Unit, row: dict[str, Any]) -> None:
    """Keep an event for the timeline."""
    await unit.execute(insert(events).values(**row).on_conflict_do_nothing())


async def add_step(unit: Unit, step: StepMetrics) -> bool:
    """Keep a line of metrics; False when it is there already."""
    statement = insert(steps).values(
        attempt_id=step.attempt_id,
        line=step.line,
        job_id=step.job_id,
        attempt=step.attempt,
        step=step.step,
        at=step.seen_at,
        # A database's JSON has no NaN either; the string is read back as the number.
        metrics={name: value if math.isfinite(value) else str(value) for name, value in step.metrics.items()},
    )
    return await unit.change(statement.on_conflict_do_nothing()) == 1


async def job_by_key(engine: AsyncEngine, key: str) -> Row | None:
    """The job submitted under an idempotency key."""
    return await _one(engine, select(jobs).where(jobs.c.idempotency_key == key))


async def job(engine: AsyncEngine, job_id: UUID) -> Row | None:
    """One job."""
    return await _one(engine, select(jobs).where(jobs.c.job_id == job_id))


async def list_jobs(
    engine: AsyncEngine, page: PageQuery, *, state: str | None, project: str | None = None
) -> list[Row]:
    """A page of jobs."""
    query = in_order(select(jobs), page, jobs.c.job_id, _JOBS_SORTED_BY)
    if project is not None:
        query = query.where(jobs.c.options["project"].astext == project)
    if state is not None:
        query = query.where(jobs.c.state == state)
    return await _all(engine, query)


async def dataset(engine: AsyncEngine, dataset_id: UUID) -> Row | None:
    """One dataset."""
    return await _one(engine, select(datasets).where(datasets.c.dataset_id == dataset_id))


async def list_datasets(engine: AsyncEngine, page: PageQuery, *, name: str | None, state: str | None) -> list[Row]:
    """A page of datasets."""
    query = in_order(select(datasets), page, datasets.c.dataset_id, _DATASETS_SORTED_BY)
    for column, wanted in ((datasets.c.name, name), (datasets.c.state, state)):
        query = query if wanted is None else query.where(column == wanted)
    return await _all(engine, query)


async def list_events(
    engine: AsyncEngine,
    *,
    job_id: UUID | None = None,
    subject: str | None = None,
    after: int = 0,
    limit: int = 200,
    project: str | None = None,
    about: str | None = None,
    last: int | None = None,
) -> list[Row]:
    """Events in the order they were heard, after a sequence number; or the last so many of those."""
    order = events.c.seq if last is None else events.c.seq.desc()
    query = select(events).where(events.c.seq > after).order_by(order).limit(last or limit)
    if job_id is not None:
        query = query.where(events.c.job_id == job_id)
    if subject is not None:
        query = query.where(subject_is(subject))
    if project is not None:
        query = query.where(events.c.project == project)
    if about is not None:
        query = query.where(events.c.about == about)
    rows = await _all(engine, query)
    return rows if last is None else rows[::-1]


def subject_is(subject: str) -> ColumnElement[bool]:
    """A subject, or a pattern of NATS: `*` is one token, `>` all that follow."""
    if "*" not in subject and ">" not in subject:
        return events.c.subject == subject
    tokens = ["[^.]+" if t == "*" else ".+" if t == ">" else re.escape(t) for t in subject.split(".")]
    return events.c.subject.regexp_match(f"^{'[.]'.join(tokens)}$")


async def read_audit(
    engine: AsyncEngine, subject: str, page: PageQuery, *, actor: str | None, before: int | None, project: str | None
) -> list[Row]:
    """A page of the events of one subject."""
    query = in_order(select(events).where(events.c.subject == subject), page, events.c.event_id, _EVENTS_SORTED_BY)
    for column, wanted in ((events.c.actor, actor), (events.c.project, project)):
        if wanted is not None:
            query = query.where(column == wanted)
    return await _all(engine, query if before is None else query.where(events.c.seq < before))


async def newest_events(engine: AsyncEngine, subject: str, limit: int) -> list[dict[str, Any]]:
    """What the newest events of a subject said, newest first."""
    query = select(events.c.data).where(events.c.subject == subject).order_by(events.c.seq.desc()).limit(limit)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).scalars().all())


async def said_about(engine: AsyncEngine, about: UUID) -> list[tuple[str, dict[str, Any]]]:
    """What the gateway itself said about something, as (subject, body), read from its outbox: also what nobody heard yet."""
    box = outbox_table(SCHEMA)
    query = select(box.c.subject, box.c.payload).where(box.c.headers["ce-subject"].astext == str(about))
    async with engine.connect() as connection:
        rows = (await connection.execute(query.order_by(box.c.id.desc()).limit(20))).all()
    return [(row.subject, json.loads(row.payload)) for row in rows]


async def list_steps(engine: AsyncEngine, job_id: UUID, *, after: int = 0, limit: int = 1000) -> list[Row]:
    """Lines of metrics of a job in the order they were heard, after a sequence number."""
    query = select(steps).where(steps.c.job_id == job_id, steps.c.seq > after).order_by(steps.c.seq).limit(limit)
    return await _all(engine, query)


async def prune_steps(unit: Unit, older_than: datetime, most_jobs: int) -> tuple[int, int]:
    """Forget the metrics of up to `most_jobs` jobs that ended before; returns (lines, jobs)."""
    lines = select(steps.c.job_id).where(steps.c.job_id == jobs.c.job_id).exists()
    old = select(jobs.c.job_id).where(jobs.c.ended_at < older_than, lines).limit(most_jobs)
    found = (await unit.execute(old)).scalars().all()
    return await unit.change(delete(steps).where(steps.c.job_id.in_(found))), len(found)


_ATTEMPT_ENDS = [f"ltp.attempt.v1.{end}" for end in ("succeeded", "failed", "stopped", "lost")]


async def has_all_steps(engine: AsyncEngine, job_id: UUID) -> bool:
    """Whether every line of metrics that ended attempts said of themselves has been heard."""
    said = select(func.coalesce(func.sum(events.c.data["metrics_lines"].as_integer()), 0)).where(
        events.c.job_id == job_id, events.c.subject.in_(_ATTEMPT_ENDS)
    )
    heard = select(func.count()).where(steps.c.job_id == job_id)
    async with engine.connect() as connection:
        return bool((await connection.scalar(heard) or 0) >= (await connection.scalar(said) or 0))


async def _one(engine: AsyncEngine, query: Any) -> Row | None:
    async with engine.connect() as connection:
        return (await connection.execute(query)).mappings().one_or_none()


async def _all(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())
