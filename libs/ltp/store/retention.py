"""Deletes what outboxes and inboxes no longer need. The tables of every service are of one make, so one chore keeps them small.

A published event is kept longer than the stream keeps it, so that `ltp events refill` can restore all the stream held. The
note that an event was seen is kept longer than the event can come again: until the outbox has forgotten it and a
stream refilled on its last day has too.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Table, delete, select
from sqlalchemy.sql.elements import ColumnElement

from ltp.store.clock import now
from ltp.store.database import Database
from ltp.store.metadata import inbox_table, outbox_table

_BATCH = 10_000


async def prune_outbox(database: Database, service: str, older_than: timedelta) -> int:
    """Delete published messages older than this; what is not yet published stays, however old. Returns how many."""
    table = outbox_table(service)
    return await _prune(database, table, table.c.id, table.c.published_at < now() - older_than)


async def prune_inbox(database: Database, service: str, older_than: timedelta) -> int:
    """Delete notes of events seen longer ago than this. Returns how many."""
    table = inbox_table(service)
    return await _prune(database, table, table.c.event_id, table.c.seen_at < now() - older_than)


async def _prune(database: Database, table: Table, key: ColumnElement[object], old: ColumnElement[bool]) -> int:
    """In transactions of a bounded size, so that nobody waits long behind one."""
    deleted = 0
    while True:
        async with database.unit() as unit:
            count = await unit.change(delete(table).where(key.in_(select(key).where(old).limit(_BATCH))))
        deleted += count
        if count < _BATCH:
            return deleted
