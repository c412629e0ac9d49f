"""Points that workers pushed, and the last report of each run."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Identity,
    Index,
    String,
    Table,
    delete,
    func,
    select,
    text,
)
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.metrics import Push
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from services.gateway.store import SCHEMA

POINTS_CHANNEL = "ltp_gateway_points"

points = Table(
    "points",
    metadata,
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("project", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("worker", String, primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Float, nullable=False),
    Column("at", TIME, nullable=False),
    schema=SCHEMA,
)
Index("ix_points_run", points.c.project, points.c.run, points.c.seq)
reports = Table(
    "reports",
    metadata,
    Column("project", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("report", JSONB, nullable=False),
    Column("reported_at", TIME, nullable=False),
    schema=SCHEMA,
)

_ADD = text("""
    WITH added AS (INSERT INTO gateway.points (project, run, worker, step, key, value, at)
    SELECT :project, :run, :worker, p.step, p.key, p.value, p.at
    FROM unnest(CAST(:steps AS bigint[]), CAST(:keys AS text[]), CAST(:values AS float8[]), CAST(:ats AS timestamptz[]))
        AS p(step, key, value, at)
    ON CONFLICT DO NOTHING RETURNING seq)
    SELECT count(*), pg_notify(:channel, :told) FROM added
""")

# Written out by the database, which costs a tenth of what it costs here; as pydantic writes a Point, NaN as null.
_WRITTEN = text("""
    SELECT max(seq), string_agg(row_to_json(p)::text, ',' ORDER BY seq) FROM (
        SELECT seq, worker, step, key, CASE WHEN value < 'Infinity' AND value > '-Infinity' THEN value END AS value,
               to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at
        FROM gateway.points WHERE project = :project AND run = :run AND seq > :after
            AND (CAST(:key AS text) IS NULL OR key = :key) AND (CAST(:worker AS text) IS NULL OR worker = :worker)
        ORDER BY seq LIMIT :limit) AS p
""")


async def add(unit: Unit, project: str, push: Push) -> int:
    """Keep a batch; returns how many points were new.

    Batches of one run commit one after the other, so that sequence numbers become visible in their order and no follower
    steps over one that commits late.
    """
    await unit.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock(project, push.run)})
    came = now()
    rows = [(r.step, key, value, r.at or came) for r in push.readings for key, value in r.values.items()]
    steps, keys, values, ats = (list(column) for column in zip(*rows, strict=True))
    given = {"project": project, "run": push.run, "worker": push.worker}
    given |= {"channel": POINTS_CHANNEL, "told": news_key(project, push.run)}
    added = await unit.execute(_ADD, given | {"steps": steps, "keys": keys, "values": values, "ats": ats})
    return int(added.one()[0])


def news_key(project: str, run: str) -> str:
    """What is told on POINTS_CHANNEL of a run."""
    return f"{project}:{run}"


async def read(
    engine: AsyncEngine,
    project: str,
    run: str,
    *,
    after: int,
    limit: int,
    key: str | None = None,
    worker: str | None = None,
) -> list[Row]:
    """Points of a run after a sequence number, in the order they came."""
    query = select(points).where(points.c.project == project, points.c.run == run, points.c.seq > after)
    for column, wanted in ((points.c.key, key), (points.c.worker, worker)):
        if wanted is not None:
            query = query.where(column == wanted)
    async with engine.connect() as connection:
        return list((await connection.execute(query.order_by(points.c.seq).limit(limit))).mappings())


async def read_written(
    engine: AsyncEngine, project: str, run: str, *, after: int, limit: int, key: str | None, worker: str | None
) -> tuple[int, str] | None:
    """What `read` finds, as the objects of a JSON array, and the last sequence number; None when there is nothing."""
    wanted = {"project": project, "run": run, "after": after, "limit": limit, "key": key, "worker": worker}
    async with engine.connect() as connection:
        last, written = (await connection.execute(_WRITTEN, wanted)).one()
    return None if last is None else (last, written)


async def runs(engine: AsyncEngine, project: str, run: str | None, limit: int) -> list[Row]:
    """Runs of a project with what is known of each, the one heard of last first."""
    of = points.outerjoin(reports, (reports.c.project == points.c.project) & (reports.c.run == points.c.run))
    last = func.max(points.c.at).label("last_at")
    columns = (points.c.run, func.count().label("points"), func.max(points.c.step).label("last_step"), last)
    query = select(*columns, reports.c.report).select_from(of).where(points.c.project == project)
    if run is not None:
        query = query.where(points.c.run == run)
    query = query.group_by(points.c.run, reports.c.report).order_by(last.desc()).limit(limit)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings())


async def report(unit: Unit, project: str, run: str, told: dict[str, Any], at: datetime) -> None:
    """Keep the last report of a run."""
    row = {"project": project, "run": run, "report": told, "reported_at": at}
    statement = insert(reports).values(**row)
    changed = {"report": told, "reported_at": at}
    await unit.execute(statement.on_conflict_do_update(index_elements=["project", "run"], set_=changed))


async def forget(unit: Unit, project: str, run: str) -> int:
    """Delete a run's points and report; returns how many points went."""
    await unit.execute(delete(reports).where(reports.c.project == project, reports.c.run == run))
    return await unit.change(delete(points).where(points.c.project == project, points.c.run == run))


def _lock(project: str, run: str) -> int:
    digest = hashlib.sha256(f"points:{project}:{run}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
