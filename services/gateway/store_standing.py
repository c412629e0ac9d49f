"""How far unfinished jobs are, from what the gateway heard: their newest lines of metrics, and the alarms that hold."""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping as Row
from sqlalchemy import func, select, true
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.store import events, jobs, steps

_STATES = ("running", "paused")
_RAISED, _CLEARED = "ltp.alarm.v1.raised", "ltp.alarm.v1.cleared"
# The pace is told by so many steps.
_NEWEST = 20


async def unfinished(engine: AsyncEngine, project: str | None, limit: int) -> list[Row]:
    """Running and paused jobs, newest first, one row for each of a job's newest lines of metrics, or one without any.

    Columns: `job_id`, `state`, `steps` (of the recipe), and of the line `attempt`, `step`, `seconds` (since 1970).
    """
    wanted = select(jobs.c.job_id, jobs.c.state, jobs.c.recipe["training"]["steps"].as_integer().label("steps"))
    wanted = wanted.where(jobs.c.state.in_(_STATES))
    if project is not None:
        wanted = wanted.where(jobs.c.options["project"].astext == project)
    mine = wanted.order_by(jobs.c.job_id.desc()).limit(limit).subquery()
    line = (
        select(steps.c.attempt, steps.c.step, func.extract("epoch", steps.c.at).label("seconds"))
        .where(steps.c.job_id == mine.c.job_id)
        .order_by(steps.c.seq.desc())
        .limit(_NEWEST)
        .lateral()
    )
    query = select(mine, line).select_from(mine.outerjoin(line, true()))
    return await _all(engine, query.order_by(mine.c.job_id.desc()))


async def open_alarms(engine: AsyncEngine, job_ids: list[Any]) -> list[Row]:
    """Alarms of these jobs that were raised and not cleared since: `job_id` and `data`, oldest first."""
    cleared = select(events.c.data["alarm_id"].astext).where(events.c.job_id.in_(job_ids), events.c.subject == _CLEARED)
    query = select(events.c.job_id, events.c.data).where(events.c.job_id.in_(job_ids), events.c.subject == _RAISED)
    return await _all(engine, query.where(events.c.data["alarm_id"].astext.not_in(cleared)).order_by(events.c.seq))


async def _all(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())
