"""The loop that takes work and does it: claim, heartbeat while the work runs, and let the work settle itself.

A handler settles its work by `finish` inside the transaction of its effects. When it raises, the loop notes the failure;
when its process dies, the lease runs out and another worker takes over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from opentelemetry import context, propagate, trace
from sqlalchemy.exc import DBAPIError

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, claim, extend, fail
from ltp.store.database import Database, Unit
from ltp.store.patience import wait_at_most

Handler = Callable[["Held"], Awaitable[None]]

# Codes that a second try cannot mend: the input is wrong, or the lease belongs to someone else by now.
_FINAL = frozenset(ErrorCode) - {ErrorCode.INTERNAL, ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.INFERENCE_SERVER_FAILED}


@dataclass
class Held:
    """Work in hand. `cancelled` is set when a user asked that it end."""

    work: Work
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Worker:
    """Takes up to `concurrency` pieces of work of one kind at a time.

    `on_failed` tells the world that work is over without a result, in the transaction that says so.
    """

    database: Database
    kind: str
    name: str
    handler: Handler
    on_failed: Callable[[Unit, Work, Problem], Awaitable[None]] | None = None
    concurrency: int = 1
    lease: timedelta = timedelta(seconds=10)
    poll_seconds: float = 1.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def run(self) -> None:
        """Work until cancelled. Work in hand is left to its lease, so that a restarted service picks it up."""
        try:
            while True:
                if not await self._take():
                    await self._rest()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _rest(self) -> None:
        self.wake.clear()
        await wait_at_most(self.wake, self.poll_seconds)

    async def _take(self) -> bool:
        if len(self._tasks) >= self.concurrency:
            return False
        try:
            async with self.database.unit() as unit:
                work = await claim(unit, [self.kind], self.name, self.lease)
        except (OSError, DBAPIError) as error:
            structlog.get_logger().warning("cannot reach the database", error=type(error).__name__, kind=self.kind)
            return False
        if work is None:
            return False
        task = asyncio.create_task(self._do(work), name=f"{self.kind} {work.id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return True

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.wake.set()

    async def _do(self, work: Work) -> None:
        token = context.attach(propagate.extract(work.trace))
        structlog.contextvars.bind_contextvars(work_id=str(work.id), kind=work.kind)
        held = Held(work)
        heart = asyncio.create_task(self._beat(held, asyncio.current_task()))
        try:
            with trace.get_tracer(__name__).start_as_current_span(f"work {work.kind}"):
                await self.handler(held)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await self._note_failure(work, error)
        finally:
            heart.cancel()
            context.detach(token)

    async def _beat(self, held: Held, task: asyncio.Task[None] | None) -> None:
        """Renew the lease at a third of its length; stop the work when the lease is lost."""
        while True:
            await asyncio.sleep(self.lease.total_seconds() / 3)
            try:
                async with self.database.unit() as unit:
                    if await extend(unit, held.work, self.lease):
                        held.cancelled.set()
            except LtpError:
                structlog.get_logger().warning("lost the lease", work_id=str(held.work.id))
                if task is not None:
                    task.cancel()
                return
            except (OSError, DBAPIError) as error:
                # Not ours to judge: the lease may outlive the outage, and a late result is fenced by its token.
                structlog.get_logger().warning("heartbeat missed", error=type(error).__name__)

    async def _note_failure(self, work: Work, error: Exception) -> None:
        known = error if isinstance(error, LtpError) else None
        if known is not None and known.code is ErrorCode.STALE_LEASE:
            structlog.get_logger().warning("result discarded", reason=known.message)
            return
        if known is None:
            structlog.get_logger().exception("work failed unexpectedly", kind=work.kind)
            known = LtpError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}", "See the service's log.")
        problem = Problem.of(known)
        try:
            async with self.database.unit() as unit:
                again = await fail(unit, work, problem, retry=known.code not in _FINAL)
                if not again and self.on_failed is not None:
                    await self.on_failed(unit, work, problem)
        except (OSError, DBAPIError, LtpError) as trouble:
            structlog.get_logger().warning("failure not recorded; the lease will run out", error=type(trouble).__name__)
