"""Spans of things that outlive a function: their ids are told by what they are, and they are written down when they end.

A job waits for hours, an attempt may change its watcher. Such a span is recorded once, by who sees the end, with the times
of the truth; its id follows from the id of the thing, so that children can name it as their parent long before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from uuid import UUID

from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode

# The conventions our attributes follow (`messaging.*`, `http.*`, `db.*`, `cicd.pipeline.*`, `hw.*`), pinned.
SCHEMA_URL = Schemas.V1_37_0.value
Attributes = Mapping[str, str | int | float | bool]

_given: ContextVar[int | None] = ContextVar("given span id", default=None)
_tracer = trace.get_tracer("ltp", schema_url=SCHEMA_URL)


class GivenIds(RandomIdGenerator):
    """Random ids, but for a span whose id was told."""

    def generate_span_id(self) -> int:
        """The id of the next span."""
        return _given.get() or super().generate_span_id()


def span_id_of(thing: UUID) -> int:
    """The id of the span of a thing."""
    return int.from_bytes(hashlib.sha256(thing.bytes).digest()[:8], "big") or 1


def carried() -> dict[str, str]:
    """The current trace, to be kept with what goes on later."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def is_recorded() -> bool:
    """Whether the current trace is recorded."""
    return trace.get_current_span().get_span_context().trace_flags.sampled


def within(thing: UUID) -> context.Context:
    """The current trace with the span of a thing as the parent of what follows, though it is not written yet."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return context.get_current()
    parent = SpanContext(current.trace_id, span_id_of(thing), is_remote=True, trace_flags=current.trace_flags)
    return trace.set_span_in_context(NonRecordingSpan(parent))


def traceparent_of(thing: UUID) -> str | None:
    """TRACEPARENT for a process that belongs to a thing; None outside of a recorded trace."""
    if not is_recorded():
        return None
    carrier: dict[str, str] = {}
    propagate.inject(carrier, within(thing))
    return carrier.get("traceparent")


def record(
    name: str,
    started_at: datetime,
    ended_at: datetime,
    attributes: Attributes,
    *,
    thing: UUID | None = None,
    parent: Mapping[str, str] | None = None,
    kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    error: str | None = None,
) -> None:
    """Write down a span that is over: of a `thing`, below `parent` (a carrier) or the current span."""
    above = propagate.extract(parent) if parent else context.get_current()
    if not trace.get_current_span(above).get_span_context().trace_flags.sampled:
        return
    mark = _given.set(None if thing is None else span_id_of(thing))
    try:
        span = _tracer.start_span(name, above, kind, attributes, start_time=_nanoseconds(started_at))
    finally:
        _given.reset(mark)
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(max(_nanoseconds(started_at), _nanoseconds(ended_at)))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e9)
