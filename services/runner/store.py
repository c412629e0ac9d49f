"""The runner's tables and every statement it runs on them: attempts with how far they were read, and checkpoints."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Integer,
    String,
    Table,
    Uuid,
    func,
    select,
    text,
    update,
)
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.values import Placement
from ltp.core.lifecycle import ATTEMPT, AttemptState
from ltp.queue.tables import work
from ltp.store.clock import new_id
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table

SCHEMA = "runner"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False, index=True),
    Column("run_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("run_dir", String, nullable=False),
    Column("placement", JSONB, nullable=False),
    # What the scheduler wants (leave), and what was passed on to the process (leave, kill): a restarted runner still
    # knows why the process ended.
    Column("stop_wanted", Boolean, nullable=False, server_default=text("false")),
    Column("stop_passed", String),
    Column("metrics_offset", BigInteger, nullable=False, server_default=text("0")),
    Column("metrics_lines", Integer, nullable=False, server_default=text("0")),
    Column("last_step", Integer, nullable=False, server_default=text("0")),
    # Of the recipe: how many steps it trains, and its rule about checkpoints.
    Column("steps", Integer, nullable=False, server_default=text("0")),
    Column("keep", JSONB),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    schema=SCHEMA,
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("attempt_id", Uuid, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("checkpoint_id", Uuid, nullable=False, unique=True),
    Column("path", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("written_at", TIME, nullable=False, server_default=func.now()),
    # A user wants it to stay; the metric that its job keeps the best by; whether its export is over, well or badly.
    Column("pinned", Boolean, nullable=False, server_default=text("false")),
    Column("value", Float),
    Column("settled", Boolean, nullable=False, server_default=text("false")),
    # A user wants it gone; when it was, and whether by the recipe's rule or by a user.
    Column("removal_wanted", Boolean, nullable=False, server_default=text("false")),
    Column("removed_at", TIME),
    Column("removed_for", String),
    schema=SCHEMA,
)


async def open_attempt(unit: Unit, row: dict[str, Any]) -> Row:
    """Note an attempt, or read what was noted by the runner that watched it before."""
    await unit.execute(insert(attempts).values(state=ATTEMPT.initial, **row).on_conflict_do_nothing())
    query = select(attempts).where(attempts.c.attempt_id == row["attempt_id"])
    return (await unit.execute(query)).mappings().one()


async def move(unit: Unit, attempt_id: UUID, target: AttemptState, **values: Any) -> bool:
    """Advance an attempt if the lifecycle allows it; False when it does not."""
    statement = update(attempts).where(
        attempts.c.attempt_id == attempt_id, attempts.c.state.in_(sorted(ATTEMPT.sources(target)))
    )
    return await unit.change(statement.values(state=target, **values)) == 1


async def note(unit: Unit, attempt_id: UUID, **values: Any) -> None:
    """Record facts about an attempt that do not change its state."""
    await unit.execute(update(attempts).where(attempts.c.attempt_id == attempt_id).values(**values))


async def want_stop(unit: Unit, run_id: UUID, number: int) -> bool:
    """Note that an attempt is to save and leave; False when it is not known yet."""
    statement = update(attempts).where(attempts.c.run_id == run_id, attempts.c.number == number)
    return await unit.change(statement.values(stop_wanted=True)) == 1


async def earlier_attempts(unit: Unit, run_id: UUID, number: int) -> list[Row]:
    """The attempts of a run before this one."""
    query = select(attempts).where(attempts.c.run_id == run_id, attempts.c.number < number)
    return list((await unit.execute(query)).mappings().all())


async def checkpoint_origin(unit: Unit, path: str) -> Placement | None:
    """Where the attempt ran that wrote a checkpoint; None for one that is not ours."""
    query = select(attempts.c.placement).join(checkpoints, checkpoints.c.attempt_id == attempts.c.attempt_id)
    found = (await unit.execute(query.where(checkpoints.c.path == path).limit(1))).scalar_one_or_none()
    return None if found is None else Placement.model_validate(found)


async def given_up(unit: Unit, host_id: str) -> list[Row]:
    """Attempts placed on a host that are not over although their work is: somebody gave them up."""
    key = func.concat("train:", attempts.c.job_id, ":", attempts.c.number)
    query = (
        select(attempts)
        .join(work, work.c.dedup_key == key)
        .where(
            attempts.c.state.in_(sorted(state for state in AttemptState if not ATTEMPT.is_over(state))),
            attempts.c.placement["host_id"].astext == host_id,
            work.c.state.in_(["failed", "cancelled", "done"]),
        )
    )
    return list((await unit.execute(query)).mappings().all())


async def add_checkpoint(unit: Unit, attempt_id: UUID, **values: Any) -> UUID | None:
    """Note a complete checkpoint (`step`, `path`, `size_bytes`, `value`); None when it was noted before."""
    statement = (
        insert(checkpoints)
        .values(checkpoint_id=new_id(), attempt_id=attempt_id, **values)
        .on_conflict_do_nothing()
        .returning(checkpoints.c.checkpoint_id)
    )
    return (await unit.execute(statement)).scalar_one_or_none()


async def known_steps(unit: Unit, attempt_id: UUID) -> set[int]:
    """Steps whose checkpoints were noted."""
    query = select(checkpoints.c.step).where(checkpoints.c.attempt_id == attempt_id)
    return set((await unit.execute(query)).scalars().all())


async def latest_attempt(engine: AsyncEngine, job_id: UUID, number: int | None) -> Row | None:
    """An attempt of a job: the one asked for, or the newest."""
    query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number.desc()).limit(1)
    if number is not None:
        query = query.where(attempts.c.number == number)
    async with engine.connect() as connection:
        return (await connection.execute(query)).mappings().one_or_none()
