"""The table of subscribers' accounts on the bus, and every statement on it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, String, Table, Uuid, func, or_, select, update
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order
from services.gateway.store import SCHEMA

accounts = Table(
    "bus_accounts",
    metadata,
    Column("account_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("user", String, nullable=False, unique=True),
    # None is every project.
    Column("project", String),
    Column("subjects", JSONB, nullable=False),
    Column("digest", String, nullable=False),
    # The account is given what came after this sequence number.
    Column("position", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("expires_at", TIME),
    Column("revoked_at", TIME),
    schema=SCHEMA,
)
_SORTED_BY = {name: accounts.c[name] for name in ("name", "expires_at")}
_GOOD = accounts.c.revoked_at.is_(None) & or_(accounts.c.expires_at.is_(None), accounts.c.expires_at > func.now())


async def add(unit: Unit, row: dict[str, Any]) -> None:
    """Keep an account."""
    await unit.execute(insert(accounts).values(**row))


async def good(engine: AsyncEngine) -> list[Row]:
    """Accounts that may connect now."""
    return await _all(engine, select(accounts).where(_GOOD).order_by(accounts.c.account_id))


async def listed(engine: AsyncEngine, project: str | None, page: PageQuery) -> list[Row]:
    """A page of the accounts of a project or of all, revoked ones too."""
    query = in_order(select(accounts), page, accounts.c.account_id, _SORTED_BY)
    return await _all(engine, query if project is None else query.where(accounts.c.project == project))


async def find(engine: AsyncEngine, key: str, project: str | None) -> list[Row]:
    """Accounts of this id or user, or the ones of this name that are not revoked."""
    same = [accounts.c.user == key, (accounts.c.name == key) & accounts.c.revoked_at.is_(None)]
    try:
        same.append(accounts.c.account_id == UUID(key))
    except ValueError:
        pass
    query = select(accounts).where(or_(*same))
    return await _all(engine, query if project is None else query.where(accounts.c.project == project))


async def move(unit: Unit, account_id: UUID, position: int) -> None:
    """Note from where on an account is given events."""
    await unit.execute(update(accounts).where(accounts.c.account_id == account_id).values(position=position))


async def revoke(unit: Unit, account_id: UUID) -> None:
    """Revoke an account; the first time counts."""
    same = (accounts.c.account_id == account_id) & accounts.c.revoked_at.is_(None)
    await unit.execute(update(accounts).where(same).values(revoked_at=func.now()))


async def _all(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())
