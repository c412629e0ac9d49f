"""Wiring of the runner."""

from __future__ import annotations

from functools import partial

from ltp.contracts.values import Problem
from ltp.queue.work import Work
from ltp.queue.worker import Held, Worker
from ltp.service.runtime import Runtime
from ltp.store.database import Unit
from services.runner import gauges, host_handlers, keeping_handlers, rollouts, usage
from services.runner.attempt import Attempt
from services.runner.fleet import Fleet
from services.runner.handlers import SERVICE, router
from services.runner.host_setup import carry_out_setup
from services.runner.host_testing import carry_out_test
from services.runner.host_watch import tell_host, watch_hosts
from services.runner.keeping import keep_forever
from services.runner.settings import RunnerSettings
from services.runner.sweep import sweep_forever

# One watcher per attempt costs little; the scheduler's leases limit how many there are.
_CONCURRENCY = 64

settings = RunnerSettings()
runtime = Runtime(
    SERVICE, settings, [router, host_handlers.router, keeping_handlers.router, usage.router, rollouts.router]
)
runtime.exposition.readings |= gauges.readings(settings.root)
fleet = Fleet(runtime.database, settings)
runtime.provide(fleet=fleet)
runtime.loops.append(("host", lambda: tell_host(runtime.database, settings)))
runtime.loops.append(("hosts", lambda: watch_hosts(fleet)))
runtime.loops.append(("sweep", lambda: sweep_forever(fleet)))
runtime.loops.append(("keeping", lambda: keep_forever(fleet, lambda: runtime.client)))


def _attempt(held: Held) -> Attempt:
    return Attempt(held, runtime.database, fleet, settings, worker.lease)


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
    hosts=fleet.host_ids,
)
runtime.workers.append(worker)
for kind, carry_out in ((host_handlers.TEST_KIND, carry_out_test), (host_handlers.SETUP_KIND, carry_out_setup)):
    runtime.workers.append(
        Worker(
            runtime.database,
            kind=kind,
            name=SERVICE,
            handler=partial(carry_out, fleet=fleet),
            concurrency=8,
            settles=True,
        )
    )
