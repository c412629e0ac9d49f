"""Runs a service as a process: a tiny HTTP endpoint for its health, and a clean stop on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from opentelemetry import trace

from ltp.service.exposition import CONTENT_TYPE
from ltp.service.runtime import Runtime
from ltp.service.sockets import answer_at_once
from ltp.telemetry.logs import setup_logs

# As `uvicorn` itself ends then.
_NOT_STARTED = 3
_GRACE_SECONDS = 5

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@asynccontextmanager
async def in_background(runtime: Runtime) -> AsyncIterator[None]:
    """Run the service beside the block, so that health and SIGTERM are answered while it still waits for its servers."""
    setup_logs(runtime.service, runtime.settings.log_level)
    trace.set_tracer_provider(runtime.tracing)
    stop = asyncio.Event()
    task = asyncio.create_task(_run(runtime, stop), name=f"{runtime.service} runtime")
    try:
        yield
    finally:
        stop.set()
        if not runtime.ready:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(runtime: Runtime, stop: asyncio.Event) -> None:
    try:
        async with runtime.running():
            await stop.wait()
    except Exception:
        # Half a service is worse than none: end, and let the supervisor start it anew.
        structlog.get_logger().exception("service failed")
        signal.raise_signal(signal.SIGTERM)


class HealthApp:
    """An ASGI application that runs the service and answers `/healthz` (alive), `/readyz` (ready for work) and `/metrics`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope["path"], send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with in_background(self.runtime):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, path: str, send: Send) -> None:
        if path == "/metrics":
            body, kind = await self.runtime.exposition.text(), CONTENT_TYPE.encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            await send({"type": "http.response.body", "body": body})
            return
        good = path == "/healthz" or (path == "/readyz" and self.runtime.healthy())
        status = 200 if good else 503 if path == "/readyz" else 404
        body = json.dumps({"service": self.runtime.service, "ready": self.runtime.healthy()}).encode()
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": body})


def serve(
    app: Any,
    *,
    port: int,
    host: str = "127.0.0.1",
    certificate: Path | None = None,
    key: Path | None = None,
    slow_seconds: float = 30.0,
) -> None:
    """Serve an ASGI application until SIGTERM or Ctrl-C, then end with exit code 0. Exits 1 when the port is taken.

    With a certificate (PEM, with its chain) over TLS 1.2 or newer. A client that takes nothing of what it asked for is dropped by
    the kernel after twice `slow_seconds`; until then the application may have done so with better words.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has shut down; being asked to end is no failure.
        signal.signal(number, _ignore)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        lifespan="on",
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    listening = config.bind_socket()
    answer_at_once(listening)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * slow_seconds))
    server = uvicorn.Server(config)
    server.run(sockets=[listening])
    if not server.started:
        sys.exit(_NOT_STARTED)


def _ignore(*_: object) -> None:
    """Do nothing."""
