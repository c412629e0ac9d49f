"""The tables of webhooks and their deliveries, and every statement on them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order
from services.gateway.store import SCHEMA, events, subject_is

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("url", String, nullable=False),
    # None is every project.
    Column("project", String),
    Column("subjects", JSONB, nullable=False),
    Column("about", String),
    Column("mode", String, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("reason", String),
    Column("position", BigInteger, nullable=False),
    # Counts replays, so that an event that was delivered can be put in again.
    Column("round", Integer, nullable=False, server_default=text("0")),
    Column("failing_since", TIME),
    Column("old_secret_until", TIME),
    Column("created_by", String, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("changed_at", TIME, nullable=False, server_default=func.now()),
    schema=SCHEMA,
)
_SORTED_BY = {name: webhooks.c[name] for name in ("name", "changed_at")}
deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", BigInteger, Identity(), primary_key=True),
    Column("webhook_id", Uuid, nullable=False),
    Column("round", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("subject", String, nullable=False),
    Column("state", String, nullable=False, server_default=text("'pending'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("status", Integer),
    Column("problem", String),
    # When it is tried next. While it is being tried: when somebody else may, should this process die.
    Column("next_at", TIME, server_default=func.now()),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("delivered_at", TIME),
    UniqueConstraint("webhook_id", "round", "seq"),
    schema=SCHEMA,
)
Index("ix_deliveries_due", deliveries.c.webhook_id, deliveries.c.next_at, postgresql_where=text("state = 'pending'"))

# A few of each webhook, so that one with a long queue, or a slow receiver, does not hold up the others.
_DUE = text("""
    SELECT d.delivery_id FROM gateway.webhooks w CROSS JOIN LATERAL (
        SELECT delivery_id FROM gateway.deliveries d WHERE d.webhook_id = w.webhook_id AND d.state = 'pending'
        AND d.next_at <= now() ORDER BY d.next_at, d.delivery_id LIMIT :each FOR UPDATE SKIP LOCKED) d
    WHERE w.enabled AND NOT w.webhook_id = ANY(:busy) LIMIT :most
""")
_MOST_PENDING = 1000


async def add(unit: Unit, row: dict[str, Any], most: int) -> bool:
    """Keep a webhook; False when its project has `most` already."""
    same = webhooks.c.project.is_not_distinct_from(row["project"])
    count = (await unit.execute(select(func.count()).select_from(webhooks).where(same))).scalar_one()
    if count >= most:
        return False
    await unit.execute(insert(webhooks).values(**row))
    return True


async def find(engine: AsyncEngine, key: str, project: str | None) -> list[Row]:
    """Webhooks of this id or name; of a project, where one is given."""
    same = [webhooks.c.name == key]
    try:
        same.append(webhooks.c.webhook_id == UUID(key))
    except ValueError:
        pass
    return await _all(engine, _mine(project).where(or_(*same)))


async def listed(engine: AsyncEngine, project: str | None, page: PageQuery) -> list[Row]:
    """A page of webhooks."""
    return await _all(engine, in_order(_mine(project), page, webhooks.c.webhook_id, _SORTED_BY))


async def change(unit: Unit, webhook_id: UUID, values: dict[str, Any]) -> bool:
    """Change a webhook; False when it is gone."""
    values = {**values, "changed_at": func.now()}
    return await unit.change(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(**values)) == 1


async def remove(unit: Unit, webhook_id: UUID) -> None:
    """Forget a webhook and its deliveries."""
    await unit.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
    await unit.execute(delete(webhooks).where(webhooks.c.webhook_id == webhook_id))


async def last_seq(engine: AsyncEngine) -> int:
    """The newest event's sequence number."""
    async with engine.connect() as connection:
        return await connection.scalar(select(func.coalesce(func.max(events.c.seq), 0))) or 0


async def seq_before(engine: AsyncEngine, since: datetime) -> int:
    """The sequence number after which everything said since a time lies."""
    async with engine.connect() as connection:
        first = await connection.scalar(select(func.min(events.c.seq)).where(events.c.at >= since))
    return first - 1 if first is not None else await last_seq(engine)


async def enabled(engine: AsyncEngine) -> list[UUID]:
    """The webhooks that want events."""
    async with engine.connect() as connection:
        return list((await connection.execute(select(webhooks.c.webhook_id).where(webhooks.c.enabled))).scalars())


async def put_in(unit: Unit, webhook_id: UUID, most: int) -> int:
    """Put in deliveries of the next events a webhook wants, up to `most`; returns how many. Each event once a round."""
    locked = select(webhooks).where(webhooks.c.webhook_id == webhook_id, webhooks.c.enabled)
    hook = (await unit.execute(locked.with_for_update(skip_locked=True))).mappings().one_or_none()
    if hook is None:
        return 0
    waits = select(func.count()).where(deliveries.c.webhook_id == webhook_id, deliveries.c.state == "pending")
    room = min(most, _MOST_PENDING - (await unit.execute(waits)).scalar_one())
    if room <= 0:
        return 0
    last = (await unit.execute(select(func.coalesce(func.max(events.c.seq), 0)))).scalar_one()
    if last <= hook["position"]:
        return 0
    wanted = select(events.c.seq, events.c.event_id, events.c.subject).where(
        events.c.seq > hook["position"], events.c.seq <= last, or_(*map(subject_is, hook["subjects"]))
    )
    for column, value in ((events.c.project, hook["project"]), (events.c.about, hook["about"])):
        wanted = wanted if value is None else wanted.where(column == value)
    found = (await unit.execute(wanted.order_by(events.c.seq).limit(room))).mappings().all()
    if found:
        rows = [{"webhook_id": webhook_id, "round": hook["round"], **row} for row in found]
        await unit.execute(insert(deliveries).on_conflict_do_nothing(), rows)
    position = found[-1]["seq"] if len(found) == room else last
    await unit.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(position=position))
    return len(found)


async def claim(unit: Unit, busy: Iterable[UUID], *, each: int, most: int, lease: timedelta) -> list[Row]:
    """Take deliveries that are due, with what is to be sent where. A try is counted before it is made."""
    ids = (await unit.execute(_DUE, {"busy": list(busy), "each": each, "most": most})).scalars().all()
    if not ids:
        return []
    taken = update(deliveries).where(deliveries.c.delivery_id.in_(ids))
    await unit.execute(taken.values(attempts=deliveries.c.attempts + 1, next_at=func.now() + lease))
    sent = [deliveries.c[name] for name in ("delivery_id", "webhook_id", "seq", "attempts")]
    hook = [webhooks.c[name] for name in ("url", "mode", "old_secret_until", "name")]
    said = [events.c[name] for name in ("event_id", "subject", "about", "cause", "at", "data", "project", "actor")]
    query = select(*sent, *hook, *said).select_from(
        deliveries.join(webhooks, webhooks.c.webhook_id == deliveries.c.webhook_id).join(
            events, events.c.seq == deliveries.c.seq
        )
    )
    found = await unit.execute(query.where(deliveries.c.delivery_id.in_(ids)).order_by(deliveries.c.delivery_id))
    return list(found.mappings().all())


async def settle(unit: Unit, delivery_id: int, attempts: int, values: dict[str, Any]) -> bool:
    """Note how a try ended; False when somebody else has tried since."""
    same = (deliveries.c.delivery_id == delivery_id) & (deliveries.c.attempts == attempts)
    return await unit.change(update(deliveries).where(same, deliveries.c.state == "pending").values(**values)) == 1


async def note_health(unit: Unit, webhook_id: UUID, *, good: bool) -> datetime | None:
    """Note that a receiver answered, or did not; returns since when it fails."""
    since = None if good else func.coalesce(webhooks.c.failing_since, func.now())
    changed = update(webhooks).where(webhooks.c.webhook_id == webhook_id)
    if good:
        changed = changed.where(webhooks.c.failing_since.is_not(None))
    found = await unit.execute(changed.values(failing_since=since).returning(webhooks.c.failing_since))
    return found.scalar_one_or_none()


async def disable(unit: Unit, webhook_id: UUID, reason: str) -> bool:
    """Send nothing more; True for the first to say so."""
    changed = update(webhooks).where(webhooks.c.webhook_id == webhook_id, webhooks.c.enabled)
    return await unit.change(changed.values(enabled=False, reason=reason, changed_at=func.now())) == 1


async def rewind(unit: Unit, webhook_id: UUID, position: int) -> None:
    """Put everything after a position in again."""
    values = {"position": position, "round": webhooks.c.round + 1}
    await unit.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(**values))


async def revive(unit: Unit, webhook_id: UUID, delivery_id: int | None) -> int:
    """Try again what was given up, or one delivery whatever became of it; returns how many."""
    which = deliveries.c.state == "dead" if delivery_id is None else deliveries.c.delivery_id == delivery_id
    fresh = {"state": "pending", "attempts": 0, "next_at": func.now(), "delivered_at": None}
    return await unit.change(update(deliveries).where(deliveries.c.webhook_id == webhook_id, which).values(**fresh))


async def list_deliveries(
    engine: AsyncEngine, webhook_id: UUID, *, state: str | None, before: int | None, limit: int
) -> list[Row]:
    """Deliveries, newest first."""
    query = select(deliveries).where(deliveries.c.webhook_id == webhook_id)
    if state is not None:
        query = query.where(deliveries.c.state == state)
    if before is not None:
        query = query.where(deliveries.c.delivery_id < before)
    return await _all(engine, query.order_by(deliveries.c.delivery_id.desc()).limit(limit))


async def prune(unit: Unit, older_than: datetime) -> int:
    """Forget what was delivered before; what was given up stays until somebody removes its webhook."""
    old = (deliveries.c.state == "delivered") & (deliveries.c.delivered_at < older_than)
    return await unit.change(delete(deliveries).where(old))


def _mine(project: str | None) -> Any:
    return select(webhooks) if project is None else select(webhooks).where(webhooks.c.project == project)


async def _all(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())
