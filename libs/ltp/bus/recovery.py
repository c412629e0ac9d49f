"""Brings the bus back after a loss: streams and consumers that are gone are made again, and lost facts are said again.

JetStream can lose a stream, by an operator's hand or with its disk. Postgres has every fact, so each service looks now
and again, and tells anew what it published before the stream was born. Listeners drop what they have seen.
"""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from ltp.bus.relay import Relay
from ltp.bus.streams import EVENTS, ensure_streams
from ltp.bus.subscriptions import subscriptions_of
from ltp.store.database import Database
from ltp.store.metadata import outbox_table

CHECK_SECONDS = 3.0


async def keep_bus(relay: Relay, js: Callable[[], JetStreamContext]) -> None:
    """Check until cancelled; outages are waited out. The relay is told which stream it publishes to."""
    checked: datetime | None = None
    while True:
        try:
            relay.stream_born_at = await mend(relay.database.service, js())
            # Only a stream that is new to us can lack what we said: the outbox is not searched at each look.
            if relay.stream_born_at != checked:
                if await say_again(relay.database, relay.stream_born_at):
                    relay.wake.set()
                checked = relay.stream_born_at
        except (TimeoutError, OSError, DBAPIError, NatsError) as error:
            structlog.get_logger().info("bus not checked", error=repr(error)[:200])
        await asyncio.sleep(CHECK_SECONDS)


async def mend(service: str, js: JetStreamContext) -> datetime:
    """Make the streams and this service's consumers that are missing; returns when the stream of events was born."""
    born = await stream_born_at(js)
    if born is None:
        structlog.get_logger().warning("a stream is gone, making it again")
        await ensure_streams(js)
        born = await stream_born_at(js)
    for subscription in subscriptions_of(service):
        try:
            await js.consumer_info(subscription.stream, subscription.durable)
        except NotFoundError:
            structlog.get_logger().warning("a consumer is gone, making it again", durable=subscription.durable)
            await js.add_consumer(subscription.stream, subscription.consumer())
    if born is None:
        raise NatsError("the stream of events vanished again")
    return born


async def stream_born_at(js: JetStreamContext) -> datetime | None:
    """When the stream of events was born; None when there is none."""
    try:
        return (await js.stream_info(EVENTS)).created
    except NotFoundError:
        return None


async def say_again(database: Database, born_at: datetime) -> int:
    """Mark what was published to another stream than this one as unpublished; returns how much that was.

    Told by the stream's own birth and not by the time of publishing: clocks of different hosts disagree.
    """
    table = outbox_table(database.service)
    elsewhere = table.c.stream_born_at.is_distinct_from(born_at)
    lost = update(table).where(table.c.keep, table.c.published_at.is_not(None), elsewhere)
    async with database.unit() as unit:
        told = await unit.change(lost.values(published_at=None))
    if told:
        structlog.get_logger().warning("facts lost with their stream are said again", count=told)
    return told
