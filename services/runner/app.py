"""Wiring of the runner."""

from __future__ import annotations

from ltp.contracts.values import Problem
from ltp.queue.work import Work
from ltp.queue.worker import Held, Worker
from ltp.service.runtime import Runtime
from ltp.store.database import Unit
from services.runner.attempt import Attempt
from services.runner.backends.local import LocalBackend
from services.runner.handlers import SERVICE, router, tell_host
from services.runner.settings import RunnerSettings
from services.runner.sweep import sweep_forever

# One watcher per attempt costs little; the scheduler's leases limit how many there are.
_CONCURRENCY = 64

settings = RunnerSettings()
runtime = Runtime(SERVICE, settings, [router])
backend = LocalBackend()
runtime.provide(backend=backend)
runtime.loops.append(("host", lambda: tell_host(runtime.database, settings)))
runtime.loops.append(("sweep", lambda: sweep_forever(runtime.database, backend, settings, settings.host_id())))


def _attempt(held: Held) -> Attempt:
    return Attempt(held, runtime.database, backend, settings, worker.lease)


async def _give_up(unit: Unit, work: Work, problem: Problem) -> None:
    await _attempt(Held(work)).give_up(unit, problem)


worker = Worker(
    runtime.database,
    kind="train",
    name=SERVICE,
    handler=lambda held: _attempt(held).live(),
    on_failed=_give_up,
    concurrency=_CONCURRENCY,
    # A watcher's death says nothing about the run it watched.
    max_deaths=None,
    host=settings.host_id(),
)
runtime.workers.append(worker)
