"""Hears Postgres notifications: they arrive at commit, never before and never for a rolled-back change."""

# asyncpg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false, reportUnknownLambdaType=false
from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

# Devices were asked for, given or freed, or a limit changed: the scheduler and all workers look again.
WORK_CHANNEL = "ltp_work"
_RECONNECT_SECONDS = 1.0


async def raw_connection(engine: AsyncEngine, **options: Any) -> asyncpg.Connection:
    """A connection of asyncpg's own to an engine's database, outside its pool."""
    url = engine.url
    return await asyncpg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, database=url.database, **options
    )


def work_channel(kind: str) -> str:
    """The channel on which work of one kind was added: only its workers wake up."""
    return f"{WORK_CHANNEL}_{kind}"


def sets(event: asyncio.Event) -> Callable[[str], None]:
    """A callback for who only wants to wake up."""
    return lambda _: event.set()


@dataclass
class Listener:
    """One connection of its own that calls back per channel; whoever relies on it polls as well, since it may be down."""

    engine: AsyncEngine
    # Called with what was notified, and with nothing ("") after a time in which nobody listened: anything may have been.
    callbacks: Mapping[str, Callable[[str], None]]
    _closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Listen until cancelled, reconnecting for ever."""
        while True:
            try:
                await self._listen()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                structlog.get_logger().info("listener reconnects", error=type(error).__name__)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        connection = await raw_connection(self.engine)
        self._closed.clear()
        connection.add_termination_listener(lambda _: self._closed.set())
        try:
            for channel, callback in self.callbacks.items():
                await connection.add_listener(channel, lambda *told, call=callback: call(told[-1]))
                callback("")
            await self._closed.wait()
        finally:
            connection.terminate()
