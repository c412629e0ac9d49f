"""Waits that end: for a wake-up that may be lost, and for tasks that may not hear that they were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

# Long enough for what a task does to end well; a second cancellation would break that off.
_CANCEL_AGAIN_SECONDS = 5.0


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after `seconds`; a lost wake-up costs that while and nothing else."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass  # Not a failure: the caller looks either way.


async def end_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and again until each has ended; how they ended is not told.

    Once is not enough: `asyncio.wait_for` of Python 3.11, which nats-py waits with, forgets a cancellation that comes at
    the moment of its result (https://github.com/python/cpython/issues/86296), and a loop then goes on for ever.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        ended, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
        await asyncio.gather(*ended, return_exceptions=True)  # An error nobody asks for would be logged as lost.
