"""A service's database: the engine, and the unit of work in which a change and the telling of it commit together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, Executable, Result, event, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ltp.contracts.event import Event
from ltp.store.acting import ACTING
from ltp.store.clock import new_id, now
from ltp.store.envelope import Message, envelope
from ltp.store.metadata import inbox_table, outbox_table


def wake_channel(service: str) -> str:
    """The Postgres channel on which a commit with messages wakes the service's relay."""
    return f"ltp_outbox_{service}"


@dataclass
class Unit:
    """One transaction. Changes made through it and events emitted by it commit together or not at all."""

    connection: AsyncConnection
    service: str
    cause: UUID | None = None
    # The events emitted so far.
    said: list[Event] = field(default_factory=list[Event])
    _messages: list[Message] = field(default_factory=list[Message])

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Run one statement inside the transaction."""
        return await self.connection.execute(statement, parameters)

    async def change(self, statement: Executable) -> int:
        """Run an INSERT, UPDATE or DELETE; returns how many rows it touched: none means that its guard did not hold."""
        result = cast("CursorResult[Any]", await self.connection.execute(statement))
        return result.rowcount

    async def first_time(self, event_id: UUID, subject: str) -> bool:
        """Note that this event takes effect here. False means that it already did."""
        table = inbox_table(self.service)
        statement = insert(table).values(event_id=event_id, subject=subject).on_conflict_do_nothing()
        return await self.change(statement) == 1

    def emit(self, event: Event, about: UUID | str, event_id: UUID | None = None) -> UUID:
        """Say `event` when, and only when, this unit commits. `about` is the id of the noun it tells of."""
        if event.speaker != self.service:
            raise ValueError(f"{event.subject} is said by {event.speaker}, not by {self.service}")
        event_id = event_id or new_id()
        acting = ACTING.get()
        cause = self.cause or (acting.cause if acting and acting.cause != event_id else None)
        message = envelope(event, event_id=event_id, at=now(), about=str(about), cause=cause, acting=acting)
        self._messages.append(message)
        self.said.append(event)
        return event_id

    def send(self, message: Message) -> None:
        """Say a message that is no event (telemetry) when this unit commits."""
        self._messages.append(message)

    async def flush(self) -> None:
        """Write the emitted messages to the outbox and wake the relay at commit."""
        if not self._messages:
            return
        rows = [
            {"message_id": m.id, "subject": m.subject, "headers": m.headers, "payload": m.payload, "keep": m.keep}
            for m in self._messages
        ]
        # A message id that is already there was said before: a re-read telemetry line, for instance.
        await self.execute(insert(outbox_table(self.service)).on_conflict_do_nothing(), rows)
        await self.notify(wake_channel(self.service))
        self._messages.clear()

    async def notify(self, channel: str) -> None:
        """Wake the listeners of a channel when, and only when, this unit commits."""
        await self.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


@dataclass
class Database:
    """The engine of one service and the way to open units on it."""

    engine: AsyncEngine
    service: str
    # Called in each unit before it commits; what it raises rolls the unit back.
    before_commit: Callable[[Unit], Awaitable[None]] | None = None

    @classmethod
    def connect(cls, url: str, service: str) -> Database:
        """Make the engine; no connection is opened yet."""
        engine = create_async_engine(url, pool_size=8, max_overflow=8, pool_recycle=1800)
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        return cls(engine, service)

    @asynccontextmanager
    async def unit(self, cause: UUID | None = None) -> AsyncIterator[Unit]:
        """Open a transaction that commits at the end of the block and rolls back on an exception."""
        async with self.engine.begin() as connection:
            unit = Unit(connection, self.service, cause)
            yield unit
            if self.before_commit is not None:
                await self.before_commit(unit)
            await unit.flush()

    async def close(self) -> None:
        """Close all pooled connections."""
        await self.engine.dispose()


def _refuse_closed(connection: Any, record: Any, proxy: Any) -> None:
    """Let the pool open another connection in place of one that the server has closed.

    The driver knows as soon as the server hangs up. Asking the server each time (`pool_pre_ping`) would be three round
    trips before each unit, and would find no more than this and what breaks a moment later anyway.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError
