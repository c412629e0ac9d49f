"""Registered hosts and the reports of their tests: the tables, and every statement that is run on them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Column, DateTime, String, Table, Uuid, cast, delete, func, select, update
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.host_access import HostCheck, HostRegistered
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from services.runner.store import SCHEMA

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", String, primary_key=True),
    Column("access", JSONB, nullable=False),
    Column("secret", String, nullable=False),
    # The OpenSSH public key that the host must show, and what it showed at the last look when that was another.
    Column("pinned_key", String),
    Column("fingerprint", String),
    Column("shown_fingerprint", String),
    # The working directory and the interpreter as they really are, once the host was reached.
    Column("root", String),
    Column("interpreter", String),
    Column("reached_at", DateTime(timezone=True)),
    Column("problem", JSONB),
    # Moved by every change that makes the present connection one to another place, or as somebody else.
    Column("changed_at", TIME, nullable=False, server_default=func.now()),
    schema=SCHEMA,
)
reports = Table(
    "host_reports",
    metadata,
    Column("report_id", Uuid, primary_key=True),
    Column("host_id", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    Column("checks", JSONB, nullable=False),
    Column("started_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    schema=SCHEMA,
)


async def register(unit: Unit, event: HostRegistered) -> None:
    """Note a host, or that it is reached another way: the pinned key stays only where the address does."""
    access = event.access.model_dump(mode="json")
    before = (await unit.execute(select(hosts).where(hosts.c.host_id == event.host_id))).mappings().one_or_none()
    values: dict[str, Any] = {
        "access": access, "secret": event.secret, "root": None, "interpreter": None, "reached_at": None, "problem": None,
        "changed_at": now(),
    }  # fmt: skip
    same = before is not None and all(before["access"][key] == access[key] for key in ("backend", "address", "port"))
    if not same:
        values |= {"pinned_key": None, "fingerprint": None, "shown_fingerprint": None}
    statement = insert(hosts).values(host_id=event.host_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["host_id"], set_=values))


async def remove(unit: Unit, host_id: str) -> None:
    """Forget a host and the reports of its tests."""
    await unit.execute(delete(hosts).where(hosts.c.host_id == host_id))
    await unit.execute(delete(reports).where(reports.c.host_id == host_id))


async def all_hosts(engine: AsyncEngine, host_id: str | None = None) -> list[Row]:
    """Registered hosts by name; one or all."""
    query = select(hosts).order_by(hosts.c.host_id)
    if host_id is not None:
        query = query.where(hosts.c.host_id == host_id)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())


async def note(unit: Unit, host_id: str, **values: Any) -> bool:
    """Record what was found of a host; False when it is registered no more."""
    return await unit.change(update(hosts).where(hosts.c.host_id == host_id).values(**values)) == 1


async def pin(unit: Unit, host_id: str, key: str, fingerprint: str) -> bool:
    """Pin the key of a first contact; False when one was pinned meanwhile."""
    first = hosts.c.host_id == host_id, hosts.c.pinned_key.is_(None)
    statement = update(hosts).where(*first).values(pinned_key=key, fingerprint=fingerprint, shown_fingerprint=None)
    return await unit.change(statement) == 1


async def trust(unit: Unit, host_id: str, fingerprint: str) -> None:
    """Forget the pinned key; the next one shown must have this fingerprint."""
    access = hosts.c.access.concat(cast({"host_key": fingerprint}, JSONB))
    values = {"pinned_key": None, "fingerprint": None, "shown_fingerprint": None, "problem": None, "access": access}
    await unit.execute(update(hosts).where(hosts.c.host_id == host_id).values(**values, changed_at=now()))


async def open_report(unit: Unit, host_id: str, report_id: UUID) -> None:
    """Note that a test begins; begun again, it starts from nothing."""
    values = {"state": "running", "checks": [], "started_at": now(), "ended_at": None}
    statement = insert(reports).values(report_id=report_id, host_id=host_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["report_id"], set_=values))


async def note_checks(unit: Unit, report_id: UUID, checks: list[HostCheck], *, done: bool) -> None:
    """What the test has found until now."""
    values: dict[str, Any] = {"checks": [check.model_dump(mode="json") for check in checks]}
    if done:
        values |= {"state": "done", "ended_at": now()}
    await unit.execute(update(reports).where(reports.c.report_id == report_id).values(**values))


async def read_report(engine: AsyncEngine, host_id: str, report_id: UUID | None = None) -> Row | None:
    """A report of a host: the one asked for, or the newest."""
    query = select(reports).where(reports.c.host_id == host_id).order_by(reports.c.started_at.desc()).limit(1)
    if report_id is not None:
        query = query.where(reports.c.report_id == report_id)
    async with engine.connect() as connection:
        return (await connection.execute(query)).mappings().one_or_none()
