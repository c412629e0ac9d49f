"""The table of tokens and every statement on it. Only digests are kept; who asks by a token asks by its digest."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, String, Table, Uuid, func, or_, select, update
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order
from services.gateway.store import SCHEMA

# Told when a token was revoked, so that no process goes on believing in it.
TOKENS_CHANNEL = "ltp_gateway_tokens"

tokens = Table(
    "tokens",
    metadata,
    Column("token_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    # None is every project.
    Column("project", String),
    # None is all that the role grants.
    Column("scopes", JSONB(none_as_null=True)),
    Column("created_by", String, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("expires_at", TIME),
    Column("last_used_at", TIME),
    Column("revoked_at", TIME),
    schema=SCHEMA,
)
_SORTED_BY = {name: tokens.c[name] for name in ("name", "role", "expires_at", "last_used_at")}


async def add(unit: Unit, row: dict[str, Any]) -> bool:
    """Keep a token; False when its digest is known, revoked or not."""
    return await unit.change(insert(tokens).values(**row).on_conflict_do_nothing()) == 1


async def by_digest(engine: AsyncEngine, digest: str) -> Row | None:
    """The token of this digest, if it is good now."""
    good = tokens.c.revoked_at.is_(None) & or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > func.now())
    async with engine.connect() as connection:
        found = await connection.execute(select(tokens).where(tokens.c.digest == digest, good))
        return found.mappings().one_or_none()


async def find(engine: AsyncEngine, key: str) -> list[Row]:
    """Tokens with this id, prefix or name."""
    same = [tokens.c.prefix == key, tokens.c.name == key]
    try:
        same.append(tokens.c.token_id == UUID(key))
    except ValueError:
        pass  # A name or a prefix, then.
    async with engine.connect() as connection:
        return list((await connection.execute(select(tokens).where(or_(*same)))).mappings())


async def listed(engine: AsyncEngine, project: str | None, page: PageQuery) -> list[Row]:
    """A page of the tokens of a project, or of all."""
    query = in_order(select(tokens), page, tokens.c.token_id, _SORTED_BY)
    if project is not None:
        query = query.where(tokens.c.project == project)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings())


async def revoke(unit: Unit, token_id: UUID) -> None:
    """No request with it passes any more, in any process, once this commits."""
    good = tokens.c.revoked_at.is_(None)
    await unit.execute(update(tokens).where(tokens.c.token_id == token_id, good).values(revoked_at=func.now()))
    await unit.notify(TOKENS_CHANNEL)


async def used(engine: AsyncEngine, when: dict[UUID, datetime]) -> None:
    """Note when tokens were last used."""
    async with engine.begin() as connection:
        for token_id, at in when.items():
            await connection.execute(update(tokens).where(tokens.c.token_id == token_id).values(last_used_at=at))
