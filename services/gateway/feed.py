"""Says every event again for subscribers, on subjects that name its project; in order, each once, for as long as there are any.

The stream is its own note of how far that went: the last message in it carries the sequence number of its event, and the next
is put behind exactly that one, so that neither a crash nor a second process says anything twice.
"""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from sqlalchemy.exc import DBAPIError

from ltp.bus.permissions import FEED, feed_subject
from ltp.bus.streams import FEED_SECONDS, ensure_streams
from ltp.service.runtime import Runtime
from ltp.store.clock import now
from ltp.store.patience import wait_at_most
from services.gateway import store, store_bus, store_webhooks
from services.gateway.cloud_events import attributes

SEQ = "ltp-seq"
_POLL_SECONDS = 1.0
_BATCH = 500


@dataclass
class Feed:
    """One per process."""

    runtime: Runtime
    # Set when events came.
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # (sequence number of the last event said, place of its message in the stream), as far as is known.
    _stands: tuple[int, int] | None = None

    async def run(self) -> None:
        """Until cancelled; outages are waited out."""
        while True:
            self.wake.clear()
            try:
                if await store_bus.good(self.runtime.database.engine):
                    await self.catch_up()
            except (DBAPIError, OSError, NatsError, TimeoutError) as error:
                structlog.get_logger().info("the feed waits", error=repr(error)[:200])
            await wait_at_most(self.wake, _POLL_SECONDS)

    async def catch_up(self) -> None:
        """Say what has not been said."""
        async with self._lock:
            try:
                self._stands = self._stands or await self._read_place()
                while rows := await store.list_events(
                    self.runtime.database.engine, after=self._stands[0], limit=_BATCH
                ):
                    for row in rows:
                        self._stands = await self._say(row, self._stands[1])
            except BaseException:
                # Whether the last one arrived is not known: the stream is asked.
                self._stands = None
                raise

    async def place_after(self, seq: int) -> int:
        """The place in the stream of the first event after a sequence number; call when all was said."""
        state = (await self.runtime.js.stream_info(FEED)).state
        low, high = max(state.first_seq, 1), state.last_seq + 1
        while low < high:
            middle = (low + high) // 2
            message = await self.runtime.js.get_msg(FEED, middle)
            if int((message.headers or {}).get(SEQ, "0")) > seq:
                high = middle
            else:
                low = middle + 1
        return low

    async def _say(self, row: Any, behind: int) -> tuple[int, int]:
        said = {f"ce-{name}": value for name, value in attributes(row).items()}
        headers = {**said, "content-type": "application/json", SEQ: str(row["seq"])}
        headers |= {"Nats-Expected-Last-Sequence": str(behind)}
        payload = json.dumps(row["data"], separators=(",", ":")).encode()
        subject = feed_subject(row["project"], row["subject"])
        answer = await self.runtime.js.publish(subject, payload, stream=FEED, headers=headers, timeout=5)
        return row["seq"], answer.seq

    async def _read_place(self) -> tuple[int, int]:
        js = self.runtime.js
        try:
            last = (await js.stream_info(FEED)).state.last_seq
        except NotFoundError:
            await ensure_streams(js)
            last = (await js.stream_info(FEED)).state.last_seq
        try:
            message = await js.get_msg(FEED, last) if last else None
        except NotFoundError:
            message = None
        if message is not None:
            return int((message.headers or {})[SEQ]), last
        # Nothing in it: it is filled with what it would still hold.
        kept = now() - timedelta(seconds=FEED_SECONDS)
        return await store_webhooks.seq_before(self.runtime.database.engine, kept), last
