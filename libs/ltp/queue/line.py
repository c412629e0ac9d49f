"""A worker's own line to Postgres: one connection whose statements are prepared once, and which is opened again when it breaks."""

# asyncpg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.queue.statements import positional
from ltp.store.listener import raw_connection

# What a break of the connection raises, here or through the engine: waited out, never a verdict on the work.
BROKEN = (OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError)

# The planner must not take a table that was empty when it looked for one that stays small.
_SETTINGS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off"}
_TIMEOUT_SECONDS = 30.0

_positional = cache(positional)


@dataclass
class Line:
    """Runs one statement after the other, each a transaction of its own."""

    engine: AsyncEngine
    _connection: Any = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fetch(self, statement: str, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Run a statement of `ltp.queue.statements`. Raises one of BROKEN; the next call connects anew."""
        text, names = _positional(statement)
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._connection = await raw_connection(
                    self.engine, server_settings=_SETTINGS, command_timeout=_TIMEOUT_SECONDS, timeout=_TIMEOUT_SECONDS
                )
            try:
                rows: Sequence[Mapping[str, Any]] = await self._connection.fetch(text, *(values[n] for n in names))
            except (*BROKEN, asyncio.CancelledError):
                # Broken off in the middle, the connection is in nobody knows which state.
                self._connection.terminate()
                raise
            return rows

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.terminate()
