"""The quick way in for work that belongs to no other change: calls made at the same time share one statement and one commit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.queue import statements
from ltp.queue.line import Line
from ltp.queue.work import NewWork, added, enqueue_values

# A statement stays short, so that nobody waits long behind it.
_MOST = 256

_Put = tuple[NewWork, "asyncio.Future[UUID | None]"]


@dataclass
class Intake:
    """Puts work in, each call answered once its work is committed. Close it when done."""

    engine: AsyncEngine
    _waiting: list[_Put] = field(default_factory=list[_Put])
    _sending: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self._line = Line(self.engine)

    async def put(self, new: NewWork) -> UUID | None:
        """Add work; None when work with this key was enqueued before.

        Raises one of `ltp.queue.line.BROKEN` when nobody can say whether it got in: putting it again with the same key
        is safe.
        """
        answer: asyncio.Future[UUID | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        """Send what waits, and what came in meanwhile, until nothing does."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._send_batch(batch)
        finally:
            self._sending = None

    async def _send_batch(self, batch: list[_Put]) -> None:
        news = [new for new, _ in batch]
        try:
            rows = await self._line.fetch(statements.ENQUEUE, enqueue_values(news))
        except Exception as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), found in zip(batch, added(news, {row["id"] for row in rows}), strict=True):
            if not answer.done():
                answer.set_result(found)

    def close(self) -> None:
        """Hang up."""
        self._line.close()
