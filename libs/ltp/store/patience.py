"""Waits for a wake-up that may be lost: every loop that relies on one looks again by itself after a while."""

from __future__ import annotations

import asyncio


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or after `seconds`; a lost wake-up costs that while and nothing else."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass  # Not a failure: the caller looks either way.
