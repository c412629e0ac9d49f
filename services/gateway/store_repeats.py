"""Which keyed requests took effect, and what was answered: the same key does its work once, however often it is sent."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Column, Integer, LargeBinary, String, Table, Uuid, delete, func, select, text
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from services.gateway.store import SCHEMA

repeats = Table(
    "repeats",
    metadata,
    Column("project", String, primary_key=True),
    Column("key", String, primary_key=True),
    # The audit event of the request that took effect.
    Column("cause", Uuid, nullable=False),
    Column("asked", String, nullable=False),
    # Of its body; with the answer it is null until that was given.
    Column("digest", String),
    Column("status", Integer),
    # Headers and body, encrypted: an answer may hold what is shown once.
    Column("answer", LargeBinary),
    Column("created_at", TIME, nullable=False, server_default=func.now(), index=True),
    schema=SCHEMA,
)


async def claim(unit: Unit, project: str, key: str, cause: UUID, asked: str) -> bool:
    """Note in the transaction of its effect that a keyed request takes effect; False when another did under this key."""
    values = {"project": project, "key": key, "cause": cause, "asked": asked}
    await unit.execute(insert(repeats).values(**values).on_conflict_do_nothing())
    mine = select(repeats.c.cause).where(repeats.c.project == project, repeats.c.key == key)
    return (await unit.execute(mine)).scalar_one() == cause


async def find(engine: AsyncEngine, project: str, key: str) -> Row | None:
    """The request that took effect under this key."""
    async with engine.connect() as connection:
        found = await connection.execute(select(repeats).where(repeats.c.project == project, repeats.c.key == key))
        return found.mappings().one_or_none()


async def settle(engine: AsyncEngine, project: str, key: str, cause: UUID, *, asked: str, **answered: Any) -> None:
    """Keep what was answered (digest, status, answer), also of what needed no claim; and forget what is older than a day."""
    row = {"project": project, "key": key, "cause": cause, "asked": asked, **answered}
    kept = insert(repeats).values(**row)
    kept = kept.on_conflict_do_update(index_elements=["project", "key"], set_=answered, where=repeats.c.cause == cause)
    async with engine.begin() as connection:
        await connection.execute(kept)
        await connection.execute(delete(repeats).where(repeats.c.created_at < func.now() - text("interval '1 day'")))


async def release(engine: AsyncEngine, project: str, key: str, cause: UUID) -> None:
    """Forget a request that was refused after all."""
    mine = (repeats.c.project == project, repeats.c.key == key, repeats.c.cause == cause)
    async with engine.begin() as connection:
        await connection.execute(delete(repeats).where(*mine))
