"""A bus that is gone for good is looked for now and then, and takes nobody's processor."""

from __future__ import annotations

import asyncio
import contextlib

from faststream.nats import JStream, NatsBroker, PullSub

from ltp.bus import pace


async def test_a_closed_connection_is_not_asked_without_end(nats_url: str) -> None:
    broker = NatsBroker(nats_url, logger=None)

    @broker.subscriber("paced.>", stream=JStream("PACED", subjects=["paced.>"]), durable="paced", pull_sub=PullSub())
    async def hear(_: dict[str, int]) -> None:
        """Nothing comes."""

    await broker.start()
    (subscriber,) = broker.subscribers
    subscription, asked = subscriber.subscription, 0  # type: ignore[attr-defined]
    fetch = subscription.fetch

    async def counted(*args: object, **options: object) -> object:
        nonlocal asked
        asked += 1
        return await fetch(*args, **options)

    subscription.fetch = counted
    pace.pace(broker)
    await broker.config.connection_state.connection.close()
    # Without a pause the loop of fetches never lets this one have its turns.
    for _ in range(2000):
        await asyncio.sleep(0.0005)
    assert 1 <= asked <= 5
    with contextlib.suppress(ExceptionGroup):  # There is nothing left to unsubscribe from.
        await broker.stop()
