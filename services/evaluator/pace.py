"""How fast to ask an endpoint: at the pace the user gave, at the pace it was seen to take, and as wide as it bears."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# A late timer may catch up on so much; idle time beyond that is not saved up.
_CATCH_UP_SECONDS = 0.25
# What an endpoint takes is counted over so long, looked at so often.
_WINDOW_SECONDS, _LOOK_SECONDS = 2.0, 0.25
# A little more than what it was seen to take: the few that it refuses say that nothing is left unused.
_HEADROOM = 1.05
# One look may find an endpoint closed for a moment: the pace falls no faster than this.
_STEEPEST = 0.7
_SLOWEST = 0.5
_LEAST_BOOST, _MOST_BOOST = 0.05, 0.5
# So many refusals without an answer between them: it takes nothing now, and what it says about when holds for all.
_CLOSED = 16


class Pacer:
    """Spaces requests, one after the other. The pace is the user's, if given, and never more than refusals allow.

    Refusals ("too many requests") teach the pace: what went through in the last seconds, and a little more. Quiet looks
    raise it, the more of them the faster. `rate` is in requests per second, None while nothing limits it.
    """

    def __init__(self, per_second: float | None, clock: Callable[[], float]) -> None:
        self._given, self._clock = per_second, clock
        self._learned: float | None = None
        self._boost = _MOST_BOOST
        self._began = clock()
        self._next = self._resume = 0.0
        self._looked = self._began
        self._waited = self._refused_since = False
        self._sent, self._refused = deque[float](), deque[float]()
        self._streak = 0
        self._turns = asyncio.Lock()

    @property
    def rate(self) -> float | None:
        """Requests per second that may go now; None without a limit."""
        known = [rate for rate in (self._given, self._learned) if rate is not None]
        return min(known) if known else None

    async def turn(self) -> None:
        """Wait until a request may go. Turns come in the order they were asked for."""
        if self.rate is not None or self._resume > self._clock():
            # One waits for the time, the others for that one: whatever is learned meanwhile holds for all of them.
            async with self._turns:
                while (wait := max(self._next, self._resume) - self._clock()) > 0:
                    self._waited = True
                    await asyncio.sleep(wait)
                self._take()
        self._sent.append(self._clock())
        self._look()

    def refused(self, wait: float | None) -> None:
        """Note a "too many requests", with the seconds that the endpoint asks to wait if it says any.

        That wait is the refused request's own: where others still get through, all staying away would waste the limit.
        """
        now = self._clock()
        self._refused.append(now)
        self._streak += 1
        if self._streak >= _CLOSED and wait is not None:
            self._resume = max(self._resume, now + wait)
        if self._learned is None:
            self._learned = self._taken(now)
            self._looked = now
        self._refused_since = True

    def answered(self) -> None:
        """Note that a request went through."""
        self._streak = 0

    def _take(self) -> None:
        if (rate := self.rate) is not None:
            self._next = max(self._next, self._clock() - _CATCH_UP_SECONDS) + 1 / rate

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if self._learned is not None:
            if self._refused_since:
                self._learned = max(self._taken(now), _STEEPEST * self._learned)
                self._boost = max(_LEAST_BOOST, self._boost / 2)
            elif self._waited:
                # Only a pace that somebody waited for says anything about what lies above it.
                self._learned *= 1 + self._boost
                self._boost = min(_MOST_BOOST, self._boost * 1.5)
        else:
            self._forget(now)
        self._waited = self._refused_since = False

    def _taken(self, now: float) -> float:
        self._forget(now)
        span = min(_WINDOW_SECONDS, max(now - self._began, _LOOK_SECONDS))
        return max(_SLOWEST, _HEADROOM * (len(self._sent) - len(self._refused)) / span)

    def _forget(self, now: float) -> None:
        for times in (self._sent, self._refused):
            while times and times[0] < now - _WINDOW_SECONDS:
                times.popleft()


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
        self.limit = min(float(self._most), self.limit + (1.0 if self._slow_start else 0.25 / self.limit))
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
