"""Schedules and their ticks, and every statement on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    String,
    Table,
    Uuid,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.contracts.schedule import ScheduleSpec, SchedulesRequest, TickState
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order

SCHEMA = "scheduler"

schedules = Table(
    "schedules",
    metadata,
    Column("schedule_id", Uuid, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("builtin", Boolean, nullable=False, server_default=text("false")),
    Column("spec", JSONB, nullable=False),
    # The instant of the next tick, and when it fires: later by its jitter. Intervals count from `created_at`.
    Column("next_at", TIME, nullable=False),
    Column("fire_at", TIME, nullable=False),
    Column("created_at", TIME, nullable=False),
    schema=SCHEMA,
)
_SORTED_BY = {name: schedules.c[name] for name in ("name", "state", "next_at")}
Index("ix_schedules_due", schedules.c.fire_at, postgresql_where=schedules.c.state == "active")
ticks = Table(
    "ticks",
    metadata,
    # One row for each instant of a schedule: what makes it happen once.
    Column("schedule_id", Uuid, ForeignKey(schedules.c.schedule_id, ondelete="CASCADE"), primary_key=True),
    Column("due_at", TIME, primary_key=True),
    Column("tick_id", Uuid, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("by_hand", Boolean, nullable=False, server_default=text("false")),
    Column("noun_id", Uuid, index=True),
    Column("reason", String),
    Column("result", JSONB),
    Column("problem", JSONB),
    Column("fired_at", TIME),
    Column("ended_at", TIME),
    schema=SCHEMA,
)
_TICKS_SORTED_BY = {name: ticks.c[name] for name in ("due_at", "state", "fired_at", "ended_at")}
Index("ix_ticks_open", ticks.c.schedule_id, postgresql_where=ticks.c.state.in_(["running", "waiting"]))

_MOVE_ON = text("""
UPDATE scheduler.schedules AS s SET next_at = m.next_at, fire_at = m.fire_at
FROM unnest(CAST(:ids AS uuid[]), CAST(:next_at AS timestamptz[]), CAST(:fire_at AS timestamptz[]))
    AS m(id, next_at, fire_at) WHERE s.schedule_id = m.id
""")


@dataclass(frozen=True)
class Schedule:
    """A schedule as it stands."""

    schedule_id: UUID
    name: str
    spec: ScheduleSpec
    next_at: datetime
    created_at: datetime


@dataclass(frozen=True)
class Tick:
    """A tick that was noted, with its schedule."""

    tick_id: UUID
    schedule: Schedule
    due_at: datetime
    state: str
    noun_id: UUID | None
    reason: str | None = None
    by_hand: bool = False


async def add(unit: Unit, schedule: Schedule, *, fire_at: datetime, builtin: bool = False) -> bool:
    """Note a schedule; False when its id or its name is taken."""
    statement = insert(schedules).values(
        schedule_id=schedule.schedule_id,
        name=schedule.name,
        state="paused" if schedule.spec.paused else "active",
        builtin=builtin,
        spec=schedule.spec.model_dump(mode="json"),
        next_at=schedule.next_at,
        fire_at=fire_at,
        created_at=schedule.created_at,
    )
    return await unit.change(statement.on_conflict_do_nothing()) == 1


async def lock(unit: Unit, schedule_id: UUID) -> tuple[Schedule, str] | None:
    """A schedule and its state, held until the unit ends."""
    query = select(schedules).where(schedules.c.schedule_id == schedule_id).with_for_update()
    row = (await unit.execute(query)).mappings().one_or_none()
    return None if row is None else (_schedule(row), row["state"])


async def claim_due(unit: Unit, at: datetime, most: int) -> list[Schedule]:
    """Take up to `most` schedules that are due and that no other scheduler has in hand."""
    query = (
        select(schedules)
        .where(schedules.c.state == "active", schedules.c.fire_at <= at)
        .order_by(schedules.c.fire_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    return [_schedule(row) for row in (await unit.execute(query)).mappings().all()]


async def next_fire(engine: AsyncEngine) -> datetime | None:
    """When the next schedule fires."""
    query = select(func.min(schedules.c.fire_at)).where(schedules.c.state == "active")
    async with engine.connect() as connection:
        return await connection.scalar(query)


async def at_work(unit: Unit, schedule_ids: Sequence[UUID]) -> tuple[set[UUID], set[UUID]]:
    """Of these schedules, those with a running tick, and those with a waiting one."""
    query = select(ticks.c.schedule_id, ticks.c.state).where(
        ticks.c.schedule_id.in_(schedule_ids), ticks.c.state.in_(["running", "waiting"])
    )
    rows = (await unit.execute(query)).all()
    return {r.schedule_id for r in rows if r.state == "running"}, {r.schedule_id for r in rows if r.state == "waiting"}


async def add_ticks(unit: Unit, added: Sequence[Tick]) -> list[Tick]:
    """Note ticks; returns those that were not there before."""
    if not added:
        return []
    rows = [
        {
            "schedule_id": t.schedule.schedule_id,
            "due_at": t.due_at,
            "tick_id": t.tick_id,
            "state": t.state,
            "by_hand": t.by_hand,
            "noun_id": t.noun_id,
            "reason": t.reason,
            "fired_at": now() if t.state == "running" else None,
            "ended_at": now() if t.state in {"skipped", "missed"} else None,
        }
        for t in added
    ]
    statement = insert(ticks).on_conflict_do_nothing().returning(ticks.c.tick_id)
    new = set((await unit.execute(statement, rows)).scalars().all())
    return [tick for tick in added if tick.tick_id in new]


async def move_on(unit: Unit, moved: Sequence[tuple[UUID, datetime, datetime]]) -> None:
    """Set the next instant of schedules, one at least: (id, next_at, fire_at) of each."""
    ids, next_at, fire_at = zip(*moved, strict=True)
    await unit.execute(_MOVE_ON, {"ids": list(ids), "next_at": list(next_at), "fire_at": list(fire_at)})


async def set_state(unit: Unit, schedule_id: UUID, state: str) -> None:
    """Pause or resume."""
    await unit.execute(update(schedules).where(schedules.c.schedule_id == schedule_id).values(state=state))


async def remove(unit: Unit, schedule_id: UUID) -> None:
    """Delete a schedule with its ticks; what they started goes on."""
    await unit.execute(delete(schedules).where(schedules.c.schedule_id == schedule_id))


async def end_tick(unit: Unit, noun_id: UUID, state: TickState, **values: Any) -> tuple[UUID, Schedule] | None:
    """Note the end of what a tick started; None when no tick waits for it. Holds the schedule."""
    found = await unit.execute(
        select(ticks.c.schedule_id).where(ticks.c.noun_id == noun_id, ticks.c.state == "running")
    )
    schedule_id = found.scalar_one_or_none()
    held = None if schedule_id is None else await lock(unit, schedule_id)
    if held is None:
        return None
    statement = (
        update(ticks)
        .where(ticks.c.noun_id == noun_id, ticks.c.state == "running")
        .values(state=state, ended_at=now(), **values)
        .returning(ticks.c.tick_id)
    )
    tick_id = (await unit.execute(statement)).scalar_one_or_none()
    return None if tick_id is None else (tick_id, held[0])


async def start_waiting(unit: Unit, schedule: Schedule) -> Tick | None:
    """Let the waiting tick of a schedule start, if there is one; the caller holds the schedule."""
    waiting = (
        select(ticks.c.tick_id)
        .where(ticks.c.schedule_id == schedule.schedule_id, ticks.c.state == "waiting")
        .order_by(ticks.c.due_at)
        .limit(1)
        .scalar_subquery()
    )
    statement = update(ticks).where(ticks.c.tick_id == waiting)
    statement = statement.values(state="running", fired_at=now(), noun_id=new_id()).returning(ticks)
    row = (await unit.execute(statement)).mappings().one_or_none()
    if row is None:
        return None
    return Tick(row["tick_id"], schedule, row["due_at"], "running", row["noun_id"], by_hand=row["by_hand"])


async def find(engine: AsyncEngine, schedule: str) -> Row | None:
    """A schedule by id or name."""
    which = schedules.c.name == schedule
    try:
        which = or_(which, schedules.c.schedule_id == UUID(schedule))
    except ValueError:
        pass  # Not an id, so a name.
    async with engine.connect() as connection:
        return (await connection.execute(select(schedules).where(which).limit(1))).mappings().one_or_none()


async def page(engine: AsyncEngine, request: SchedulesRequest) -> list[Row]:
    """A page of schedules."""
    query = in_order(select(schedules), request, schedules.c.schedule_id, _SORTED_BY)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())


async def ticks_of(engine: AsyncEngine, schedule_id: UUID, page: PageQuery) -> list[Row]:
    """A page of the ticks of a schedule."""
    mine = select(ticks).where(ticks.c.schedule_id == schedule_id)
    query = in_order(mine, page, ticks.c.tick_id, _TICKS_SORTED_BY)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())


def _schedule(row: Row) -> Schedule:
    spec = ScheduleSpec.model_validate(row["spec"])
    return Schedule(row["schedule_id"], row["name"], spec, row["next_at"], row["created_at"])
