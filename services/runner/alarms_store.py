"""The table of alarms and every statement on it: one open alarm a rule and attempt, whoever watches."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Index, Integer, String, Table, Uuid, func, select, text, update
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.store.clock import new_id
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from services.runner.store import SCHEMA

alarms = Table(
    "alarms",
    metadata,
    Column("alarm_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False, index=True),
    Column("run_id", Uuid, nullable=False),
    Column("attempt_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("rule", String, nullable=False),
    Column("severity", String, nullable=False),
    Column("message", String, nullable=False),
    Column("hint", String, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("step", Integer),
    Column("raised_at", TIME, nullable=False, server_default=func.now()),
    Column("cleared_at", TIME),
    schema=SCHEMA,
)
_OPEN = text("cleared_at IS NULL")
Index("ix_alarms_open", alarms.c.attempt_id, alarms.c.rule, unique=True, postgresql_where=_OPEN)


async def raise_alarm(unit: Unit, row: dict[str, Any]) -> UUID | None:
    """Note an alarm; None when it is open already."""
    statement = insert(alarms).values(alarm_id=new_id(), **row)
    statement = statement.on_conflict_do_nothing(index_elements=["attempt_id", "rule"], index_where=_OPEN)
    return (await unit.execute(statement.returning(alarms.c.alarm_id))).scalar_one_or_none()


async def clear(unit: Unit, attempt_id: UUID, rules: set[str] | None, at: datetime) -> list[Row]:
    """Close the open alarms of an attempt: those of the rules, or all; what was closed."""
    statement = update(alarms).where(alarms.c.attempt_id == attempt_id, alarms.c.cleared_at.is_(None))
    if rules is not None:
        statement = statement.where(alarms.c.rule.in_(sorted(rules)))
    return list((await unit.execute(statement.values(cleared_at=at).returning(alarms))).mappings().all())


async def open_rules(engine: AsyncEngine, attempt_id: UUID) -> dict[str, str]:
    """The rules of an attempt with an open alarm, and how severe it was said to be."""
    query = select(alarms.c.rule, alarms.c.severity)
    query = query.where(alarms.c.attempt_id == attempt_id, alarms.c.cleared_at.is_(None))
    async with engine.connect() as connection:
        return {row.rule: row.severity for row in (await connection.execute(query)).all()}


async def of_job(engine: AsyncEngine, job_id: UUID, *, active: bool) -> list[Row]:
    """A job's alarms, newest first."""
    query = (
        select(alarms).where(alarms.c.job_id == job_id).order_by(alarms.c.raised_at.desc(), alarms.c.alarm_id.desc())
    )
    if active:
        query = query.where(alarms.c.cleared_at.is_(None))
    async with engine.connect() as connection:
        return list((await connection.execute(query.limit(1000))).mappings().all())
