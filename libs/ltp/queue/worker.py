"""The loop that takes work and does it: claim, heartbeat while the work runs, and let the work settle itself.

A handler settles its work by `finish` inside the transaction of its effects; one without effects in the database leaves
that to the loop (`settles`). When it raises, the loop notes the failure; when its process dies, the lease runs out and
another worker takes over.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from opentelemetry import context, propagate, trace

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue import statements
from ltp.queue.policy import MAX_DEATHS, SUSPECT_DEATHS
from ltp.queue.work import Work, claim_limited, end_cancelled, fail, in_order
from ltp.store.clock import now
from ltp.store.database import Database, Unit
from ltp.store.line import BROKEN, Line
from ltp.store.patience import end_all, wait_at_most
from ltp.telemetry import metrics
from ltp.telemetry.spans import record

Handler = Callable[["Held"], Awaitable[None]]

# Codes that a second try cannot mend: the input is wrong, or the lease belongs to someone else by now.
_FINAL = frozenset(ErrorCode) - {ErrorCode.INTERNAL, ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.INFERENCE_SERVER_FAILED}
_ANY_DEATHS = 1_000_000
# Between two looks of a worker in a rush, which finds more than one piece at a time: more is settled and taken at each,
# which costs far less for each piece. Work that comes one piece at a time does not wait.
_BREATH_SECONDS = 0.005
# All workers of a kind hear of new work; who was the slower one last time leaves the first look to the others.
_COURTESY_SECONDS = 0.003


@dataclass
class Held:
    """Work in hand. `cancelled` is set when a user asked that it end."""

    work: Work
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Worker:
    """Takes up to `concurrency` pieces of work of one kind at a time.

    `on_failed` tells the world that work is over without a result, in the transaction that says so. `settles` is for a
    handler without effects of its own in the database: when it returns, its work is marked done together with others,
    in the statement that takes the next. Work with which `max_deaths` workers died is failed instead of tried once
    more; None where a worker only watches what lives elsewhere and its own death says nothing about the work.
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
    settles: bool = False
    max_deaths: int | None = MAX_DEATHS
    # Only work placed on one of these hosts, asked for at each look; None takes work placed anywhere.
    hosts: Callable[[], list[str]] | None = None
    _tasks: dict[asyncio.Task[None], Held] = field(default_factory=dict[asyncio.Task[None], Held])
    _finished: list[Work] = field(default_factory=list[Work])
    _looked_at: float = 0.0
    _turned_at: float = 0.0
    _rush: bool = False
    _slower: bool = False

    def __post_init__(self) -> None:
        # Tells apart the workers of one name, on one host or several, in the list of workers.
        self.identity = f"{self.name}.{self.kind}@{socket.gethostname()}:{os.getpid()}.{secrets.token_hex(2)}"
        self._line = Line(self.database.engine)

    async def run(self) -> None:
        """Work until cancelled. Work in hand is let go of, so that a restarted service picks it up at once."""
        heart = asyncio.create_task(self._heart(), name=f"heart of {self.identity}")
        try:
            while True:
                # Cleared before looking: what is told while we look makes us look again.
                self.wake.clear()
                if await self._take():
                    # What was taken begins before the next look, which then settles what is done already.
                    await asyncio.sleep(0)
                else:
                    await self._rest()
                if self._rush:
                    await asyncio.sleep(max(0.0, self._turned_at + _BREATH_SECONDS - time.monotonic()))
        finally:
            held = [each.work for each in self._tasks.values()]
            await end_all([heart, *self._tasks])
            await self._leave(held)

    async def _rest(self) -> None:
        """Wait until there may be something to do, and a little longer where another worker is likely to do it."""
        await wait_at_most(self.wake, self.poll_seconds)
        if not self.wake.is_set() or self._finished:
            return
        if self._slower:
            await asyncio.sleep(_COURTESY_SECONDS)
        # Until it finds something.
        self._slower = True

    async def _take(self) -> bool:
        """Settle what is finished and take what there is room for; False when there was nothing to take."""
        room = 0 if self._holds_suspect() else self.concurrency - len(self._tasks)
        finished, self._finished = self._finished, []
        if room <= 0 and not finished:
            return False
        try:
            found = await self._turn_over(finished, room)
            # Not before new work, which would wait; only a look that filled the room puts it off.
            found += await self._expired(room - len(found))
        except BROKEN as error:
            self._finished += finished
            structlog.get_logger().warning("cannot reach the database", error=type(error).__name__, kind=self.kind)
            return False
        return bool(found)

    async def _expired(self, room: int) -> list[Work]:
        """Now and then, take over what silent workers held; what may have killed them one at a time."""
        if room <= 0 or time.monotonic() - self._looked_at < self.poll_seconds:
            return []
        self._looked_at = time.monotonic()
        bounds = [(0, _ANY_DEATHS, room)]
        if self.max_deaths is not None:
            bounds = [(0, SUSPECT_DEATHS, room), (SUSPECT_DEATHS, _ANY_DEATHS, 1)]
        for deaths_from, deaths_below, count in bounds:
            values = {"deaths_from": deaths_from, "deaths_below": deaths_below}
            rows = await self._line.fetch(statements.EXPIRED, self._taking(count) | values)
            if rows:
                return self._begin(in_order(rows), taken_over=True)
        return []

    async def _turn_over(self, finished: Sequence[Work], room: int) -> list[Work]:
        values = self._taking(0 if self._holds_suspect() else max(room, 0)) | _keys(finished)
        rows = await self._line.fetch(statements.TURNOVER, values)
        self._turned_at = time.monotonic()
        self._rush = len(finished) > 1 or len(rows) > 1
        if (lost := len(finished) - rows[0]["settled"]) > 0:
            structlog.get_logger().warning("results discarded", kind=self.kind, count=lost)
        if rows[0]["id"] is not None:
            self._slower = False
            return self._begin(in_order(rows))
        if not rows[0]["limited"] or values["count"] == 0:
            return []
        async with self.database.unit() as unit:
            found = await claim_limited(unit, [self.kind], self.identity, self.lease, values["count"], self._hosts())
        return self._begin(found)

    def _taking(self, count: int) -> dict[str, Any]:
        return {"kinds": [self.kind], "worker": self.identity, "lease": self.lease, "count": count} | {
            "hosts": self._hosts()
        }

    def _hosts(self) -> list[str] | None:
        return None if self.hosts is None else self.hosts()

    def _begin(self, found: list[Work], *, taken_over: bool = False) -> list[Work]:
        for work in found:
            if taken_over:
                metrics.WORK_TAKEN_OVER.labels(self.kind).inc()
            else:
                metrics.DISPATCH.labels(self.kind).observe(max(0.0, work.waited_seconds))
            held = Held(work)
            if work.cancelled and taken_over:
                # It had begun in other hands: its handler must end what that one left.
                held.cancelled.set()
            task = asyncio.create_task(self._do(held), name=f"{self.kind} {work.id}")
            self._tasks[task] = held
            task.add_done_callback(self._done)
        return found

    def _holds_suspect(self) -> bool:
        return self.max_deaths is not None and any(h.work.deaths >= SUSPECT_DEATHS for h in self._tasks.values())

    def _done(self, task: asyncio.Task[None] | None) -> None:
        # Once: told by the task itself, or for one that was ended before it began.
        if task in self._tasks:
            del self._tasks[task]
            self.wake.set()

    async def _do(self, held: Held) -> None:
        work = held.work
        token, started, outcome = context.attach(propagate.extract(work.trace)), time.monotonic(), "failed"
        structlog.contextvars.bind_contextvars(work_id=str(work.id), kind=work.kind)
        try:
            self._refuse(held)
            _trace_wait(work)
            with trace.get_tracer(__name__).start_as_current_span(f"work {work.kind}"):
                await self.handler(held)
            if self.settles:
                self._finished.append(work)
            outcome = "done"
        except asyncio.CancelledError:
            outcome = "let go"
            raise
        except Exception as error:
            await self._note_failure(work, error)
        finally:
            metrics.WORK_DURATION.labels(self.kind, outcome).observe(time.monotonic() - started)
            context.detach(token)
            # Now, and not one turn of the loop later: the next look settles it and has its room.
            self._done(asyncio.current_task())

    def _refuse(self, held: Held) -> None:
        work = held.work
        if work.cancelled and not held.cancelled.is_set():
            raise LtpError(ErrorCode.CANCELLED, "The work was cancelled before it began.", "Nothing is left to do.")
        if self.max_deaths is not None and work.deaths >= self.max_deaths:
            raise LtpError(
                ErrorCode.WORKER_KILLED,
                f"{work.deaths} workers fell silent one after another while they did this work.",
                f"Look for what killed them (out of memory?), then `ltp work retry {work.id}`.",
            )

    async def _heart(self) -> None:
        """Say that this worker lives and renew its leases, at a third of their length; stop work whose lease is lost."""
        mine = {"name": self.identity, "kind": self.kind, "host": socket.gethostname(), "pid": os.getpid()}
        while True:
            try:
                await self._line.fetch(statements.REGISTER, mine | {"concurrency": self.concurrency})
                await self._beat()
            except BROKEN as error:
                # Not ours to judge: the leases may outlive the outage, and a late result is fenced by its token.
                structlog.get_logger().warning("heartbeat missed", error=type(error).__name__)
            await asyncio.sleep(self.lease.total_seconds() / 3)

    async def _beat(self) -> None:
        held = dict(self._tasks)
        if not held:
            return
        values = _keys([each.work for each in held.values()]) | {"lease": self.lease}
        alive = {row["id"]: row["cancel_requested"] for row in await self._line.fetch(statements.HEARTBEAT, values)}
        for task, each in held.items():
            if task.done():
                continue
            if each.work.id not in alive:
                metrics.WORK_LEASES_LOST.labels(self.kind).inc()
                structlog.get_logger().warning("lost the lease", work_id=str(each.work.id))
                task.cancel()
            elif alive[each.work.id]:
                each.cancelled.set()

    async def _leave(self, held: Sequence[Work]) -> None:
        """Settle what is finished, let go of what is not, and strike this worker off the list."""
        try:
            if self._finished:
                await self._line.fetch(statements.TURNOVER, self._taking(0) | _keys(self._finished))
            if held:
                await self._line.fetch(statements.RELEASE, _keys(held))
            await self._line.fetch(statements.UNREGISTER, {"name": self.identity})
        except BROKEN:
            pass  # The leases run out by themselves.
        finally:
            self._line.close()

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
                if known.code is ErrorCode.CANCELLED:
                    await end_cancelled(unit, work, problem)
                    again = False
                else:
                    again = await fail(unit, work, problem, retry=known.code not in _FINAL)
                if not again and self.on_failed is not None:
                    await self.on_failed(unit, work, problem)
        except (*BROKEN, LtpError) as trouble:
            structlog.get_logger().warning("failure not recorded; the lease will run out", error=type(trouble).__name__)


def _trace_wait(work: Work) -> None:
    """The time a piece of work lay in its queue, as a span beside that of its doing."""
    taken_at = now()
    waited = timedelta(seconds=max(0.0, work.waited_seconds))
    record(f"wait {work.kind}", taken_at - waited, taken_at, {"ltp.work.kind": work.kind, "ltp.work.id": str(work.id)})


def _keys(works: Sequence[Work]) -> dict[str, Any]:
    return {"ids": [work.id for work in works], "tokens": [work.token for work in works]}
