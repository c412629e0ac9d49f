"""A running service: connections made patiently, consumers reconciled, relay and loops kept alive, all stopped in order."""

# nats-py leaves some of its signatures half typed.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from faststream.nats import NatsBroker, NatsRouter
from faststream.nats.opentelemetry import NatsTelemetryMiddleware
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from opentelemetry.sdk.trace import TracerProvider

from ltp.bus.delivery import delivery_middleware
from ltp.bus.pace import pace
from ltp.bus.recovery import keep_bus, stream_born_at
from ltp.bus.relay import Relay
from ltp.bus.streams import ensure_streams
from ltp.bus.subscriptions import reconcile
from ltp.queue.worker import Worker
from ltp.service.exposition import Exposition
from ltp.service.settings import CommonSettings
from ltp.store.database import Database, wake_channel
from ltp.store.listener import WORK_CHANNEL, Listener, sets, work_channel
from ltp.store.outage import is_outage
from ltp.store.patience import end_all
from ltp.store.schema import wait_for_schema
from ltp.telemetry.metrics import LOOP_FAILURES
from ltp.telemetry.setup import is_recording, tracer_provider
from ltp.telemetry.statements import trace_statements

_RETRY_SECONDS = 0.1
_LOOP_BACKOFF_SECONDS = 1.0
# How long the bus and the database each have to end well: nats-py by itself waits half a minute for what is at hand.
_END_SECONDS = 5.0
_COLLECT_AFTER = (10_000, 10, 20)

Loop = Callable[[], Awaitable[None]]


@dataclass
class Runtime:
    """One service in one process. Built at import; nothing is opened before `running`."""

    service: str
    settings: CommonSettings
    routers: Sequence[NatsRouter]
    database: Database = field(init=False)
    broker: NatsBroker = field(init=False)
    tracing: TracerProvider = field(init=False)
    exposition: Exposition = field(init=False)
    loops: list[tuple[str, Loop]] = field(default_factory=list[tuple[str, Loop]])
    workers: list[Worker] = field(default_factory=list[Worker])
    # Postgres channels to listen on, beside the outbox and the table of work.
    channels: dict[str, Callable[[str], None]] = field(default_factory=dict[str, Callable[[str], None]])
    # Set whenever the table of work changed; the scheduler's placement waits on it.
    work_changed: asyncio.Event = field(default_factory=asyncio.Event)
    ready: bool = False

    def __post_init__(self) -> None:
        self.tracing = tracer_provider(self.service, self.settings.traces_per_second)
        self.database = Database.connect(self.settings.database_url, self.service)
        if is_recording(self.tracing):
            trace_statements(self.database.engine.sync_engine)
        self.broker = NatsBroker(
            self.settings.nats_url,
            name=self.service,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            middlewares=(
                NatsTelemetryMiddleware(tracer_provider=self.tracing),
                delivery_middleware(lambda: self.broker, self.service),
            ),
            # Our own logs say what failed; FastStream's say each message received.
            logger=None,
        )
        self.broker.include_routers(*self.routers)
        self.exposition = Exposition(self.database, lambda: self.js, lambda: self.ready, self.healthy)

    def provide(self, **values: Any) -> None:
        """Make values available to handlers as `Context("name")`."""
        for name, value in values.items():
            self.broker.context.set_global(name, value)

    @property
    def client(self) -> Client:
        """The connected NATS client."""
        return self.broker.config.connection_state.connection

    @property
    def js(self) -> JetStreamContext:
        """JetStream on the connected client."""
        return self.client.jetstream()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the service for the length of the block."""
        log = structlog.get_logger()
        await asyncio.gather(wait_for_schema(self.database.engine), self._connect())
        await ensure_streams(self.js)
        await reconcile(self.js, self.service)
        self.provide(database=self.database, runtime=self, settings=self.settings)
        await self.broker.start()
        pace(self.broker)
        relay = Relay(self.database, self.js, stream_born_at=await stream_born_at(self.js))
        channels = {wake_channel(self.service): sets(relay.wake), WORK_CHANNEL: self._wake_workers} | self.channels
        channels |= {work_channel(worker.kind): sets(worker.wake) for worker in self.workers}
        tasks = [
            self._keep("outbox relay", relay.run),
            self._keep("listener", Listener(self.database.engine, channels).run),
            self._keep("bus", lambda: keep_bus(relay, lambda: self.js)),
        ]
        tasks += [self._keep(f"worker {worker.kind}", worker.run) for worker in self.workers]
        tasks += [self._keep(name, loop) for name, loop in self.loops]
        # What a service is made of stays until it ends: no collection needs to look through it again. And one after each
        # 700 objects, as Python has it, is one for each request with a hundred readings: a sixth of the gateway's time.
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        self.ready = True
        log.info("service ready")
        try:
            yield
        finally:
            self.ready = False
            await end_all(tasks)
            for what, end in (("bus", self.broker.stop), ("database", self.database.close)):
                try:
                    async with asyncio.timeout(_END_SECONDS):
                        await end()
                except Exception as error:
                    # Out of time, or out of reach: what was at hand is delivered again, or was not committed.
                    log.warning("hung up before all was done", on=what, error=type(error).__name__)
            log.info("service stopped")

    def healthy(self) -> bool:
        """Ready, and connected to the bus at this moment."""
        return self.ready and self.client.is_connected

    def _wake_workers(self, _: str) -> None:
        self.work_changed.set()
        for worker in self.workers:
            worker.wake.set()

    async def _connect(self) -> None:
        told = False
        while True:
            try:
                await self.broker.connect()
                return
            except (TimeoutError, NatsError, OSError) as error:
                if not told:
                    structlog.get_logger().info("waiting for NATS", reason=type(error).__name__)
                    told = True
                await asyncio.sleep(_RETRY_SECONDS)

    def _keep(self, name: str, loop: Loop) -> asyncio.Task[None]:
        return asyncio.create_task(_forever(name, loop), name=name)


async def _forever(name: str, loop: Loop) -> None:
    """Run a loop again when it fails, with its error in the log: one bad moment must not end a service's duty."""
    while True:
        try:
            await loop()
            return
        except Exception as error:
            LOOP_FAILURES.labels(name).inc()
            if is_outage(error):
                structlog.get_logger().warning("loop waits for the database", loop=name, error=type(error).__name__)
            else:
                structlog.get_logger().exception("loop failed, restarting it", loop=name)
            await asyncio.sleep(_LOOP_BACKOFF_SECONDS)
