"""A line of one's own to Postgres: one connection whose statements are prepared once, and which is opened again when it breaks."""

# asyncpg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.store.listener import raw_connection

# What a break of the connection raises, here or through the engine: waited out, never a verdict on the work.
BROKEN = (
    OSError, asyncio.TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, DBAPIError,
)  # fmt: skip

# The planner must not take a table that was empty when it looked for one that stays small; and a statement is planned
# once a connection, not at each call, which would cost more than its execution.
_SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
}
_TIMEOUT_SECONDS = 30.0

_NAMED = re.compile(r"(?<!:):([a-z_]+)")


@cache
def positional(statement: str) -> tuple[str, tuple[str, ...]]:
    """A statement with `$1` for `:name`, as Postgres prepares it, and the names in that order."""
    names = tuple(dict.fromkeys(_NAMED.findall(statement)))
    return _NAMED.sub(lambda match: f"${names.index(match[1]) + 1}", statement), names


@dataclass
class Line:
    """Runs one statement after the other, each a transaction of its own, or several as one."""

    engine: AsyncEngine
    _connection: Any = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fetch(self, statement: str, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Run a statement with its `:names`. Raises one of BROKEN; the next call connects anew."""
        async with self._connected() as connection:
            return await _fetch(connection, statement, values)

    async def run_all(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Run statements in one transaction; a single one is a transaction by itself. Raises as `fetch` does."""
        async with self._connected() as connection:
            if len(statements) == 1:
                await _fetch(connection, *statements[0])
                return
            async with connection.transaction():
                for statement, values in statements:
                    await _fetch(connection, statement, values)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._connection = await raw_connection(
                    self.engine, server_settings=_SETTINGS, command_timeout=_TIMEOUT_SECONDS, timeout=_TIMEOUT_SECONDS
                )
            try:
                yield self._connection
            except (*BROKEN, asyncio.CancelledError):
                # Broken off in the middle, the connection is in nobody knows which state.
                self._connection.terminate()
                raise

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.terminate()


async def _fetch(connection: Any, statement: str, values: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    text, names = positional(statement)
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(text, *(values[name] for name in names))
    return rows
