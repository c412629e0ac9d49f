"""Wiring of the planner."""

from __future__ import annotations

from ltp.service.runtime import Runtime
from services.planner import gauges
from services.planner.handlers import SERVICE, router
from services.planner.settings import PlannerSettings

settings = PlannerSettings()
runtime = Runtime(SERVICE, settings, [router])
runtime.exposition.readings |= gauges.readings()
