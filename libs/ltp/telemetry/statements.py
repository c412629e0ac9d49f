"""SQL statements as spans: of those that run inside a recorded trace, and of no others, such as the polls of loops."""

from __future__ import annotations

import re
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from sqlalchemy import event
from sqlalchemy.engine import Engine

from ltp.telemetry.spans import SCHEMA_URL

_tracer = trace.get_tracer("ltp.sql", schema_url=SCHEMA_URL)
_TARGET = re.compile(r"(?is)\b(?:from|into|update)\s+([a-z_]+\.[a-z_]+)")
_MOST_TEXT = 500
_KEPT = "ltp_span"


def trace_statements(engine: Engine) -> None:
    """Make a span of each statement of an engine. Its text holds placeholders; values never leave the process."""
    event.listen(engine, "before_cursor_execute", _before)
    event.listen(engine, "after_cursor_execute", _after)
    event.listen(engine, "handle_error", _failed)


def _before(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if context is None or not trace.get_current_span().is_recording():
        return
    operation = statement.lstrip()[:12].split(None, 1)[0].upper()
    found = _TARGET.search(statement)
    attributes = {
        "db.system.name": "postgresql",
        "db.operation.name": operation,
        "db.query.text": statement[:_MOST_TEXT],
    }
    if found:
        attributes["db.collection.name"] = found[1]
    name = f"{operation} {found[1]}" if found else operation
    setattr(context, _KEPT, _tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))


def _after(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    span = getattr(context, _KEPT, None)
    if span is not None:
        span.end()


def _failed(failure: Any) -> None:
    span = getattr(failure.execution_context, _KEPT, None)
    if span is not None:
        span.record_exception(failure.original_exception)
        span.end()
