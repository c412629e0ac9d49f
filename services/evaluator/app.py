"""Wiring of the evaluator."""

from __future__ import annotations

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.evaluator.evaluation import evaluate, tell_failure
from services.evaluator.handlers import SERVICE, router
from services.evaluator.settings import EvaluatorSettings

# Each evaluation holds a leased device, so the leases limit how many there are.
_CONCURRENCY = 16

settings = EvaluatorSettings()
runtime = Runtime(SERVICE, settings, [router])
runtime.workers.append(
    Worker(
        runtime.database,
        kind="evaluate",
        name=SERVICE,
        handler=lambda held: evaluate(held, runtime.database, settings),
        on_failed=tell_failure,
        concurrency=_CONCURRENCY,
    )
)
