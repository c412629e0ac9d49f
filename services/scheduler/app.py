"""Wiring of the scheduler."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from ltp.store.listener import sets
from services.scheduler import gauges, monitor, outcomes
from services.scheduler.handlers import SERVICE, router
from services.scheduler.pipelines import handlers as pipelines
from services.scheduler.pipelines.engine import PIPELINES_CHANNEL, advance_forever
from services.scheduler.placement import look_after_hosts, place_forever
from services.scheduler.schedules import handlers as schedules
from services.scheduler.schedules.firing import MAINTAIN, SCHEDULES_CHANNEL, fire_forever
from services.scheduler.schedules.maintenance import ensure_builtin, maintain, tell_failure
from services.scheduler.settings import SchedulerSettings

settings = SchedulerSettings()
runtime = Runtime(SERVICE, settings, [router, monitor.router, schedules.router, pipelines.router, outcomes.router])
schedules_changed, pipelines_changed = asyncio.Event(), asyncio.Event()
runtime.channels |= {SCHEDULES_CHANNEL: sets(schedules_changed), PIPELINES_CHANNEL: sets(pipelines_changed)}
runtime.exposition.readings |= gauges.readings(timedelta(seconds=settings.scheduler_host_silent_seconds))
runtime.exposition.bus_readings["dead letters"] = gauges.read_dead_letters
runtime.loops.append(("placement", lambda: place_forever(runtime, settings)))
runtime.loops.append(("hosts", lambda: look_after_hosts(runtime, settings)))
runtime.loops.append(("deaths", lambda: monitor.tell_deaths(runtime.database)))
runtime.loops.append(("builtin schedules", lambda: ensure_builtin(runtime.database)))
runtime.loops.append(("schedules", lambda: fire_forever(runtime, schedules_changed)))
runtime.loops.append(("pipelines", lambda: advance_forever(runtime, pipelines_changed)))
runtime.workers.append(
    Worker(
        runtime.database,
        kind=MAINTAIN,
        name=SERVICE,
        handler=lambda held: maintain(held, runtime.database),
        on_failed=tell_failure,
    )
)
