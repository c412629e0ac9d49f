"""One side of the telemetry benchmark: the dispatch benchmark's worker and producer, with telemetry as BENCH_TELEMETRY says."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import prometheus_client
from opentelemetry import trace

from ltp.service.settings import CommonSettings
from ltp.telemetry import metrics
from ltp.telemetry.setup import is_recording, tracer_provider
from ltp.telemetry.statements import trace_statements
from tests.bench.dispatch import our_side


def take_out_counting() -> None:
    """What the code would be without metrics: the calls stay, and do nothing."""

    class Nothing:
        def labels(self, *_: Any, **__: Any) -> Nothing:
            return self

        def inc(self, *_: Any) -> None:
            pass

        observe = set = inc

    nothing = Nothing()
    for name, value in vars(metrics).items():
        if isinstance(value, prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram):
            setattr(metrics, name, nothing)


async def scraped() -> None:
    """Answer a scrape each second, fifteen times as often as Prometheus is told to ask."""
    while True:
        await asyncio.sleep(1.0)
        prometheus_client.generate_latest(metrics.REGISTRY)


async def main() -> None:
    """As the dispatch benchmark's side, inside a span for each piece that is put in."""
    mode = os.environ["BENCH_TELEMETRY"]
    if mode == "off":
        take_out_counting()
    else:
        asyncio.create_task(scraped())  # noqa: RUF006 (lives as long as the process)
    provider = tracer_provider("bench", CommonSettings().traces_per_second)
    trace.set_tracer_provider(provider)
    if is_recording(provider):
        connect = our_side.Database.connect

        def traced(url: str, service: str) -> Any:
            database = connect(url, service)
            trace_statements(database.engine.sync_engine)
            return database

        our_side.Database.connect = traced  # type: ignore[method-assign]
    put, tracer = our_side.put, trace.get_tracer("bench")

    async def put_in_span(database: Any, index: int) -> float:
        with tracer.start_as_current_span("POST /api/v1/jobs"):
            return await put(database, index)

    if mode != "off":
        our_side.put = put_in_span
    await our_side.main()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
