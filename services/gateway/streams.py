"""Server-sent events from a table that grows: resumed by Last-Event-ID with nothing lost or doubled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from ltp.core.errors import ErrorCode, LtpError
from services.gateway.news import News

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
    name: str,
    read: Callable[[int], Awaitable[Sequence[L]]],
    seq_of: Callable[[L], int],
    after: int,
    news: News,
    is_over: Callable[[], Awaitable[bool]],
) -> EventSourceResponse:
    """Send lines as they come; a last event `end` says that no more will follow."""

    async def lines() -> AsyncIterator[ServerSentEvent]:
        position = after
        while True:
            ticket, over = news.ticket(), await is_over()
            batch = await read(position)
            for line in batch:
                position = seq_of(line)
                yield ServerSentEvent(data=line.model_dump_json(), id=str(position), event=name)
            if batch:
                continue
            if over:
                yield ServerSentEvent(data="{}", event="end")
                return
            await news.wait(ticket)

    return EventSourceResponse(lines(), ping=_PING_SECONDS)
