"""The tables of work, its limits and its workers. They have a schema of their own because every service puts work in and takes work out."""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, Index, Integer, String, Table, Uuid, func, text
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
    # The turn: `order by sort_at, id` is the order in which work is taken (ltp.queue.policy.turn).
    Column("sort_at", TIME, nullable=False),
    Column("run_at", TIME, nullable=False),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    # Quotas are kept by project, fair share by owner.
    Column("project", String, nullable=False, server_default=text("'default'")),
    Column("owner", String, nullable=False, server_default=text("'default'")),
    # Devices wanted: {"count": 1, "kind": "cpu"}; null for work that needs none. `placement` is given by the scheduler.
    Column("wants", JSONB),
    Column("placement", JSONB),
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    # How often a worker fell silent with this work in hand.
    Column("deaths", Integer, nullable=False, server_default=text("0")),
    Column("worker", String),
    Column("lease_token", Uuid),
    Column("lease_until", TIME),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("problem", JSONB),
    # Whether the world was told of its death.
    Column("told", Boolean, nullable=False, server_default=text("false")),
    Column("enqueued_at", TIME, nullable=False, server_default=func.now()),
    Column("started_at", TIME),
    Column("claimed_at", TIME),
    Column("ended_at", TIME),
    # The trace the work belongs to, so that its spans join it.
    Column("trace", JSONB, nullable=False, server_default=text("'{}'")),
    schema="queue",
)

# Each statement of ltp.queue.statements reads the head of one of these, however much waits behind it.
# Work whose cancellation was asked for needs no devices to end.
READY = "state = 'queued' AND (wants IS NULL OR placement IS NOT NULL OR cancel_requested)"
UNPLACED = "state = 'queued' AND wants IS NOT NULL AND placement IS NULL AND NOT cancel_requested"
Index("ix_work_ready", work.c.kind, work.c.sort_at, work.c.id, postgresql_where=text(READY))
Index("ix_work_lane", work.c.kind, work.c.queue, work.c.project, work.c.sort_at, postgresql_where=text(READY))
Index("ix_work_unplaced", work.c.queue, work.c.project, work.c.sort_at, postgresql_where=text(UNPLACED))
Index("ix_work_first", work.c.queue, work.c.priority, work.c.sort_at, postgresql_where=text("state = 'queued'"))
Index(
    "ix_work_owner",
    *(work.c.queue, work.c.owner, work.c.priority, work.c.sort_at),
    postgresql_where=text("state IN ('queued', 'running')"),
)
# Without lease_until: a heartbeat changes no index.
Index("ix_work_running", work.c.kind, postgresql_where=text("state = 'running'"))
Index("ix_work_ended", work.c.ended_at, postgresql_where=text("state IN ('done', 'failed', 'cancelled')"))

Index("ix_work_dead", work.c.queue, postgresql_where=text("state = 'failed'"))
Index("ix_work_untold", work.c.id, postgresql_where=text("state = 'failed' AND NOT told"))

limits = Table(
    "limits",
    metadata,
    # 'queue' or 'project', and which; `restricts` is false where everything was lifted again.
    Column("scope", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("max_running", Integer),
    Column("max_devices", Integer),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("restricts", Boolean, nullable=False),
    Column("changed_at", TIME, nullable=False, server_default=func.now()),
    CheckConstraint("scope IN ('queue', 'project')", name="scope"),
    schema="queue",
)

workers = Table(
    "workers",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started_at", TIME, nullable=False, server_default=func.now()),
    Column("seen_at", TIME, nullable=False, server_default=func.now()),
    schema="queue",
)
