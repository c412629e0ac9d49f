"""Every fact the platform said, for reading and for following."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import AwareDatetime
from sse_starlette import EventSourceResponse

from services.gateway import store, store_webhooks
from services.gateway.access import Engine, Headlines
from services.gateway.routes.models import EventLine
from services.gateway.streams import Position, resume_point, stream
from services.gateway.walls import Caller

router = APIRouter(tags=["events"])

Subject = Annotated[str | None, Query(max_length=200, description="A subject, or a pattern: `ltp.job.v1.*`, `ltp.>`.")]

Since = Annotated[
    AwareDatetime | None, Query(description="Only what was said from this time on (RFC 3339, with a zone).")
]


@router.get("/events")
async def list_events(
    engine: Engine,
    caller: Caller,
    job_id: UUID | None = None,
    subject: Subject = None,
    about: Annotated[str | None, Query(max_length=200)] = None,
    after: Position = 0,
    since: Since = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 200,
    last: Annotated[int | None, Query(ge=1, le=10_000, description="The last so many, in place of the first.")] = None,
) -> list[EventLine]:
    """Events after a sequence number, or from a time on, in the order they were heard; of the caller's project."""
    if since is not None:
        after = max(after, await store_webhooks.seq_before(engine, since))
    wanted = {"job_id": job_id, "subject": subject, "about": about, "project": caller.project}
    rows = await store.list_events(engine, after=after, limit=limit, last=last, **wanted)
    return [EventLine.model_validate(dict(row)) for row in rows]


@router.get("/events/stream", response_class=EventSourceResponse)
async def follow_events(
    request: Request,
    engine: Engine,
    news: Headlines,
    caller: Caller,
    job_id: UUID | None = None,
    subject: Subject = None,
    about: Annotated[str | None, Query(max_length=200)] = None,
    after: Position = 0,
    since: Since = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventSourceResponse:
    """Events as they come (server-sent events `event`)."""
    if since is not None:
        after = max(after, await store_webhooks.seq_before(engine, since))

    async def read(position: int) -> Sequence[EventLine]:
        return await list_events(engine, caller, job_id=job_id, subject=subject, about=about, after=position)

    key = ("events", caller.project, job_id, subject, about)
    return stream(request, key, "event", read, lambda line: line.seq, resume_point(last_event_id, after), news)
