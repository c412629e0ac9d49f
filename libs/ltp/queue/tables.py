"""The table of work. It has a schema of its own because every service puts work in and takes work out."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, String, Table, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB

from ltp.store.metadata import TIME, metadata

work = Table(
    "work",
    metadata,
    Column("id", Uuid, primary_key=True),
    # Which of the five queues, and what kind of work: the kind names who can do it.
    Column("queue", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("payload", JSONB, nullable=False),
    # The same key is enqueued once, however often its cause is delivered.
    Column("dedup_key", String, nullable=False, unique=True),
    Column("state", String, nullable=False),
    Column("sort_at", TIME, nullable=False),
    Column("run_at", TIME, nullable=False),
    # Devices wanted: {"count": 1, "kind": "cpu"}; null for work that needs none. `placement` is given by the scheduler.
    Column("wants", JSONB),
    Column("placement", JSONB),
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("worker", String),
    Column("lease_token", Uuid),
    Column("lease_until", TIME),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("problem", JSONB),
    Column("enqueued_at", TIME, nullable=False, server_default=func.now()),
    Column("started_at", TIME),
    Column("ended_at", TIME),
    # The trace the work belongs to, so that its spans join it.
    Column("trace", JSONB, nullable=False, server_default=text("'{}'")),
    schema="queue",
)
Index("ix_work_open", work.c.kind, work.c.sort_at, postgresql_where=work.c.state.in_(["queued", "running"]))
