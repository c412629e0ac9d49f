"""The training process as a span of its job's trace: where TRACEPARENT and an OTLP endpoint are given, and nowhere else.

Telemetry must not end a training: without the packages, or when the receiver is gone, training goes on and says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def run_traced(main: Callable[[], Any]) -> None:
    """Run a training's entry point inside a span, on the first process alone."""
    provider = _provider() if os.environ.get("RANK", "0") == "0" else None
    if provider is None:
        main()
        return
    from opentelemetry import propagate

    parent = propagate.extract({"traceparent": os.environ["TRACEPARENT"]})
    attributes = {"process.pid": os.getpid(), "ltp.world_size": int(os.environ.get("WORLD_SIZE", "1"))}
    try:
        with provider.get_tracer("ltp_verl").start_as_current_span("training process", parent, attributes=attributes):
            main()
    finally:
        with suppress(Exception):
            provider.shutdown()


def _provider() -> Any:
    if not os.environ.get("TRACEPARENT") or not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": "ltp-training", "service.namespace": "ltp"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
