"""One reader for many followers: what is new in a table is read and written out once, however many streams show it.

A stream stands at a sequence number. Near the end it takes from the tail's memory, which is bounded; further back it reads
pages from the table by itself. So nothing is lost or doubled, and who reads slowly costs the others nothing.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ltp.core.errors import ErrorCode, LtpError
from ltp.store.patience import wait_at_most
from services.gateway.news import News

T = TypeVar("T")
# (sequence number, what is sent), oldest first.
Line = tuple[int, str]
Read = Callable[[int], Awaitable[Sequence[Line]]]
_REMEMBERED_LINES, _REMEMBERED_CHARACTERS = 2000, 1 << 18
_PATIENCE_SECONDS = 2.0
_RETRY_SECONDS = 0.5


async def patiently(look: Callable[[], Awaitable[T]]) -> T:
    """What `look` finds; an outage of the database, the bus or a service is waited out, so that an open stream outlives it."""
    while True:
        try:
            return await look()
        except LtpError as error:
            if error.code is not ErrorCode.SERVICE_UNAVAILABLE:
                raise
            trouble: Exception = error
        except (DBAPIError, OSError, PoolTimeout) as error:
            trouble = error
        structlog.get_logger().info("a stream waits", error=type(trouble).__name__)
        await asyncio.sleep(_RETRY_SECONDS)


@dataclass
class Tail:
    """The end of one table, through one filter."""

    read: Read
    news: News
    # All lines after `start`, up to the last that was read, are in memory.
    start: int
    lines: list[Line] = field(default_factory=list[Line])
    characters: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    followers: int = 0

    async def run(self) -> None:
        """Read what is new until cancelled; an outage of the database is waited out."""
        while True:
            ticket = self.news.ticket()
            position = self.lines[-1][0] if self.lines else self.start
            found = await patiently(partial(self.read, position))
            if not found:
                await self.news.wait(ticket)
                continue
            self._remember(found)
            self.changed.set()
            self.changed = asyncio.Event()

    def _remember(self, found: Sequence[Line]) -> None:
        self.lines.extend(found)
        self.characters += sum(len(text) for _, text in found)
        dropped = 0
        while len(self.lines) - dropped > _REMEMBERED_LINES or self.characters > _REMEMBERED_CHARACTERS:
            self.start, text = self.lines[dropped]
            self.characters -= len(text)
            dropped += 1
        del self.lines[:dropped]

    async def after(self, position: int) -> Sequence[Line]:
        """What follows a position: from memory, or, further back, a page of the table."""
        if position < self.start:
            return await patiently(partial(self.read, position))
        return self.lines[bisect_right(self.lines, position, key=lambda line: line[0]) :]


@dataclass
class Tails:
    """The tails of one process, by what they show; one that nobody follows ends."""

    _tails: dict[Hashable, tuple[Tail, asyncio.Task[None]]] = field(
        default_factory=dict[Hashable, tuple[Tail, "asyncio.Task[None]"]]
    )

    @asynccontextmanager
    async def following(self, key: Hashable, read: Read, news: News, position: int) -> AsyncIterator[Tail]:
        """The tail of this key for the length of the block."""
        if key not in self._tails:
            tail = Tail(read, news, position)
            self._tails[key] = tail, asyncio.create_task(tail.run())
        tail, task = self._tails[key]
        tail.followers += 1
        try:
            yield tail
        finally:
            tail.followers -= 1
            if tail.followers == 0:
                del self._tails[key]
                task.cancel()

    async def lines(
        self,
        key: Hashable,
        read: Read,
        news: News,
        position: int,
        is_over: Callable[[], Awaitable[bool]] | None = None,
    ) -> AsyncIterator[list[Line]]:
        """Lines after a position, in batches as they come, until `is_over` says that no more will."""
        async with self.following(key, read, news, position) as tail:
            while True:
                changed, over = tail.changed, is_over is not None and await patiently(is_over)
                # Whoever asks whether it is over must see all there was then.
                batch = list(await (patiently(partial(read, position)) if over else tail.after(position)))
                if batch:
                    position = batch[-1][0]
                    yield batch
                elif over:
                    return
                else:
                    await wait_at_most(changed, _PATIENCE_SECONDS)
