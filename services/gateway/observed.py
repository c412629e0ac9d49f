"""Every request counted, timed and traced, outside of the door: what it refuses is seen as well.

Routes are told by their template, so that no id becomes a label; what matches none is `unmatched`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from ltp.telemetry.metrics import counter, gauge, histogram

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUESTS = counter("ltp_http_requests_total", "Requests.", "method", "route", "status")
DURATION = histogram("ltp_http_request_duration_seconds", "Duration of requests, streams left out.", "method", "route")
OPEN = gauge("ltp_http_requests_in_progress", "Requests and streams that are open now.")

_PREFIXES = ("/api/v1", "/v1")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Asked every few seconds by machines; their spans would drown the others.
_UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
_tracer = trace.get_tracer("ltp.gateway")


class Observed:
    """Wraps the application and its door."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        if scope["path"] in _UNTRACED:
            await self._counted(scope, receive, send, trace.INVALID_SPAN)
            return
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        parent = propagate.extract(carrier)
        with _tracer.start_as_current_span(_method(scope), context=parent, kind=SpanKind.SERVER) as span:
            await self._counted(scope, receive, send, span)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, span: trace.Span) -> None:
        started, status, streams = time.perf_counter(), 500, scope["type"] == "websocket"

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                streams = any(
                    k == b"content-type" and v.startswith(b"text/event-stream") for k, v in message["headers"]
                )
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close" and status == 500:
                status = 403
            await send(message)

        OPEN.inc()
        try:
            await self.app(scope, receive, watched)
        finally:
            OPEN.dec()
            method, route = _method(scope), _route(scope)
            REQUESTS.labels(method, route, str(status)).inc()
            if not streams:
                DURATION.labels(method, route).observe(time.perf_counter() - started)
            if span.is_recording():
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                )
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))


def _method(scope: Scope) -> str:
    if scope["type"] == "websocket":
        return "WEBSOCKET"
    method = scope.get("method", "GET")
    return method if method in _METHODS else "OTHER"


def _route(scope: Scope) -> str:
    """The template of the route, with the prefix of the router that it was included under, which FastAPI leaves out."""
    found: str | None = getattr(scope.get("route"), "path", None)
    if found is None:
        return "unmatched"
    prefix = next((each for each in _PREFIXES if scope["path"].startswith(f"{each}/")), "")
    return found if found.startswith(prefix) else prefix + found
