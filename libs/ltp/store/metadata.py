"""The one MetaData that every service's tables hang on, and the two tables each service has: outbox and inbox.

Alembic compares this with the database, so a table that no migration creates fails a test.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

TIME = DateTime(timezone=True)


def outbox_table(schema: str) -> Table:
    """Messages written in the same transaction as the change they tell of.

    Published rows of facts stay, so that a stream that was emptied can be refilled; telemetry rows are deleted.
    """
    found = metadata.tables.get(f"{schema}.outbox")
    if found is not None:
        return found
    table = Table(
        "outbox",
        metadata,
        Column("id", BigInteger, Identity(), primary_key=True),
        Column("message_id", String, nullable=False, unique=True),
        Column("subject", String, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("keep", Boolean, nullable=False),
        Column("created_at", TIME, nullable=False, server_default=func.now()),
        Column("published_at", TIME),
        # When the stream it was published to was born: a stream born at another time does not hold it.
        Column("stream_born_at", TIME),
        schema=schema,
    )
    Index("ix_outbox_unpublished", table.c.id, postgresql_where=table.c.published_at.is_(None))
    return table


def inbox_table(schema: str) -> Table:
    """Ids of the events whose effects are committed, so that a second delivery has none."""
    found = metadata.tables.get(f"{schema}.inbox")
    if found is not None:
        return found
    return Table(
        "inbox",
        metadata,
        Column("event_id", Uuid, primary_key=True),
        Column("subject", String, nullable=False),
        Column("seen_at", TIME, nullable=False, server_default=func.now()),
        schema=schema,
    )
