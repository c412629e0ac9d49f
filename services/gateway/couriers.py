"""Carries events to webhooks: puts deliveries in as events come, tries each until it is taken or given up.

A delivery is a row before anything is sent, and a try is counted and leased before it is made: whatever dies, it is tried
again, so a receiver has every event at least once, and the event's id tells it what it has had already.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

import httpcore
import structlog
from nats.errors import Error as NatsError
from sqlalchemy.exc import DBAPIError

from ltp.contracts.webhook import WebhookDisabled
from ltp.core.errors import LtpError
from ltp.security.outward import GuardedNetwork, networks_of
from ltp.security.secrets import Secrets
from ltp.security.signatures import signature_headers
from ltp.service.runtime import Runtime
from ltp.store.clock import now
from ltp.store.patience import wait_at_most
from services.gateway import store_webhooks as store
from services.gateway.cloud_events import http_form
from services.gateway.settings import GatewaySettings

_POLL_SECONDS = 0.5
# One receiver is sent so many at once; all of them together, so many.
_EACH, _MOST = 8, 64
_PUT_IN = 500
_LEASE = timedelta(seconds=60)
_SECONDS = 15.0
_TIMEOUT = {"connect": 5.0, "read": 10.0, "write": 10.0, "pool": 10.0}
# An answer is read to its end only if it is short; nothing of it is kept.
_MOST_ANSWER_BYTES = 16 << 10
_LONGEST_PAUSE_SECONDS = 6 * 3600.0
_KEEP = timedelta(days=30)
_GONE = 410


@dataclass(frozen=True)
class Outcome:
    """What became of one try."""

    status: int | None
    problem: str | None

    @property
    def good(self) -> bool:
        """Whether the receiver has it."""
        return self.problem is None


def secret_name(webhook_id: UUID) -> str:
    """Under what name a webhook's signing secrets lie: newest first, with a space between."""
    return f"_webhook-{webhook_id}"


def pause_before(attempt: int, first_seconds: float, chance: float) -> float:
    """Seconds until the next try after `attempt` failed: four times as long each time, a fifth more or less. Pure."""
    return min(first_seconds * 4 ** min(attempt - 1, 20), _LONGEST_PAUSE_SECONDS) * (0.8 + 0.4 * chance)


@dataclass
class Couriers:
    """One per process; several processes share the work."""

    runtime: Runtime
    settings: GatewaySettings
    # Set when events came, or something was asked for.
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: dict[UUID, asyncio.Task[None]] = field(default_factory=dict[UUID, "asyncio.Task[None]"])
    _pruned_at: float = 0.0

    def __post_init__(self) -> None:
        network = GuardedNetwork(networks_of(self.settings.gateway_webhook_networks))
        context = ssl.create_default_context()
        self._pool = httpcore.AsyncConnectionPool(
            context, max_connections=_MOST, keepalive_expiry=30.0, network_backend=network
        )

    async def run(self) -> None:
        """Until cancelled; an outage of the database is waited out."""
        try:
            while True:
                self.wake.clear()
                try:
                    moved = await self._put_in() + await self._set_out()
                    await self._prune()
                except (DBAPIError, OSError, NatsError) as error:
                    structlog.get_logger().info("webhooks wait", error=type(error).__name__)
                    moved = 0
                if not moved:
                    await wait_at_most(self.wake, _POLL_SECONDS)
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _put_in(self) -> int:
        moved = 0
        for webhook_id in await store.enabled(self.runtime.database.engine):
            async with self.runtime.database.unit() as unit:
                moved += await store.put_in(unit, webhook_id, _PUT_IN)
        return moved

    async def _set_out(self) -> int:
        room = _MOST // _EACH - len(self._busy)
        if room <= 0:
            return 0
        async with self.runtime.database.unit() as unit:
            rows = await store.claim(unit, self._busy, each=_EACH, most=room * _EACH, lease=_LEASE)
        rows.sort(key=lambda row: (str(row["webhook_id"]), row["delivery_id"]))
        for webhook_id, batch in groupby(rows, key=lambda row: row["webhook_id"]):
            task = asyncio.create_task(self._carry(webhook_id, list(batch)))
            self._busy[webhook_id] = task
            task.add_done_callback(lambda _, key=webhook_id: self._back(key))
        return len(rows)

    def _back(self, webhook_id: UUID) -> None:
        self._busy.pop(webhook_id, None)
        self.wake.set()

    async def _carry(self, webhook_id: UUID, rows: Sequence[Mapping[Any, Any]]) -> None:
        try:
            await asyncio.gather(*(self._deliver(webhook_id, row) for row in rows))
        except (DBAPIError, OSError, LtpError) as error:
            # Not noted, so it is tried again when its lease ends.
            structlog.get_logger().warning("a delivery was not noted", error=type(error).__name__)

    async def _deliver(self, webhook_id: UUID, row: Mapping[str, Any]) -> None:
        headers, body = http_form(row, row["mode"])
        outcome = await self.send(webhook_id, row, headers, body)
        async with self.runtime.database.unit() as unit:
            values: dict[str, Any] = {"status": outcome.status, "problem": outcome.problem}
            if outcome.good:
                values |= {"state": "delivered", "delivered_at": now(), "next_at": None}
            elif row["attempts"] >= self.settings.gateway_webhook_attempts:
                values |= {"state": "dead", "next_at": None}
            else:
                first = self.settings.gateway_webhook_retry_seconds
                pause = pause_before(row["attempts"], first, random.random())  # noqa: S311 - spreads the tries, hides nothing
                values |= {"next_at": now() + timedelta(seconds=pause)}
            if not await store.settle(unit, row["delivery_id"], row["attempts"], values):
                return
            since = await store.note_health(unit, webhook_id, good=outcome.good)
            patience = timedelta(seconds=self.settings.gateway_webhook_disable_after_seconds)
            if outcome.status == _GONE:
                reason = "The receiver answered 410 Gone."
            elif since is not None and now() - since > patience:
                reason = f"The receiver has failed since {since.isoformat(timespec='seconds')}: {outcome.problem}"
            else:
                return
            if await store.disable(unit, webhook_id, reason):
                event = WebhookDisabled(webhook_id=webhook_id, name=row["name"], reason=reason)
                unit.emit(event, about=webhook_id)

    async def send(self, webhook_id: UUID, hook: Mapping[str, Any], headers: dict[str, str], body: bytes) -> Outcome:
        """Sign and send one event, once. `hook` has `url`, `event_id` and `old_secret_until`."""
        try:
            kept = await self._secrets().read(secret_name(webhook_id))
        except LtpError as error:
            return Outcome(None, f"{error.code}: the signing secret cannot be read")
        keys = kept.split(" ")
        if hook["old_secret_until"] is None or hook["old_secret_until"] < now():
            keys = keys[:1]
        headers = {
            **headers,
            **signature_headers(keys, str(hook["event_id"]), int(time.time()), body),
            "user-agent": "ltp-webhooks/1",
            "accept": "*/*",
        }
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._post(hook["url"], headers, body)
        except LtpError as error:
            return Outcome(None, error.message)
        except (TimeoutError, httpcore.TimeoutException):
            return Outcome(None, f"No answer within {_SECONDS:.0f} s.")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            return Outcome(None, f"{type(error).__name__}: the receiver cannot be reached or speaks no HTTP.")
        except (ValueError, TypeError, httpcore.LocalProtocolError) as error:
            return Outcome(None, f"{type(error).__name__}: the event cannot be sent to this address.")

    async def _post(self, url: str, headers: dict[str, str], body: bytes) -> Outcome:
        extensions = {"timeout": _TIMEOUT}
        async with self._pool.stream("POST", url, headers=[*headers.items()], content=body, extensions=extensions) as answer:
            read = 0
            async for piece in answer.aiter_stream():
                read += len(piece)
                if read > _MOST_ANSWER_BYTES:
                    break
        if 200 <= answer.status < 300:
            return Outcome(answer.status, None)
        more = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
        return Outcome(answer.status, f"The receiver answered {answer.status}{more}.")

    async def _prune(self) -> None:
        if time.monotonic() - self._pruned_at < 3600 and self._pruned_at:
            return
        self._pruned_at = time.monotonic()
        async with self.runtime.database.unit() as unit:
            await store.prune(unit, now() - _KEEP)

    def _secrets(self) -> Secrets:
        return Secrets.of(self.runtime.database.engine, self.runtime.settings.root())
