"""The tables of searches for duplicates and leaks. What they found stands in files named after them, which can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Boolean, Column, Float, Integer, String, Table, Uuid, func, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order

SCHEMA = "dataset"

dedups = Table(
    "dedups",
    metadata,
    Column("dedup_id", Uuid, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("version", String, nullable=False),
    Column("against", JSONB, nullable=False),
    Column("method", String, nullable=False),
    Column("part", String, nullable=False),
    Column("model", String),
    Column("thresholds", JSONB, nullable=False),
    Column("floor", JSONB),
    Column("state", String, nullable=False),
    Column("progress", Float, nullable=False, server_default="0"),
    Column("rows", Integer),
    Column("removals", Integer),
    # Versions made by applying it: [{"name", "version"}].
    Column("applied", JSONB, nullable=False, server_default="[]"),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    schema=SCHEMA,
)

leak_checks = Table(
    "leak_checks",
    metadata,
    Column("check_id", Uuid, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("version", String, nullable=False, index=True),
    Column("against", JSONB, nullable=False),
    Column("ask", JSONB, nullable=False),
    Column("state", String, nullable=False),
    Column("rows", Integer),
    Column("evaluation_rows", Integer),
    Column("compared_vectors", Boolean),
    Column("leaks", Integer),
    # The first of them, each with both rows.
    Column("found", JSONB, nullable=False, server_default="[]"),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    # Whose check it is: its warnings name what else they have.
    Column("project", String),
    schema=SCHEMA,
)

_KEYS = {"dedups": dedups.c.dedup_id, "leak_checks": leak_checks.c.check_id}


async def add(unit: Unit, table: Table, values: Mapping[str, Any]) -> None:
    """Note a request; one that is there stays."""
    await unit.execute(insert(table).values(state="queued", **values).on_conflict_do_nothing())


async def change(unit: Unit, table: Table, key: UUID, **values: Any) -> bool:
    """Change one that is not over; False when it is."""
    statement = update(table).where(_KEYS[table.name] == key, table.c.ended_at.is_(None))
    return await unit.change(statement.values(**values)) == 1


async def end(unit: Unit, table: Table, key: UUID, **values: Any) -> bool:
    """Note the end once."""
    return await change(unit, table, key, ended_at=now(), **values)


async def note_applied(unit: Unit, key: UUID, version: dict[str, str]) -> None:
    """Add a version made by applying it; the same one is noted once."""
    # The comparison holds the row's lock until the commit.
    found = await unit.execute(select(dedups.c.applied).where(dedups.c.dedup_id == key).with_for_update())
    applied: list[dict[str, str]] = found.scalar_one()
    if version not in applied:
        await unit.execute(update(dedups).where(dedups.c.dedup_id == key).values(applied=[*applied, version]))


async def one(engine: AsyncEngine, table: Table, key: UUID) -> Mapping[str, Any] | None:
    """One of them."""
    async with engine.connect() as connection:
        found = await connection.execute(select(table).where(_KEYS[table.name] == key))
        return cast(Any, found.mappings().one_or_none())


async def listed(
    engine: AsyncEngine, table: Table, name: str, page: PageQuery, version: str | None = None
) -> list[Mapping[str, Any]]:
    """A page of those of a name."""
    mine = select(table).where(table.c.name == name)
    statement = in_order(mine, page, next(iter(table.primary_key)), {"state": table.c.state})
    if version is not None:
        statement = statement.where(table.c.version == version)
    async with engine.connect() as connection:
        return cast(Any, list((await connection.execute(statement)).mappings()))
