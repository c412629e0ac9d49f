"""A scrape answered: gauges read where their truth is, then everything written in Prometheus's text format.

A part that cannot be read (a database that is down) is left out and counted; the rest is told, since that is when it matters.
"""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.bus.subscriptions import subscriptions_of
from ltp.store.database import Database
from ltp.store.metadata import outbox_table
from ltp.telemetry import metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST
Reading = Callable[[AsyncConnection], Awaitable[None]]
BusReading = Callable[[JetStreamContext], Awaitable[None]]

# A scrape must not wait longer than Prometheus does (10 s by default), nor long for a database that hangs.
_DATABASE_SECONDS = 3.0
_BUS_SECONDS = 2.0


class Exposition:
    """What one service tells at a scrape. `readings` set the gauges that the service reads from its tables."""

    def __init__(
        self,
        database: Database,
        js: Callable[[], JetStreamContext],
        ready: Callable[[], bool],
        healthy: Callable[[], bool],
    ) -> None:
        self.readings: dict[str, Reading] = {}
        self.bus_readings: dict[str, BusReading] = {"consumers": self._read_consumers}
        self._database, self._js, self._ready, self._healthy = database, js, ready, healthy
        self._lock = asyncio.Lock()

    async def text(self) -> bytes:
        """Everything, as Prometheus reads it. Scrapes at the same time wait for one another: gauges are replaced whole."""
        service = self._database.service
        async with self._lock:
            metrics.READY.labels(service).set(self._healthy())
            metrics.DATABASE_UP.labels(service).set(await self._read_database())
            if self._healthy():
                for name, reading in self.bus_readings.items():
                    await self._guarded(name, asyncio.wait_for(reading(self._js()), _BUS_SECONDS))
            return generate_latest(metrics.REGISTRY)

    async def _read_database(self) -> bool:
        if not self._ready():
            return False
        readings = {"outbox": self._read_outbox, **self.readings}

        async def read(name: str, reading: Reading) -> bool:
            async with self._database.engine.connect() as connection:
                return await self._guarded(name, reading(connection))

        try:
            async with asyncio.timeout(_DATABASE_SECONDS):
                return all([await read(name, reading) for name, reading in readings.items()])
        except (OSError, DBAPIError, TimeoutError):
            metrics.READ_FAILURES.labels(self._database.service, "database").inc()
            return False

    async def _guarded(self, name: str, reading: Awaitable[Any]) -> bool:
        try:
            await reading
        except (OSError, DBAPIError, NatsError, TimeoutError):
            metrics.READ_FAILURES.labels(self._database.service, name).inc()
            return False
        return True

    async def _read_outbox(self, connection: AsyncConnection) -> None:
        table = outbox_table(self._database.service)
        age = func.extract("epoch", func.now() - func.min(table.c.created_at))
        query = select(func.count(), func.coalesce(age, 0)).where(table.c.published_at.is_(None))
        waiting, oldest = (await connection.execute(query)).one()
        metrics.OUTBOX_WAITING.labels(self._database.service).set(waiting)
        metrics.OUTBOX_AGE.labels(self._database.service).set(float(oldest))

    async def _read_consumers(self, js: JetStreamContext) -> None:
        service = self._database.service
        found = [await js.consumer_info(s.stream, s.durable) for s in subscriptions_of(service)]
        values = [({"service": service, "consumer": i.name}, float(i.num_pending or 0)) for i in found]
        metrics.replace_all(metrics.CONSUMER_PENDING, values)
