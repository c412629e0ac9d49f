"""A service's database: the engine, and the unit of work in which a change and the telling of it commit together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
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
from ltp.store.metadata import inbox_table
from ltp.store.together import Rows, Together, joined


def wake_channel(service: str) -> str:
    """The Postgres channel on which a commit with messages wakes the service's relay."""
    return f"ltp_outbox_{service}"


@cache
def add_to_outbox(service: str) -> str:
    """Adds messages. One whose id is there was said before: a re-read telemetry line, for instance."""
    # The name is one of our services', never input.
    return f"""
INSERT INTO {service}.outbox (message_id, subject, headers, payload, keep)
SELECT n.message_id, n.subject, n.headers, n.payload, n.keep FROM unnest(
    (SELECT CAST(:message_id AS text[])), (SELECT CAST(:subject AS text[])), (SELECT CAST(:headers AS jsonb[])),
    (SELECT CAST(:payload AS bytea[])), (SELECT CAST(:keep AS bool[])))
    WITH ORDINALITY AS n(message_id, subject, headers, payload, keep, place) ORDER BY n.place
ON CONFLICT (message_id) DO NOTHING RETURNING pg_notify('{wake_channel(service)}', '')
"""  # noqa: S608


@dataclass
class Unit:
    """One transaction. Changes made through it and events emitted by it commit together or not at all.

    It begins with its first statement. A unit without any, which only emits and puts work in, shares a commit with others.
    """

    engine: AsyncEngine
    service: str
    cause: UUID | None = None
    # The events emitted so far.
    said: list[Event] = field(default_factory=list[Event])
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _connection: AsyncConnection | None = None
    _messages: list[Message] = field(default_factory=list[Message])
    _rows: Rows = field(default_factory=dict[str, list[Mapping[str, Any]]])

    async def execute(self, statement: Executable, parameters: Any = None) -> Result[Any]:
        """Run one statement inside the transaction, after what was added before it."""
        return await (await self._begun()).execute(statement, parameters)

    def add(self, statement: str, row: Mapping[str, Any]) -> None:
        """Add a row before the next statement, at the latest at the commit. `statement` as `ltp.store.together` says."""
        self._rows.setdefault(statement, []).append(row)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo what the block did and said, and nothing else, when it raises."""
        connection, said = await self._begun(), len(self._messages)
        try:
            async with connection.begin_nested():
                yield
                await self._begun()
        except BaseException:
            self._rows.clear()
            del self._messages[said:]
            raise

    async def _begun(self) -> AsyncConnection:
        if self._connection is None:
            self._connection = await self._stack.enter_async_context(self.engine.begin())
        rows, self._rows = self._rows, {}
        for statement, values in joined([rows]):
            await self._connection.execute(text(statement), values)
        return self._connection

    async def change(self, statement: Executable) -> int:
        """Run an INSERT, UPDATE or DELETE; returns how many rows it touched: none means that its guard did not hold."""
        result = cast("CursorResult[Any]", await self.execute(statement))
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

    async def finish(self, together: Together) -> None:
        """Write the emitted messages to the outbox, which wakes the relay, and commit."""
        for m in self._messages:
            row = {"message_id": m.id, "subject": m.subject, "headers": json.dumps(m.headers)}
            self.add(add_to_outbox(self.service), row | {"payload": m.payload, "keep": m.keep})
        self._messages.clear()
        if self._connection is not None:
            await self._begun()
            await self._stack.aclose()
        elif self._rows:
            await together.commit(self._rows)

    async def undo(self, error: BaseException) -> None:
        """Roll back."""
        await self._stack.__aexit__(type(error), error, error.__traceback__)

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

    def __post_init__(self) -> None:
        self.together = Together(self.engine)

    @classmethod
    def connect(cls, url: str, service: str) -> Database:
        """Make the engine; no connection is opened yet."""
        engine = create_async_engine(url, pool_size=8, max_overflow=8, pool_recycle=1800)
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        return cls(engine, service)

    @asynccontextmanager
    async def unit(self, cause: UUID | None = None) -> AsyncIterator[Unit]:
        """Open a transaction that commits at the end of the block and rolls back on an exception."""
        unit = Unit(self.engine, self.service, cause)
        try:
            yield unit
            if self.before_commit is not None:
                await self.before_commit(unit)
            await unit.finish(self.together)
        except BaseException as error:
            await unit.undo(error)
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self.together.close()
        await self.engine.dispose()


def _refuse_closed(connection: Any, record: Any, proxy: Any) -> None:
    """Let the pool open another connection in place of one that the server has closed.

    The driver knows as soon as the server hangs up. Asking the server each time (`pool_pre_ping`) would be three round
    trips before each unit, and would find no more than this and what breaks a moment later anyway.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError
