"""Wiring of the evaluator."""

from __future__ import annotations

from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from services.evaluator import gauges, serving
from services.evaluator.evaluation import Evaluator, tell_failure
from services.evaluator.handlers import SERVICE, router
from services.evaluator.opening import WORK_KIND
from services.evaluator.rescoring import Rescorer
from services.evaluator.settings import EvaluatorSettings

# An evaluation of our own model holds a leased device, so the leases limit those; the others mostly wait for an endpoint.
_CONCURRENCY = 16

settings = EvaluatorSettings()
runtime = Runtime(SERVICE, settings, [router, serving.router])
runtime.exposition.readings |= gauges.readings()
evaluator = Evaluator(runtime.database, settings)
rescorer = Rescorer(evaluator)
chat_servers = serving.Serving(settings)
runtime.provide(evaluator=evaluator, serving=chat_servers)
runtime.loops.append(("chat servers", chat_servers.run))
for kind, handler in (
    (WORK_KIND, evaluator.evaluate),
    ("rescore", rescorer.rescore),
    ("import-scores", rescorer.read_import),
):
    runtime.workers.append(
        Worker(
            runtime.database,
            kind=kind,
            name=SERVICE,
            handler=handler,
            on_failed=tell_failure,
            concurrency=_CONCURRENCY,
        )
    )
runtime.loops.append(("model cache", evaluator.keep_servers))
