"""Which project a noun belongs to: ids of jobs, datasets, evaluations …, and names (`dataset:sums`). First come, first owned."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from sqlalchemy import Column, Executable, Result, String, Table, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.store.database import Unit
from ltp.store.metadata import metadata
from services.gateway.store import SCHEMA

owners = Table(
    "owners",
    metadata,
    Column("noun", String, primary_key=True),
    Column("project", String, nullable=False),
    schema=SCHEMA,
)


async def claim(unit: Unit, nouns: Iterable[str], project: str) -> dict[str, str]:
    """Give a project what has no owner yet; returns those that belong to another, with whom."""
    wanted = sorted(set(nouns))
    if not wanted:
        return {}
    rows = [{"noun": noun, "project": project} for noun in wanted]
    await unit.execute(insert(owners).on_conflict_do_nothing(), rows)
    return {noun: owner for noun, owner in (await _of(unit.execute, wanted)).items() if owner != project}


async def owners_of(engine: AsyncEngine, nouns: Iterable[str]) -> dict[str, str]:
    """The projects of those that have one."""
    wanted = sorted(set(nouns))
    if not wanted:
        return {}
    async with engine.connect() as connection:
        return await _of(connection.execute, wanted)


async def owner_in(unit: Unit, nouns: Iterable[str]) -> str | None:
    """The project of the first that has one."""
    wanted = list(nouns)
    found = await _of(unit.execute, wanted) if wanted else {}
    return next((found[noun] for noun in wanted if noun in found), None)


async def _of(execute: Callable[[Executable], Awaitable[Result[Any]]], nouns: list[str]) -> dict[str, str]:
    found = await execute(select(owners.c.noun, owners.c.project).where(owners.c.noun.in_(nouns)))
    return {row.noun: row.project for row in found}
