"""Waits that end, also when what they wait for is deaf."""

from __future__ import annotations

import asyncio

import pytest

from ltp.store import patience
from ltp.store.patience import end_all, wait_at_most


async def test_a_wait_ends_with_its_event_and_without_it() -> None:
    never, set_before = asyncio.Event(), asyncio.Event()
    set_before.set()
    await wait_at_most(set_before, 60.0)
    await wait_at_most(never, 0.001)
    assert not never.is_set()


async def test_a_wait_that_is_cancelled_as_its_event_comes_is_cancelled() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_at_most(event, 60.0))
    await asyncio.sleep(0)
    event.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_task_that_forgets_one_cancellation_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_CANCEL_AGAIN_SECONDS", 0.01)
    forgotten = 0

    async def forgetful() -> None:
        nonlocal forgotten
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            forgotten += 1
        await asyncio.Event().wait()

    async def failing() -> None:
        raise ValueError("nobody asks for this")

    tasks = [asyncio.create_task(forgetful()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await asyncio.wait_for(end_all(tasks), 10.0)
    assert (forgotten, [task.done() for task in tasks]) == (1, [True, True])


async def test_a_task_is_given_time_to_end_well() -> None:
    ended_well = False

    async def careful() -> None:
        nonlocal ended_well
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended_well = True

    task = asyncio.create_task(careful())
    await asyncio.sleep(0)
    await end_all([task])
    assert ended_well
