"""How fast to ask an endpoint: at the pace the user gave, and as wide as it bears (AIMD: grows slowly, gives way)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# A refusal takes one from the width, and those that come together count as one.
_NARROWER_EVERY_SECONDS = 0.1


class Pacer:
    """Spaces requests at the rate the user gave. Without one, refusals narrow the width instead (`Width.refused`)."""

    def __init__(self, per_second: float | None, clock: Callable[[], float]) -> None:
        self.rate, self._clock = per_second, clock
        self._next = self._resume = 0.0

    async def turn(self) -> None:
        """Wait until a request may go."""
        if self.rate is None:
            return
        now = self._clock()
        # Idle time is not saved up, but a late timer may catch up on a tenth of a second.
        slot = max(self._next, self._resume, now - 0.1)
        self._next = slot + 1 / self.rate
        if slot > now:
            await asyncio.sleep(slot - now)

    def refused(self, wait: float | None) -> None:
        """Note a "too many requests": the endpoint allows less than the user said, so everybody waits as it asks."""
        self._resume = max(self._resume, self._clock() + (wait or 0.0))


class Width:
    """How many requests are open at once: doubles while all goes well, then one more a round; halves on overload."""

    def __init__(self, start: int, most: int, clock: Callable[[], float]) -> None:
        self.limit = float(min(start, most))
        self._most, self._clock = most, clock
        self._open = 0
        self._slow_start = True
        self._halved = self._narrowed = clock() - 10.0
        self._free: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a place for one request."""
        while self._open >= max(1, int(self.limit)):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._free.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done():
                    self._wake()
                raise
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._wake()

    def good(self) -> None:
        """Note an answer."""
        self.limit = min(float(self._most), self.limit + (1.0 if self._slow_start else 0.25 / self.limit))
        self._wake()

    def overloaded(self) -> None:
        """Note a failure that fewer requests at once may mend. Those in flight together count as one."""
        self._slow_start = False
        now = self._clock()
        if now - self._halved > 1.0:
            self._halved = now
            self.limit = max(1.0, self.limit / 2)

    def refused(self) -> None:
        """Note a "too many requests": a little narrower, so that few are refused and somebody is always asking."""
        self._slow_start = False
        now = self._clock()
        if now - self._narrowed > _NARROWER_EVERY_SECONDS:
            self._narrowed = now
            self.limit = max(1.0, self.limit - 1)

    def _wake(self) -> None:
        room = max(1, int(self.limit)) - self._open
        while self._free and room > 0:
            waiter = self._free.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1
