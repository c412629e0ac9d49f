"""Structured logs on standard output: JSON lines with trace, job and event ids, secrets masked before they are written."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace

_MASK = "***"
_SECRET_KEY = re.compile(
    r"(?i)(^|[_-])(password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|authorization|cookie|credential)s?$"
)
_SECRETS = re.compile(
    r"(?P<url>[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+(?=@)"
    r"|(?P<scheme>(?i:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"
    r"|\bltp_[0-9a-f]{8}_[A-Za-z0-9_-]{20,}"
    r"|\b(?:hf|ghp|gho|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}"
    r"|\bsk-[A-Za-z0-9_-]{16,}|\bAKIA[0-9A-Z]{16}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?P<pair>(?i:password|passwd|passphrase|api[_-]?key|secret|token)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]{4,}",
    re.DOTALL,
)


def redacted(text: str) -> str:
    """A text with what looks like a secret masked: tokens, keys, passwords in URLs and in `password=...`."""
    return _SECRETS.sub(lambda found: (found["url"] or found["scheme"] or found["pair"] or "") + _MASK, text)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Mask secrets in a log line, by the name of a field or by what a text looks like."""
    return {key: _MASK if _SECRET_KEY.search(key) and value else _masked(value) for key, value in event.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return redact(None, "", value)  # type: ignore[arg-type]
    if isinstance(value, list | tuple):
        return [_masked(each) for each in value]  # type: ignore[misc]
    return value


def add_trace_ids(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Say in which trace and span a line was written."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = format(span.trace_id, "032x")
        event["span_id"] = format(span.span_id, "016x")
    return event


def setup_logs(service: str, level: str) -> None:
    """JSON lines on standard output, from structlog and from the standard library alike."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_trace_ids,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(default=str),
        ],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(renderer)
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.getLevelName(level.upper())
    # One line per HTTP request or per received message drowns what matters.
    for noisy in ("httpx", "uvicorn.access", "alembic.runtime.migration"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)
