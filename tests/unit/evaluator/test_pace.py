"""Endpoints that refuse, in simulated time: what they allow is used, whatever the kind of limit and however late we wake."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from services.evaluator.pace import Pacer, Width


class _Clockwork(selectors.DefaultSelector):
    """Where a loop would wait, time jumps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clockwork: _Clockwork) -> None:
        self.clockwork = clockwork
        super().__init__(clockwork)

    def time(self) -> float:
        return self.clockwork.now


def simulated(main: Coroutine[Any, Any, None]) -> None:
    """Run in simulated seconds."""
    clockwork = _Clockwork()
    loop = _Loop(clockwork)
    try:
        loop.run_until_complete(main)
    finally:
        loop.close()


class Limit(Protocol):
    """What an endpoint allows."""

    retry_after: float | None

    def allows(self, now: float, open_requests: int) -> bool: ...


@dataclass
class Bucket:
    """So many a second; a little is saved up."""

    per_second: float
    burst: float = 10.0
    retry_after: float | None = 0.01
    _tokens: float = 10.0
    _at: float = 0.0

    def allows(self, now: float, open_requests: int) -> bool:
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass
class Window:
    """So many in each ten seconds, counted anew in the next."""

    per_ten_seconds: int
    retry_after: float | None = None
    used: dict[int, int] = field(default_factory=dict[int, int])

    def allows(self, now: float, open_requests: int) -> bool:
        window = int(now // 10)
        self.used[window] = self.used.get(window, 0) + 1
        self.retry_after = 10 * (window + 1) - now + 0.01
        return self.used[window] <= self.per_ten_seconds


@dataclass
class Together:
    """So many open at once."""

    most: int
    retry_after: float | None = None

    def allows(self, now: float, open_requests: int) -> bool:
        return open_requests < self.most


@dataclass
class Crowd:
    """Asks `count` times, as `Endpoint` does."""

    limit: Limit
    count: int
    latency: float
    given: float | None = None
    width: int = 64
    stalls: random.Random | None = None
    answered: list[float] = field(default_factory=list[float])
    refused: int = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)
        pacer, width = Pacer(self.given, loop.time), Width(8, self.width, loop.time)
        left, open_requests = self.count, 0

        async def one() -> None:
            nonlocal left, open_requests
            while left:
                left -= 1
                async with width.slot():
                    while True:
                        await pacer.turn()
                        if self.stalls is not None and self.stalls.random() < 0.02:
                            loop.clockwork.now += 0.08  # the whole process stands still
                        if self.limit.allows(loop.time(), open_requests):
                            break
                        self.refused += 1
                        pacer.refused(self.limit.retry_after)
                        await asyncio.sleep(self.limit.retry_after or 0.4)
                    open_requests += 1
                    await asyncio.sleep(self.latency)
                    open_requests -= 1
                    width.good()
                    pacer.answered()
                    self.answered.append(loop.time())

        await asyncio.gather(*(one() for _ in range(64)))

    @property
    def rate(self) -> float:
        """Answers a second, without the first and last twentieth: finding the width, and waiting for the last refused."""
        edge = self.count // 20
        return (self.count - 2 * edge) / (self.answered[-edge] - self.answered[edge])


@pytest.mark.parametrize("retry_after", [0.01, 1.0, None])
@pytest.mark.parametrize("latency", [0.01, 0.05, 0.4])
@pytest.mark.parametrize("stalls", [False, True])
def test_a_rate_that_nobody_named_is_used_to_95_percent(
    retry_after: float | None, latency: float, stalls: bool
) -> None:
    limit = Bucket(100.0, burst=20.0 if stalls else 10.0, retry_after=retry_after)
    crowd = Crowd(limit, 2000, latency, stalls=random.Random(3) if stalls else None)
    simulated(crowd.run())
    assert crowd.rate >= 95.0
    assert crowd.refused <= 300


def test_a_rate_that_the_user_named_is_kept_without_refusals() -> None:
    crowd = Crowd(Bucket(100.0), 2000, 0.05, given=100.0)
    simulated(crowd.run())
    assert crowd.rate >= 99.0 and crowd.refused <= 5


def test_a_window_that_is_used_up_is_left_alone_until_it_opens() -> None:
    crowd = Crowd(Window(200), 1000, 0.05)
    simulated(crowd.run())
    assert crowd.answered[-1] < 42.0  # four windows are used up, the fifth is begun
    assert crowd.refused < 300


def test_a_limit_on_open_requests_is_found_as_well() -> None:
    crowd = Crowd(Together(4), 800, 0.1)
    simulated(crowd.run())
    assert crowd.rate >= 0.85 * 40.0
    assert crowd.refused < 400


def test_a_limit_that_is_raised_is_noticed() -> None:
    bucket = Bucket(20.0)
    crowd = Crowd(bucket, 4000, 0.05)

    async def both() -> None:
        run = asyncio.ensure_future(crowd.run())
        await asyncio.sleep(20)
        bucket.per_second = 200.0
        await run

    simulated(both())
    # 400 at 20 a second, then 3,600 at 200.
    assert crowd.answered[-1] < 20 + 3600 / (0.9 * 200)
