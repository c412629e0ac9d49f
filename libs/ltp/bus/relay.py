"""Carries the outbox to JetStream: in order, as soon as it commits, and again until the server acknowledged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from opentelemetry.trace import SpanKind
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from ltp.store.clock import now
from ltp.store.database import Database
from ltp.store.metadata import outbox_table
from ltp.store.patience import wait_at_most
from ltp.telemetry.metrics import PUBLISHED
from ltp.telemetry.spans import record

_BATCH = 256
_POLL_SECONDS = 1.0
_PUBLISH_TIMEOUT_SECONDS = 5.0


@dataclass
class Relay:
    """One per service. Two at once are harmless: JetStream drops the second publish by its message id.

    `wake` is set when a commit with messages was notified.
    """

    database: Database
    js: JetStreamContext
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    # When the stream was born, as far as is known: read before a publish, so that it is never newer than the truth.
    stream_born_at: datetime | None = None

    async def run(self) -> None:
        """Publish until cancelled; outages of either side are waited out."""
        while True:
            await self._drain_once()

    async def _drain_once(self) -> None:
        self.wake.clear()
        try:
            while await self.publish_batch() == _BATCH:
                pass
        except (TimeoutError, OSError, DBAPIError, NatsError) as error:
            structlog.get_logger().warning("outbox waits", error=repr(error)[:200])
        await wait_at_most(self.wake, _POLL_SECONDS)

    async def publish_batch(self) -> int:
        """Publish the oldest unpublished messages; returns how many. No transaction is open while NATS is asked."""
        table, born_at = outbox_table(self.database.service), self.stream_born_at
        async with self.database.engine.connect() as connection:
            query = select(table).where(table.c.published_at.is_(None)).order_by(table.c.id).limit(_BATCH)
            rows = (await connection.execute(query)).mappings().all()
        if not rows:
            return 0
        for row in rows:
            await self._publish(row)
            _trace(row)
        told = [row["id"] for row in rows]
        async with self.database.engine.begin() as connection:
            published = {"published_at": now(), "stream_born_at": born_at}
            await connection.execute(update(table).where(table.c.id.in_(told), table.c.keep).values(**published))
            await connection.execute(delete(table).where(table.c.id.in_(told), ~table.c.keep))
        PUBLISHED.labels(self.database.service).inc(len(rows))
        return len(rows)

    async def republish_all(self) -> int:
        """Publish every kept fact again, oldest first: refills an emptied stream. Listeners drop what they have seen."""
        table, told = outbox_table(self.database.service), 0
        async with self.database.engine.connect() as connection:
            rows = await connection.stream(select(table).where(table.c.keep).order_by(table.c.id))
            async for row in rows.mappings():
                await self._publish(row)
                told += 1
        return told

    async def _publish(self, row: Any) -> None:
        await self.js.publish(
            row["subject"], row["payload"], timeout=_PUBLISH_TIMEOUT_SECONDS, headers=dict(row["headers"])
        )


def _trace(row: Any) -> None:
    """The message's way through the outbox as a span of the trace it was said in."""
    headers = row["headers"]
    if "traceparent" not in headers or not row["keep"]:
        return
    attributes = {
        "messaging.system": "nats",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": row["subject"],
        "messaging.message.id": row["message_id"],
    }
    record(f"publish {row['subject']}", row["created_at"], now(), attributes, parent=headers, kind=SpanKind.PRODUCER)
