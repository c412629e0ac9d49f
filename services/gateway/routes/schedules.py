"""Schedules: what is done at certain times. The scheduler owns them; here they are checked, asked for and shown."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response

from ltp.bus.rpc import ask
from ltp.contracts.pages import PageQuery
from ltp.contracts.schedule import (
    Change,
    ScheduleChangeRequested,
    ScheduleCheck,
    ScheduleRequest,
    Schedules,
    ScheduleSpec,
    SchedulesRequest,
    ScheduleSubmitted,
    ScheduleView,
    Ticks,
    TicksRequest,
    TickView,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from services.gateway.access import Serving
from services.gateway.listing import SORT, Cursor, PageLimit, Paging

router = APIRouter(tags=["schedules"])

ScheduleOrder = Literal["-created_at", "created_at", "-name", "name", "-state", "state", "-next_at", "next_at"]
TickOrder = Literal["-due_at", "due_at", "-state", "state", "-fired_at", "fired_at", "-ended_at", "ended_at"]

_LOOKS, _LOOK_SECONDS = 100, 0.05


@router.post("/schedules", status_code=201)
async def create_schedule(
    spec: ScheduleSpec,
    runtime: Serving,
    response: Response,
    dry_run: Annotated[bool, Query(description="Check it and show its next ticks, but do not create it.")] = False,
) -> ScheduleView:
    """Create a schedule. The same schedule under the same name is there already: the answer is that one."""
    checked = await ask(runtime.client, "scheduler", "schedule-check", ScheduleCheck(spec=spec), ScheduleView)
    if dry_run:
        response.status_code = 200
        return checked
    known = await _known(runtime, spec.name)
    if known is None:
        event = ScheduleSubmitted(schedule_id=new_id(), spec=spec, submitted_at=now())
        async with runtime.database.unit() as unit:
            unit.emit(event, about=event.schedule_id)
        for _ in range(_LOOKS):
            known = await _known(runtime, spec.name)
            if known is not None:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            response.status_code = 202
            return checked.model_copy(update={"schedule_id": event.schedule_id})
    if known.spec.model_dump(exclude={"paused"}) != spec.model_dump(exclude={"paused"}):
        message = f"There is another schedule called {spec.name!r} ({known.schedule_id})."
        raise LtpError(ErrorCode.CONFLICT, message, "Choose another name, or delete the old one first.")
    response.headers["Location"] = f"/api/v1/schedules/{known.schedule_id}"
    return known


@router.get("/schedules")
async def list_schedules(
    runtime: Serving,
    paging: Paging,
    sort: Annotated[ScheduleOrder, SORT] = "name",
    cursor: Cursor = None,
    limit: PageLimit = 200,
) -> Schedules:
    """Schedules by name."""

    async def read(page: PageQuery) -> list[ScheduleView]:
        query = SchedulesRequest(**dict(page))
        return (await ask(runtime.client, "scheduler", "schedules", query, Schedules)).schedules

    page = await paging.page(read, identity="schedule_id", sort=sort, cursor=cursor, limit=limit)
    return Schedules(schedules=page.items, next_cursor=page.next_cursor)


@router.get("/schedules/{schedule}")
async def show_schedule(schedule: str, runtime: Serving) -> ScheduleView:
    """One schedule, by id or name, with its next ticks."""
    return await ask(runtime.client, "scheduler", "schedule", ScheduleRequest(schedule=schedule[:200]), ScheduleView)


@router.get("/schedules/{schedule}/ticks")
async def list_ticks(
    schedule: str,
    runtime: Serving,
    paging: Paging,
    sort: Annotated[TickOrder, SORT] = "-due_at",
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> Ticks:
    """A schedule's ticks, newest first, with what came of each."""

    async def read(page: PageQuery) -> list[TickView]:
        return await _ticks(runtime, schedule, page)

    page = await paging.page(read, identity="tick_id", sort=sort, cursor=cursor, limit=limit)
    return Ticks(ticks=page.items, next_cursor=page.next_cursor)


@router.post("/schedules/{schedule}/pause", status_code=202)
async def pause_schedule(schedule: str, runtime: Serving) -> ScheduleView:
    """Stop ticking; what a tick started goes on."""
    return await _change(runtime, schedule, "pause")


@router.post("/schedules/{schedule}/resume", status_code=202)
async def resume_schedule(schedule: str, runtime: Serving) -> ScheduleView:
    """Tick again from the next instant; what was due during the pause is not caught up."""
    return await _change(runtime, schedule, "resume")


@router.delete("/schedules/{schedule}", status_code=202)
async def delete_schedule(schedule: str, runtime: Serving) -> ScheduleView:
    """Delete a schedule with its ticks; what they started goes on."""
    return await _change(runtime, schedule, "delete")


@router.post("/schedules/{schedule}/run-now", status_code=202)
async def run_schedule_now(schedule: str, runtime: Serving) -> TickView:
    """Fire a tick at once, paused or not; the overlap policy applies."""
    found = await show_schedule(schedule, runtime)
    tick_id = await _ask_for(runtime, found, "run-now")
    for _ in range(_LOOKS):
        for tick in await _ticks(runtime, str(found.schedule_id), PageQuery(sort="-due_at")):
            if tick.tick_id == tick_id:
                return tick
        await asyncio.sleep(_LOOK_SECONDS)
    raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, "The tick was asked for and not seen yet.", "Look at its ticks.")


async def _change(runtime: Runtime, schedule: str, change: Change) -> ScheduleView:
    """Ask for a change and wait until it shows; what is so already is told, not done again."""
    found = await show_schedule(schedule, runtime)
    if change == "delete" and found.builtin:
        hint = f"`ltp schedule pause {found.name}` stops it."
        raise LtpError(ErrorCode.CONFLICT, f"{found.name} is one of the platform's own schedules.", hint)
    wanted = {"pause": "paused", "resume": "active"}.get(change)
    if found.state == wanted:
        raise LtpError(ErrorCode.CONFLICT, f"Schedule {found.name} is {wanted} already.", "Nothing is left to do.")
    await _ask_for(runtime, found, change)
    for _ in range(_LOOKS):
        now_there = await _known(runtime, str(found.schedule_id))
        if now_there is None:
            return found
        if now_there.state == wanted:
            return now_there
        await asyncio.sleep(_LOOK_SECONDS)
    return found


async def _ask_for(runtime: Runtime, schedule: ScheduleView, change: Change) -> UUID:
    assert schedule.schedule_id is not None
    event = ScheduleChangeRequested(
        change_id=new_id(), schedule_id=schedule.schedule_id, change=change, requested_at=now()
    )
    async with runtime.database.unit() as unit:
        unit.emit(event, about=schedule.schedule_id)
    return event.change_id


async def _ticks(runtime: Runtime, schedule: str, page: PageQuery) -> list[TickView]:
    query = TicksRequest(**dict(page), schedule=schedule[:200])
    return (await ask(runtime.client, "scheduler", "ticks", query, Ticks)).ticks


async def _known(runtime: Runtime, schedule: str) -> ScheduleView | None:
    try:
        return await show_schedule(schedule, runtime)
    except LtpError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        return None
