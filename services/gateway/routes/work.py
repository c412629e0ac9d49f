"""The monitor of work: queues and their limits, pieces of work, workers, dead letters. The scheduler answers; requests go out as facts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from ltp.bus.rpc import ask
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.values import Name
from ltp.contracts.work import (
    BELONGS_TO,
    DeadLetterDropRequested,
    DeadLetterReplayRequested,
    LettersQuery,
    LettersView,
    LetterView,
    LimitSet,
    Nothing,
    ProjectView,
    QueuesView,
    QueueView,
    State,
    WorkCancellationRequested,
    WorkersView,
    WorkPage,
    WorkQuery,
    WorkQuestion,
    WorkRetryRequested,
    WorkView,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.limits import check_limit
from ltp.queue.policy import Limit
from ltp.queue.work import known_queue
from ltp.service.runtime import Runtime
from ltp.store.clock import now
from services.gateway.access import Serving
from services.gateway.listing import SORT, Cursor, PageLimit, Paging

router = APIRouter(tags=["work"])

WorkOrder = Literal[
    "-created_at", "created_at", "-queue", "queue", "-kind", "kind", "-state", "state", "-priority", "priority",
    "-run_at", "run_at", "-started_at", "started_at", "-ended_at", "ended_at",
]  # fmt: skip
T = TypeVar("T")

# How long a request waits until its effect can be seen, so that who asks and then looks sees what was asked for.
_PATIENCE_SECONDS = 3.0
_LOOK_SECONDS = 0.05

# A number that does not fit a column is refused here rather than in the database.
Count = Annotated[int | None, Field(ge=-(2**31), lt=2**31)]


class QueueLimit(BaseModel):
    """What a queue may run. What is left out stays as it is; null lifts the limit."""

    model_config = ConfigDict(extra="forbid")
    limit: Count = None
    paused: bool = False


class ProjectQuota(BaseModel):
    """What a project may run at a time, in pieces of work and in devices. What is left out stays; null lifts the quota."""

    model_config = ConfigDict(extra="forbid")
    max_running: Count = None
    max_devices: Count = None
    paused: bool = False


@router.get("/queues")
async def show_queues(runtime: Serving) -> QueuesView:
    """The five queues with depth, oldest age, what runs, limits, throughput, retries and dead; and the projects' quotas."""
    return await ask(runtime.client, "scheduler", "queues", Nothing(), QueuesView)


@router.get("/queues/{name}")
async def show_queue(name: str, runtime: Serving) -> QueueView:
    """One queue."""
    wanted = _queue_of_path(name)
    return next(queue for queue in (await show_queues(runtime)).queues if queue.name == wanted)


@router.patch("/queues/{name}")
async def limit_queue(name: str, change: QueueLimit, runtime: Serving) -> QueueView:
    """Limit how much of a queue runs at a time, or pause it: what runs goes on, nothing new starts."""
    queue = await show_queue(name, runtime)
    given = change.model_fields_set
    limit = Limit(
        change.limit if "limit" in given else queue.limit,
        paused=change.paused if "paused" in given else queue.paused,
    )
    event = await _set(runtime, "queue", queue.name, limit)

    async def look() -> QueueView | None:
        found = await show_queue(queue.name, runtime)
        return found if found.changed_at is not None and found.changed_at >= event.set_at else None

    return await _seen(look)


@router.patch("/projects/{name}/quota")
async def limit_project(name: Name, change: ProjectQuota, runtime: Serving) -> ProjectView:
    """Limit how much a project runs at a time, in pieces of work and in devices."""
    known = {project.name: project for project in (await show_queues(runtime)).projects}
    project, given = known.get(name, ProjectView(name=name)), change.model_fields_set
    limit = Limit(*(getattr(change if f in given else project, f) for f in ("max_running", "max_devices", "paused")))
    event = await _set(runtime, "project", name, limit)

    async def look() -> ProjectView | None:
        for found in (await show_queues(runtime)).projects:
            if found.name == name and found.changed_at is not None and found.changed_at >= event.set_at:
                return found
        return None

    return await _seen(look)


@router.get("/work")
async def list_work(
    runtime: Serving,
    paging: Paging,
    state: State | None = None,
    queue: str | None = None,
    kind: str | None = None,
    project: str | None = None,
    owner: str | None = None,
    sort: Annotated[WorkOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> WorkPage:
    """Work, newest first. `state=failed` is the dead."""
    if queue is not None:
        known_queue(queue)
    equal = {"state": state, "queue": queue, "kind": kind, "project": project, "owner": owner}

    async def read(page: PageQuery) -> list[WorkView]:
        query = WorkQuery.model_validate(equal | dict(page))
        return (await ask(runtime.client, "scheduler", "work-list", query, WorkPage)).work

    page = await paging.page(read, identity="work_id", sort=sort, cursor=cursor, limit=limit)
    return WorkPage(work=page.items, next_cursor=page.next_cursor)


@router.get("/work/{work_id}")
async def show_work(work_id: UUID, runtime: Serving) -> WorkView:
    """One piece of work with its evidence."""
    return await ask(runtime.client, "scheduler", "work", WorkQuestion(work_id=work_id), WorkView)


@router.post("/work/{work_id}/cancel", status_code=202)
async def cancel_work(work_id: UUID, runtime: Serving) -> WorkView:
    """Ask that work end: waiting work at once, running work at its next heartbeat. A second request changes nothing."""
    work = await show_work(work_id, runtime)
    _refuse_part(work, "cancel")
    if work.state not in {"queued", "running"}:
        raise LtpError(ErrorCode.CONFLICT, f"Work {work_id} is {work.state} already.", "Nothing is left to cancel.")
    if work.cancel_requested:
        return work
    async with runtime.database.unit() as unit:
        unit.emit(WorkCancellationRequested(work_id=work_id), about=work_id)

    async def look() -> WorkView | None:
        found = await show_work(work_id, runtime)
        return found if found.cancel_requested or found.state not in {"queued", "running"} else None

    return await _seen(look)


@router.post("/work/{work_id}/retry", status_code=202)
async def retry_work(work_id: UUID, runtime: Serving) -> WorkView:
    """Put dead work back in its queue."""
    work = await show_work(work_id, runtime)
    _refuse_part(work, "retry")
    if work.state != "failed":
        hint = "Only dead work (state failed) can be tried again; `ltp work list --state failed` shows it."
        raise LtpError(ErrorCode.CONFLICT, f"Work {work_id} is {work.state}.", hint)
    async with runtime.database.unit() as unit:
        unit.emit(WorkRetryRequested(work_id=work_id), about=work_id)

    async def look() -> WorkView | None:
        found = await show_work(work_id, runtime)
        return found if found.state != "failed" else None

    return await _seen(look)


@router.get("/workers")
async def show_workers(runtime: Serving) -> WorkersView:
    """Workers with what they do and since when."""
    return await ask(runtime.client, "scheduler", "workers", Nothing(), WorkersView)


@router.get("/dead-letters")
async def list_letters(
    runtime: Serving,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> LettersView:
    """Messages whose listener failed for good, oldest first, with the evidence."""
    return await ask(runtime.client, "scheduler", "letters", LettersQuery(after=after, limit=limit), LettersView)


@router.post("/dead-letters/{seq}/replay", status_code=202)
async def replay_letter(seq: int, runtime: Serving) -> LetterView:
    """Deliver a message again, to who could not take it in; whoever did drops it."""
    letter = await _letter(runtime, seq)
    async with runtime.database.unit() as unit:
        unit.emit(DeadLetterReplayRequested(seq=seq), about=str(seq))
    return await _gone(runtime, letter)


@router.delete("/dead-letters/{seq}", status_code=202)
async def drop_letter(seq: int, runtime: Serving) -> LetterView:
    """Throw a message away."""
    letter = await _letter(runtime, seq)
    async with runtime.database.unit() as unit:
        unit.emit(DeadLetterDropRequested(seq=seq), about=str(seq))
    return await _gone(runtime, letter)


async def _letter(runtime: Runtime, seq: int) -> LetterView:
    if 0 < seq < 2**63:
        page = await list_letters(runtime, seq - 1, 1)
        if page.letters and page.letters[0].seq == seq:
            return page.letters[0]
    raise LtpError(ErrorCode.NOT_FOUND, f"There is no dead letter {seq}.", "`ltp queue dead list` shows what there is.")


async def _gone(runtime: Runtime, letter: LetterView) -> LetterView:
    async def look() -> LetterView | None:
        page = await list_letters(runtime, letter.seq - 1, 1)
        return letter if not page.letters or page.letters[0].seq != letter.seq else None

    return await _seen(look)


async def _set(runtime: Runtime, scope: str, name: str, limit: Limit) -> LimitSet:
    check_limit(limit)
    event = LimitSet.model_validate({"scope": scope, "name": name, "set_at": now(), **vars(limit)})
    async with runtime.database.unit() as unit:
        unit.emit(event, about=name)
    return event


async def _seen(look: Callable[[], Awaitable[T | None]]) -> T:
    """What `look` finds once the request took effect."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = await look()
        if found is not None:
            return found
        await asyncio.sleep(_LOOK_SECONDS)
    raise LtpError(
        ErrorCode.SERVICE_UNAVAILABLE,
        "The request is recorded, and the scheduler has not acted on it yet.",
        "It will once it is reached; look again in a moment.",
    )


def _queue_of_path(name: str) -> str:
    try:
        return known_queue(name).value
    except LtpError as error:
        raise LtpError(ErrorCode.NOT_FOUND, error.message, error.hint) from None


def _refuse_part(work: WorkView, verb: str) -> None:
    noun = BELONGS_TO.get(work.kind)
    if noun is not None:
        raise LtpError(
            ErrorCode.CONFLICT,
            f"Work {work.work_id} ({work.dedup_key}) is part of a {noun}.",
            f"Use `ltp {noun} {verb}`, which looks after all of it.",
        )
