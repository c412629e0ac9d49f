"""How fast to ask an endpoint: a pace learned from its refusals, and a width that grows and gives way (AIMD)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# How long a measurement of the endpoint's own pace is, and how often it may be judged too fast.
_WINDOW_SECONDS = 2.0
_DECREASE_EVERY_SECONDS = 0.5
_SLOWER, _FASTER_PER_SECOND = 0.95, 0.01
_SLOWEST = 0.2


class Pacer:
    """Spaces requests. With a given rate it keeps it; without one it goes freely until the endpoint says "too many".

    The first refusal teaches the pace: what the endpoint answered in the last seconds is what it allows. Later refusals
    lower it by a twentieth, silence raises it by a hundredth a second, so that it stays just below the limit.
    """

    def __init__(self, per_second: float | None, clock: Callable[[], float]) -> None:
        self.rate = per_second
        self._fixed = per_second is not None
        self._clock = clock
        self._next = 0.0
        self._resume = 0.0
        self._answered: deque[float] = deque(maxlen=10_000)
        self._judged = self._raised = clock()
        self._started = clock()

    async def turn(self) -> None:
        """Wait until a request may go."""
        while True:
            now = self._clock()
            if now < self._resume:
                await asyncio.sleep(self._resume - now)
                continue
            if self.rate is None:
                return
            self._raise(now)
            # Idle time is not saved up, but a late timer may catch up on a tenth of a second.
            slot = max(self._next, now - 0.1)
            self._next = slot + 1 / self.rate
            if slot > now:
                await asyncio.sleep(slot - now)
            return

    def answered(self) -> None:
        """Note an answer."""
        self._answered.append(self._clock())

    def refused(self, wait: float | None) -> None:
        """Note a "too many requests"; `wait` is what the endpoint asks for in seconds."""
        now = self._clock()
        if self._fixed:
            # The endpoint allows less than the user said: do as it asks, and keep to the given pace after.
            self._resume = max(self._resume, now + (wait or 0.0))
            return
        if self.rate is None:
            recent = sum(1 for at in self._answered if at > now - _WINDOW_SECONDS)
            span = min(_WINDOW_SECONDS, max(now - self._started, 0.1))
            if recent == 0:
                self._resume = max(self._resume, now + (wait or 1.0))
                return
            self.rate, self._judged = max(recent / span, _SLOWEST), now
        elif now - self._judged > _DECREASE_EVERY_SECONDS:
            self.rate, self._judged = max(self.rate * _SLOWER, _SLOWEST), now
        self._raised = now

    def _raise(self, now: float) -> None:
        if self._fixed or self.rate is None or now - self._raised < 1:
            return
        self.rate *= 1 + _FASTER_PER_SECOND * (now - self._raised)
        self._raised = now


class Width:
    """How many requests are open at once: doubles while all goes well, then one more a round; halves on overload."""

    def __init__(self, start: int, most: int, clock: Callable[[], float]) -> None:
        self.limit = float(min(start, most))
        self._most, self._clock = most, clock
        self._open = 0
        self._slow_start = True
        self._halved = clock() - 10.0
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
        self.limit = min(float(self._most), self.limit + (1.0 if self._slow_start else 1.0 / self.limit))
        self._wake()

    def overloaded(self) -> None:
        """Note a failure that fewer requests at once may mend. Those in flight together count as one."""
        self._slow_start = False
        now = self._clock()
        if now - self._halved > 1.0:
            self._halved = now
            self.limit = max(1.0, self.limit / 2)

    def _wake(self) -> None:
        room = max(1, int(self.limit)) - self._open
        while self._free and room > 0:
            waiter = self._free.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1
