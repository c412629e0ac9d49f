"""Server-sent events from a table that grows: resumed by Last-Event-ID with nothing lost or doubled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import Query, Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError

from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway.live import Line, Read, Tails
from services.gateway.news import News
from services.gateway.settings import GatewaySettings

L = TypeVar("L", bound=BaseModel)

# Postgres counts rows in 63 bits; a larger number is a client's mistake, not a place to read from.
_LAST = 2**63 - 1
Position = Annotated[int, Query(ge=0, le=_LAST, description="Read on after this sequence number.")]

_PING_SECONDS = 15


def resume_point(last_event_id: str | None, after: int) -> int:
    """Where to read on: the client's last seen sequence number, or the one asked for."""
    if last_event_id is None:
        return after
    if not (last_event_id.isascii() and last_event_id.isdigit()) or int(last_event_id) > _LAST:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, "Last-Event-ID is not a sequence number.", "Send back the id you got."
        )
    return int(last_event_id)


def stream(
    request: Request,
    key: Hashable,
    name: str,
    read: Callable[[int], Awaitable[Sequence[L]]],
    seq_of: Callable[[L], int],
    after: int,
    news: News,
    is_over: Callable[[], Awaitable[bool]] | None = None,
) -> EventSourceResponse:
    """Send what is read as it comes, as `stream_lines` does."""

    async def read_lines(position: int) -> list[Line]:
        return [(seq_of(line), line.model_dump_json()) for line in await read(position)]

    return stream_lines(request, key, name, read_lines, after, news, is_over)


def stream_lines(
    request: Request,
    key: Hashable,
    name: str,
    read: Read,
    after: int,
    news: News,
    is_over: Callable[[], Awaitable[bool]] | None = None,
) -> EventSourceResponse:
    """Send lines as they come; a last event `end` says that no more will follow. Streams of one `key` share their reading."""
    tails: Tails = request.app.state.tails

    async def events() -> AsyncIterator[bytes]:
        async for batch in tails.lines(key, read, news, after, is_over):
            # Many lines in one piece: a piece is a system call for each follower.
            yield b"".join(f"id: {seq}\nevent: {name}\ndata: {text}\n\n".encode() for seq, text in batch)
        yield b"event: end\ndata: {}\n\n"

    return sent(events(), request.app.state.runtime)


class _Stream(EventSourceResponse):
    """A stream whose reader may be too slow for it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except* SendTimeoutError:
            # What it did not take stays with the kernel, which gives it up soon after (`ltp.service.serve`).
            structlog.get_logger().info("a slow follower is dropped", path=scope["path"])


def sent(events: AsyncIterator[Any], runtime: Runtime) -> EventSourceResponse:
    """A stream of events; one whose reader takes nothing for a while is dropped."""
    settings = runtime.settings
    assert isinstance(settings, GatewaySettings)
    return _Stream(events, ping=_PING_SECONDS, send_timeout=settings.gateway_slow_seconds)
