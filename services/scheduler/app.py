"""Wiring of the scheduler."""

from __future__ import annotations

from ltp.service.runtime import Runtime
from services.scheduler.handlers import SERVICE, router
from services.scheduler.placement import look_after_hosts, place_forever
from services.scheduler.settings import SchedulerSettings

settings = SchedulerSettings()
runtime = Runtime(SERVICE, settings, [router])
runtime.loops.append(("placement", lambda: place_forever(runtime, settings)))
runtime.loops.append(("hosts", lambda: look_after_hosts(runtime, settings)))
