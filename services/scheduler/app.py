"""Wiring of the scheduler."""

from __future__ import annotations

from datetime import timedelta

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.scheduler import monitor
from services.scheduler.handlers import SERVICE, router
from services.scheduler.placement import look_after_hosts, place_forever
from services.scheduler.settings import SchedulerSettings

settings = SchedulerSettings()
runtime = Runtime(SERVICE, settings, [router, monitor.router])
runtime.loops.append(("placement", lambda: place_forever(runtime, settings)))
runtime.loops.append(("hosts", lambda: look_after_hosts(runtime, settings)))
runtime.loops.append(("deaths", lambda: monitor.tell_deaths(runtime.database)))
runtime.loops.append(("pruning", lambda: monitor.ask_for_pruning(runtime.database)))
_retention = timedelta(days=settings.scheduler_work_retention_days)
runtime.workers.append(
    Worker(
        runtime.database,
        kind=monitor.PRUNE,
        name=SERVICE,
        handler=lambda held: monitor.prune(held, runtime.database, _retention),
    )
)
