"""Wiring of surgery."""

from __future__ import annotations

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.surgery import operations
from services.surgery.handlers import SERVICE, export_checkpoint, router, tell_failure
from services.surgery.settings import SurgerySettings

settings = SurgerySettings()
runtime = Runtime(SERVICE, settings, [router, operations.router])
_models = settings.root() / "models"
runtime.workers.append(
    Worker(
        runtime.database,
        kind="export",
        name=SERVICE,
        handler=lambda held: export_checkpoint(held, runtime, settings.surgery_python, _models),
        on_failed=tell_failure,
    )
)
runtime.workers.append(
    Worker(
        runtime.database,
        kind="operation",
        name=SERVICE,
        handler=lambda held: operations.carry_out(held, runtime.database, settings),
        on_failed=operations.tell_failure,
    )
)
