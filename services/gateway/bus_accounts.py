"""Makes NATS agree with the table of accounts: its file of users, and a consumer for each that only the gateway can shape."""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import nats
import structlog
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from sqlalchemy.exc import DBAPIError

from ltp.bus.permissions import FEED, feed_patterns, subscriber
from ltp.bus.users_file import SUBSCRIBERS_PART, write_part
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway import store_bus as store
from services.gateway.feed import Feed
from services.gateway.settings import GatewaySettings

_CHECK_SECONDS = 3.0
_ACK_WAIT_SECONDS = 30.0
_MOST_UNACKNOWLEDGED = 1000


@dataclass
class BusAccounts:
    """One per process."""

    runtime: Runtime
    settings: GatewaySettings
    feed: Feed
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Whether NATS may have an older file than the one that lies there.
    _unread: bool = False

    @property
    def managed(self) -> bool:
        """Whether the file of users is ours to write."""
        return self.settings.gateway_bus_folder is not None and self.settings.gateway_bus_system_url is not None

    async def run(self) -> None:
        """Until cancelled: expired accounts go, and what was lost with a stream or a file comes back."""
        while self.managed:
            try:
                await self.apply()
                for row in await store.good(self.runtime.database.engine):
                    await self._mend(row)
            except (DBAPIError, OSError, NatsError, TimeoutError, LtpError) as error:
                structlog.get_logger().info("accounts of the bus wait", error=repr(error)[:200])
            await asyncio.sleep(_CHECK_SECONDS)

    async def apply(self) -> None:
        """Write who may connect, and have NATS read it: it hangs up on those who may no more. Raises SERVICE_UNAVAILABLE."""
        folder = self.settings.gateway_bus_folder
        if folder is None:
            raise unmanaged()
        async with self._lock:
            rows = await store.good(self.runtime.database.engine)
            users = [subscriber(row["user"], row["digest"], row["project"], row["subjects"]) for row in rows]
            self._unread = await asyncio.to_thread(write_part, folder, SUBSCRIBERS_PART, users) or self._unread
            if self._unread:
                await self._reload()
                self._unread = False

    async def give_from(self, row: Any, seq: int) -> None:
        """Give an account what came after a sequence number, whatever it had before."""
        await self.feed.catch_up()
        await self.forget(row["user"])
        place = await self.feed.place_after(seq)
        config = ConsumerConfig(
            durable_name=row["user"],
            filter_subjects=feed_patterns(row["project"], row["subjects"]),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=place,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_SECONDS,
            max_ack_pending=_MOST_UNACKNOWLEDGED,
        )
        await self.runtime.js.add_consumer(FEED, config)

    async def forget(self, user: str) -> None:
        """Drop an account's consumer."""
        try:
            await self.runtime.js.delete_consumer(FEED, user)
        except NotFoundError:
            pass

    async def _mend(self, row: Any) -> None:
        try:
            await self.runtime.js.consumer_info(FEED, row["user"])
        except NotFoundError:
            structlog.get_logger().warning("a subscriber's consumer is gone, making it again", user=row["user"])
            await self.give_from(row, row["position"])

    async def _reload(self) -> None:
        url = self.settings.gateway_bus_system_url
        if url is None:
            raise unmanaged()
        try:
            client = await nats.connect(url, connect_timeout=3, allow_reconnect=False)
            try:
                # Of a cluster each server has a file of its own; the first that answers is the one beside it.
                told = json.loads((await client.request("$SYS.REQ.SERVER.PING.IDZ", b"", timeout=3)).data)
                answer = await client.request(f"$SYS.REQ.SERVER.{told['id']}.RELOAD", b"", timeout=5)
            finally:
                await client.close()
        except (TimeoutError, NatsError, OSError) as error:
            self._unread = True
            hint = "It is tried again every few seconds; `ltp status` shows what is down."
            message = f"NATS could not be told of the change ({type(error).__name__})."
            raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, hint) from error
        if "error" in json.loads(answer.data):
            self._unread = True
            message = "NATS refused its file of users."
            raise LtpError(ErrorCode.INTERNAL, message, "Its log says why.")


def unmanaged() -> LtpError:
    """The NATS of this installation is somebody else's."""
    message = "The users of this NATS server are not under this platform's care."
    hint = "Set LTP_GATEWAY_BUS_FOLDER and LTP_GATEWAY_BUS_SYSTEM_URL (docs/events.md), or use a webhook."
    return LtpError(ErrorCode.CONFLICT, message, hint)
