"""Jobs: submit, list, show, and read what they write; `job_control.py` has what is done to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import EventSourceResponse

from ltp.bus.rpc import ask
from ltp.contracts.job import JobOptions
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.questions import LogPart, LogRequest
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, JobState
from ltp.store.acting import ACTING
from ltp.store.clock import now
from services.gateway import store
from services.gateway.access import Engine, Headlines, Serving
from services.gateway.admission import leak_warnings, submit
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.log_stream import LOG_BYTES, followed
from services.gateway.routes.models import Job, JobPage, StepLine, SubmitOptions
from services.gateway.streams import Position, resume_point, sent, stream
from services.gateway.walls import Caller

router = APIRouter(tags=["jobs"])

JobOrder = Literal[
    "-created_at", "created_at", "-name", "name", "-state", "state", "-submitted_at", "submitted_at", "-started_at",
    "started_at", "-ended_at", "ended_at",
]  # fmt: skip
# How long a stream waits for metrics that were said and not heard, after the job is over.
_PATIENCE = timedelta(seconds=15)


@router.post("/jobs", status_code=202)
async def submit_job(
    recipe: Recipe,
    runtime: Serving,
    response: Response,
    options: Annotated[SubmitOptions, Query()],
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Job:
    """Submit a recipe. The same Idempotency-Key with the same request gives the same job, however often it is sent."""
    warnings = await leak_warnings(runtime, recipe, refuse=options.refuse_leaks)
    asked = options.model_dump(exclude={"refuse_leaks"})
    chosen = JobOptions.model_validate(asked | {"project": _project(options)})
    job_id = await submit(runtime, recipe, chosen, idempotency_key)
    response.headers["Location"] = f"/api/v1/jobs/{job_id}"
    job = await show_job(job_id, runtime.database.engine)
    return job.model_copy(update={"warnings": warnings})


@router.get("/jobs")
async def list_jobs(
    engine: Engine,
    caller: Caller,
    paging: Paging,
    state: JobState | None = None,
    project: Name | None = None,
    sort: Annotated[JobOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> JobPage:
    """Jobs, newest first; of the caller's project."""

    async def read(page: PageQuery) -> list[Job]:
        rows = await store.list_jobs(engine, page, state=state, project=caller.project or project)
        return [Job.model_validate(dict(row)) for row in rows]

    page = await paging.page(read, identity="job_id", sort=sort, cursor=cursor, limit=limit)
    return JobPage(jobs=page.items, next_cursor=page.next_cursor)


@router.get("/jobs/{job_id}")
async def show_job(job_id: UUID, engine: Engine) -> Job:
    """One job with its recipe, plan and state."""
    row = await store.job(engine, job_id)
    if row is None:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no job {job_id}.", "`ltp job list` shows all.")
    return Job.model_validate(dict(row))


@router.get("/jobs/{job_id}/metrics")
async def read_metrics(
    job_id: UUID, engine: Engine, after: Position = 0, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> list[StepLine]:
    """Lines of metrics after a sequence number."""
    await show_job(job_id, engine)
    return _lines(await store.list_steps(engine, job_id, after=after, limit=limit))


@router.get("/jobs/{job_id}/metrics/stream", response_class=EventSourceResponse)
async def follow_metrics(
    job_id: UUID,
    request: Request,
    engine: Engine,
    news: Headlines,
    after: Position = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventSourceResponse:
    """Lines of metrics as they come (server-sent events `step`), until the job is over (`end`)."""
    await show_job(job_id, engine)

    async def read(position: int) -> Sequence[StepLine]:
        return _lines(await store.list_steps(engine, job_id, after=position))

    async def is_over() -> bool:
        job = await show_job(job_id, engine)
        if not JOB.is_over(job.state) or job.ended_at is None:
            return False
        # Metrics travel on a stream of their own and may come after the news of the end.
        return await store.has_all_steps(engine, job_id) or now() - job.ended_at > _PATIENCE

    after = resume_point(last_event_id, after)
    return stream(request, ("steps", job_id), "step", read, lambda line: line.seq, after, news, is_over)


@router.get("/jobs/{job_id}/logs")
async def read_log(
    job_id: UUID,
    runtime: Serving,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    offset: Annotated[int, Query(ge=-(2**40), le=2**40)] = -65_536,
    limit: Annotated[int, Query(ge=1, le=262_144)] = 65_536,
) -> LogPart:
    """A part of the training process's output; a negative offset counts from the end."""
    await show_job(job_id, runtime.database.engine)
    request = LogRequest(job_id=job_id, attempt=attempt, offset=offset, limit=limit)
    return await ask(runtime.client, "runner", "log", request, LogPart)


@router.get("/jobs/{job_id}/logs/stream", response_class=EventSourceResponse)
async def follow_log(
    job_id: UUID,
    runtime: Serving,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> EventSourceResponse:
    """The training process's output as it is written (events `log`), until the job is over, or the attempt that was asked for.

    The id is `ATTEMPT:OFFSET`, where to read on.
    """
    await show_job(job_id, runtime.database.engine)
    begun, offset = attempt, 0
    if last_event_id is not None:
        number, _, place = last_event_id.partition(":")
        if not (number.isdecimal() and place.isdecimal() and len(last_event_id) < 30):
            message = "Last-Event-ID is no ATTEMPT:OFFSET."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Send back the id you got.")
        begun, offset = int(number), int(place)

    async def told() -> AsyncIterator[dict[str, str]]:
        start = LogRequest(job_id=job_id, attempt=begun, offset=offset, limit=LOG_BYTES)
        async for part in followed(runtime, start, only=attempt is not None):
            data = json.dumps({"text": part.text, "attempt": part.attempt, "offset": part.offset})
            yield {"event": "log", "id": f"{part.attempt}:{part.next_offset}", "data": data}
        yield {"event": "end", "data": "{}"}

    return sent(told(), runtime)


def _project(options: SubmitOptions) -> str:
    """Where the job runs: the project it names (the walls let a caller name none but its own), else the caller's."""
    acting = ACTING.get()
    if acting is None or "project" in options.model_fields_set:
        project = options.project
    else:
        project = acting.project or options.project
    if acting is not None:
        acting.project = project
    return project


def _lines(rows: Sequence[store.Row]) -> list[StepLine]:
    return [StepLine.model_validate(dict(row)) for row in rows]
