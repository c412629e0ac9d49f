"""Traces set up once per process: exported where the standard OTEL_* variables say, silent and near-free where none does."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from ltp.telemetry.sampling import whole_traces
from ltp.telemetry.spans import SCHEMA_URL, GivenIds

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def exporter_of(environ: Mapping[str, str]) -> str:
    """`otlp`, `console` or `none`, as OTEL_TRACES_EXPORTER says; left out, `otlp` where an endpoint is given."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "none"
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if named in {"otlp", "console", "none"}:
        return named
    return "otlp" if any(environ.get(name) for name in _ENDPOINTS) else "none"


def tracer_provider(service: str, traces_per_second: float) -> TracerProvider:
    """A tracer provider for a service, sampling as OTEL_TRACES_SAMPLER says; left out, so many traces a second of each kind.

    Without an exporter nothing is recorded; trace ids are still drawn and passed on, so that logs can be joined by them.
    """
    resource = Resource.create(
        {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or f"ltp-{service}",
            "service.namespace": "ltp",
            "service.version": _version(),
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        },
        SCHEMA_URL,
    )
    exporter = exporter_of(os.environ)
    if exporter == "none":
        return TracerProvider(sampler=ALWAYS_OFF, resource=resource, shutdown_on_exit=False)
    # None: the SDK reads the standard variable.
    sampler = None if os.environ.get("OTEL_TRACES_SAMPLER") else whole_traces(traces_per_second)
    provider = TracerProvider(sampler=sampler, resource=resource, id_generator=GivenIds())
    if exporter == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    else:
        # Imported here because it doubles a service's import time and most run without it.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def is_recording(provider: TracerProvider) -> bool:
    """Whether spans of this provider go anywhere."""
    return provider.sampler is not ALWAYS_OFF


def _version() -> str:
    try:
        return version("ltp")
    except PackageNotFoundError:
        return "unknown"
