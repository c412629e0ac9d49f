"""Wiring of the runner."""

from __future__ import annotations

from ltp.queue.worker import Held, Worker
from ltp.service.runtime import Runtime
from services.runner.attempt import Attempt
from services.runner.backends.local import LocalBackend
from services.runner.handlers import SERVICE, router, tell_host
from services.runner.settings import RunnerSettings

# One watcher per attempt costs little; the scheduler's leases limit how many there are.
_CONCURRENCY = 64

settings = RunnerSettings()
runtime = Runtime(SERVICE, settings, [router])
backend = LocalBackend()
runtime.provide(backend=backend)
runtime.loops.append(("host", lambda: tell_host(runtime.database, settings)))


async def _live(held: Held) -> None:
    await Attempt(held, runtime.database, backend, settings, worker.lease).live()


worker = Worker(runtime.database, kind="train", name=SERVICE, handler=_live, concurrency=_CONCURRENCY)
runtime.workers.append(worker)
