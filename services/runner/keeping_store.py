"""What the keeping of checkpoints reads and writes: its statements on the runner's tables, and who uses a checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping as Row
from sqlalchemy import String, and_, cast, or_, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.checkpoint_keeping import CheckpointsRequest
from ltp.queue.tables import work
from ltp.store.clock import now
from ltp.store.database import Unit
from services.runner.store import attempts, checkpoints

_WITH_ATTEMPT = select(
    checkpoints, attempts.c.job_id, attempts.c.number, attempts.c.run_dir, attempts.c.placement, attempts.c.keep
).join(attempts, attempts.c.attempt_id == checkpoints.c.attempt_id)
_ORDER = (attempts.c.job_id, checkpoints.c.step, attempts.c.number)


async def find(engine: AsyncEngine, asked: CheckpointsRequest) -> list[Row]:
    """Checkpoints with their attempts, those that are gone included, by job and step."""
    query = _WITH_ATTEMPT.order_by(*_ORDER).limit(10_000)
    if asked.job_id is not None:
        query = query.where(attempts.c.job_id == asked.job_id)
    if asked.checkpoint_id is not None:
        # The others of its job decide with it.
        job = select(attempts.c.job_id).join(checkpoints, checkpoints.c.attempt_id == attempts.c.attempt_id)
        job = job.where(checkpoints.c.checkpoint_id == asked.checkpoint_id)
        query = query.where(attempts.c.job_id.in_(job))
    return await _rows(engine, query)


async def to_look_at(engine: AsyncEngine, host_ids: Collection[str]) -> list[Row]:
    """What lies on hosts, of jobs that have a rule or from which a user wants one gone."""
    wanted = (
        select(attempts.c.job_id)
        .join(checkpoints, checkpoints.c.attempt_id == attempts.c.attempt_id)
        .where(
            checkpoints.c.removed_at.is_(None),
            attempts.c.placement["host_id"].astext.in_(sorted(host_ids)),
            or_(checkpoints.c.removal_wanted, attempts.c.keep["keep_last"].astext.is_not(None)),
        )
    )
    query = _WITH_ATTEMPT.where(checkpoints.c.removed_at.is_(None), attempts.c.job_id.in_(wanted)).order_by(*_ORDER)
    return await _rows(engine, query)


async def mark(unit: Unit, checkpoint_id: UUID, **values: Any) -> Row | None:
    """Change a checkpoint that is not gone, unless it is so already; the row, or None where nothing changed."""
    differs = or_(*(checkpoints.c[name].is_distinct_from(value) for name, value in values.items()))
    statement = update(checkpoints).where(
        and_(checkpoints.c.checkpoint_id == checkpoint_id, checkpoints.c.removed_at.is_(None), differs)
    )
    return (await unit.execute(statement.values(**values).returning(checkpoints))).mappings().one_or_none()


async def gone(unit: Unit, checkpoint_id: UUID, reason: str) -> Row | None:
    """Note that a checkpoint is deleted; None when it was noted before."""
    return await mark(unit, checkpoint_id, removed_at=now(), removed_for=reason)


async def note_value(unit: Unit, attempt_id: UUID, step: int, value: float) -> None:
    """Note the metric that a checkpoint is judged by."""
    where = and_(checkpoints.c.attempt_id == attempt_id, checkpoints.c.step == step)
    await unit.execute(update(checkpoints).where(where).values(value=value))


async def unfinished_payloads(engine: AsyncEngine) -> list[str]:
    """What unfinished work is about, as text: a training that resumes from a checkpoint, its export, an evaluation."""
    query = select(cast(work.c.payload, String)).where(work.c.state.not_in(["done", "failed", "cancelled"]))
    async with engine.connect() as connection:
        return [str(payload) for payload in (await connection.execute(query)).scalars()]


async def _rows(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())
