"""What the monitor asks and does: counts by queue and project, pieces of work, workers; dead work tried again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, and_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.contracts.pages import PageQuery
from ltp.queue.policy import Queue, offset_seconds
from ltp.queue.tables import limits, work
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.listener import WORK_CHANNEL, work_channel
from ltp.store.pages import in_order

_SORTED_BY = {name: work.c[name] for name in ("queue", "kind", "state", "priority", "run_at", "started_at", "ended_at")}

_COUNTS = """
SELECT queue,
  count(*) FILTER (WHERE state = 'queued' AND run_at <= now()) AS waiting,
  count(*) FILTER (WHERE state = 'queued' AND run_at > now()) AS delayed,
  count(*) FILTER (WHERE state = 'queued' AND failures > 0) AS retrying,
  count(*) FILTER (WHERE state = 'running') AS running,
  extract(epoch FROM now() - min(run_at) FILTER (WHERE state = 'queued' AND run_at <= now())) AS oldest_wait_seconds
FROM queue.work WHERE state IN ('queued', 'running') GROUP BY queue
"""
_ENDED = """
SELECT queue, count(*) FILTER (WHERE state = 'done' AND ended_at > now() - interval '1 minute') AS done_last_minute,
  count(*) FILTER (WHERE state = 'failed') AS dead
FROM queue.work
WHERE state = 'failed' OR (state IN ('done', 'failed', 'cancelled') AND ended_at > now() - interval '1 minute')
GROUP BY queue
"""
# A worker is heard from at each third of its lease; three leases of ten seconds are a long silence.
_WORKERS = """
SELECT p.*, p.seen_at > now() - interval '30 seconds' AS alive,
  coalesce(jsonb_agg(jsonb_build_object('work_id', w.id, 'dedup_key', w.dedup_key, 'since', w.claimed_at)
           ORDER BY w.claimed_at) FILTER (WHERE w.id IS NOT NULL), '[]') AS holds
FROM queue.workers AS p LEFT JOIN queue.work AS w ON w.worker = p.name AND w.state = 'running'
WHERE p.seen_at > now() - interval '1 hour' OR w.id IS NOT NULL
GROUP BY p.name ORDER BY p.kind, p.name
"""


async def queue_counts(place: Unit | AsyncConnection) -> dict[str, dict[str, Any]]:
    """For each queue that has any work: how much waits, is delayed, runs, was done in the last minute, is dead."""
    counts: dict[str, dict[str, Any]] = {}
    for statement in (_COUNTS, _ENDED):
        for row in (await place.execute(text(statement))).mappings():
            counts.setdefault(row["queue"], {}).update(row)
    return counts


async def limit_rows(unit: Unit) -> list[RowMapping]:
    """Every limit that was ever set, with when it was."""
    return list((await unit.execute(select(limits).order_by(limits.c.scope, limits.c.name))).mappings())


async def list_work(unit: Unit, equal: Mapping[str, Any], page: PageQuery) -> list[RowMapping]:
    """A page of the work with these values of columns."""
    wanted = [work.c[name] == value for name, value in equal.items() if value is not None]
    query = in_order(select(work).where(and_(True, *wanted)), page, work.c.id, _SORTED_BY)
    return list((await unit.execute(query)).mappings())


async def get_work(unit: Unit, work_id: UUID) -> RowMapping | None:
    """One piece of work."""
    return (await unit.execute(select(work).where(work.c.id == work_id))).mappings().one_or_none()


async def list_workers(unit: Unit) -> list[RowMapping]:
    """Workers heard from in the last hour, or that still hold work, with what they hold."""
    return list((await unit.execute(text(_WORKERS))).mappings())


async def retry_dead(unit: Unit, work_id: UUID) -> bool:
    """Put dead work back in its queue as if it were new. False when it is not dead."""
    row = await get_work(unit, work_id)
    if row is None or row["state"] != "failed":
        return False
    at = now()
    again = update(work).where(work.c.id == work_id, work.c.state == "failed")
    changed = await unit.change(
        again.values(
            state="queued",
            failures=0,
            deaths=0,
            told=False,
            ended_at=None,
            cancel_requested=False,
            # Its devices were given back when it died.
            placement=None,
            run_at=at,
            sort_at=at + timedelta(seconds=offset_seconds(Queue(row["queue"]), row["priority"])),
        )
    )
    await unit.notify(WORK_CHANNEL if row["wants"] else work_channel(row["kind"]))
    return changed == 1


async def cancel_work(unit: Unit, work_id: UUID) -> None:
    """Ask that work end. What has not begun is handed to a worker of its kind at once, which tells the world of its end."""
    asked = update(work).where(work.c.id == work_id, work.c.state.in_(["queued", "running"]))
    kind = (await unit.execute(asked.values(cancel_requested=True).returning(work.c.kind))).scalar_one_or_none()
    if kind is not None:
        await unit.execute(update(work).where(work.c.id == work_id, work.c.state == "queued").values(run_at=now()))
        await unit.notify(work_channel(kind))


async def untold_deaths(unit: Unit) -> list[RowMapping]:
    """Work that died since this was last asked; each is returned once, to the unit that commits."""
    died = (
        select(work.c.id)
        .where(work.c.state == "failed", ~work.c.told)
        .limit(100)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = update(work).where(work.c.id.in_(died)).values(told=True).returning(work)
    return list((await unit.execute(statement)).mappings())
