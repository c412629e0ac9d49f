"""Rows that are written at the end of a unit, and the commit that several such units share.

A unit that only adds rows (says something, puts work in) needs no transaction of its own: those that end at the same
time are committed in one, one round trip and one sync of the disk for all. Each returns when its rows are on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.store.line import Line

# A statement takes each column of its rows as an array, and drops a row whose key is there already: so it may run twice.
Rows = dict[str, list[Mapping[str, Any]]]
_MOST_UNITS = 64


def joined(units: Sequence[Rows]) -> list[tuple[str, dict[str, list[Any]]]]:
    """Statements with the columns of all rows of all units, in the order in which they were first named."""
    rows: Rows = {}
    for unit in units:
        for statement, added in unit.items():
            rows.setdefault(statement, []).extend(added)
    return [(statement, {name: [row[name] for row in each] for name in each[0]}) for statement, each in rows.items()]


@dataclass(frozen=True)
class _Unit:
    rows: Rows
    committed: asyncio.Future[None]


@dataclass
class Together:
    """Commits units that only add rows; what ends while one commit is under way shares the next."""

    engine: AsyncEngine
    _waiting: list[_Unit] = field(default_factory=list[_Unit])
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._line = Line(self.engine)

    async def commit(self, rows: Rows) -> None:
        """Return when the rows are committed. Raises what a transaction of the unit's own raises."""
        unit = _Unit(rows, asyncio.get_running_loop().create_future())
        self._waiting.append(unit)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name="commits together")
        await unit.committed

    async def close(self) -> None:
        """Commit what waits, then hang up."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._line.close()

    async def _drain(self) -> None:
        while self._waiting:
            units, self._waiting = self._waiting[:_MOST_UNITS], self._waiting[_MOST_UNITS:]
            # Who was cancelled before its turn adds nothing.
            units = [unit for unit in units if not unit.committed.done()]
            try:
                if units:
                    await self._line.run_all(joined([unit.rows for unit in units]))
            except Exception as error:
                structlog.get_logger().info("committing one by one", units=len(units), error=type(error).__name__)
                await asyncio.gather(*(self._alone(unit) for unit in units))
            for unit in units:
                if not unit.committed.done():
                    unit.committed.set_result(None)

    async def _alone(self, unit: _Unit) -> None:
        """A bad row must not take its neighbours along, and a broken line may have committed or not: adding twice adds once."""
        try:
            async with self.engine.begin() as connection:
                for statement, values in joined([unit.rows]):
                    await connection.execute(text(statement), values)
        except Exception as error:
            if not unit.committed.done():
                unit.committed.set_exception(error)
