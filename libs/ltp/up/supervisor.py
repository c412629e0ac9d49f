"""Brings all processes up at once, watches over them, and takes them down in reverse order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from ltp.up.keeper import Keeper, start_failure
from ltp.up.process import ProcessSpec, run_to_end
from ltp.up.record import ProcessRecord

START_SECONDS = 180.0

log = logging.getLogger(__name__)


class Supervisor:
    """All processes of one platform.

    Servers and services start together: a service spends its first seconds importing, and waits for its servers and
    its schema by itself. The migration runs once `database`, when it is one of the servers, is ready.
    """

    def __init__(
        self,
        servers: Sequence[ProcessSpec],
        services: Sequence[ProcessSpec],
        migration: ProcessSpec | None,
        changed: Callable[[], None],
        database: str = "postgres",
    ) -> None:
        self._servers = [Keeper(spec, changed) for spec in servers]
        self._services = [Keeper(spec, changed) for spec in services]
        self._migration = migration
        self._database = database
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def records(self) -> list[ProcessRecord]:
        """What is known of each process, in the order of starting."""
        return [keeper.record for keeper in self._keepers]

    @property
    def _keepers(self) -> list[Keeper]:
        return [*self._servers, *self._services]

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Run until `stop` is set; whatever happens, no process is left behind."""
        stopped = self._spawn(_until(stop))
        try:
            for keeper in self._keepers:
                self._spawn(keeper.keep())
            ready = self._spawn(self._all_ready())
            await self._first_of(ready, stopped)
            if not stop.is_set():
                on_ready()
                await self._first_of(stopped)
        finally:
            await self._stop()

    async def _all_ready(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            await asyncio.gather(self._migrate(), *(keeper.ready.wait() for keeper in self._keepers))

    async def _migrate(self) -> None:
        if self._migration is None:
            return
        for keeper in self._servers:
            if keeper.spec.name == self._database:
                await keeper.ready.wait()
        code = await run_to_end(self._migration)
        if code != 0:
            raise start_failure(self._migration, f"ended with exit code {code}")

    async def _first_of(self, *wanted: asyncio.Task[None]) -> None:
        """Wait for one of the tasks; a failure of any other task is raised at once."""
        while not any(task.done() for task in wanted):
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._tasks if task.done()]:
                self._tasks.remove(task)
                self._raise_failure(task)

    def _raise_failure(self, task: asyncio.Task[None]) -> None:
        try:
            task.result()
        except TimeoutError as error:
            late = next((keeper for keeper in self._keepers if not keeper.ready.is_set()), None)
            if late is None:
                raise LtpError(
                    ErrorCode.START_FAILED, f"The migration did not end in {START_SECONDS:.0f} s.", "See its log."
                ) from error
            raise start_failure(late.spec, f"was not ready after {START_SECONDS:.0f} s") from error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def _stop(self) -> None:
        """Stop the services, then the servers they use: first nobody may start a process again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for keepers in (self._services, self._servers):
            await asyncio.gather(*(keeper.stop() for keeper in keepers))
        log.info("all processes stopped")


async def _until(event: asyncio.Event) -> None:
    await event.wait()
