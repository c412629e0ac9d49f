"""What the scheduler hears and answers about schedules."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.schedule import (
    MaintenanceAction,
    ScheduleChanged,
    ScheduleChangeRequested,
    ScheduleCheck,
    ScheduleCreated,
    ScheduleFired,
    ScheduleRequest,
    Schedules,
    ScheduleSpec,
    SchedulesRequest,
    ScheduleSubmitted,
    ScheduleTickEnded,
    ScheduleTickMissed,
    ScheduleView,
    Ticks,
    TicksRequest,
    TickView,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import new_id, now
from ltp.store.database import Database, Unit
from services.scheduler.schedules import policy, rhythm, store
from services.scheduler.schedules.firing import SCHEDULES_CHANNEL, start_action
from services.scheduler.schedules.maintenance import check_settings
from services.scheduler.schedules.store import Schedule, Tick

SERVICE = "scheduler"
router = NatsRouter()
_UPCOMING = 5

for event in (ScheduleCreated, ScheduleChanged, ScheduleFired, ScheduleTickMissed, ScheduleTickEnded):
    router.publisher(**said(event))

Stored = Annotated[Database, Context("database")]


@router.subscriber(**heard_by(SERVICE, ScheduleSubmitted))
async def add(event: ScheduleSubmitted, unit: InboxUnit) -> None:
    at = event.submitted_at
    schedule = Schedule(event.schedule_id, event.spec.name, event.spec, rhythm.first_after(event.spec, at, at), at)
    fire_at = schedule.next_at + rhythm.jitter(event.spec, event.schedule_id, schedule.next_at)
    # Where the name was taken in the meantime the gateway finds the other under it and says so.
    if await store.add(unit, schedule, fire_at=fire_at):
        told = ScheduleCreated(schedule_id=event.schedule_id, name=event.spec.name, next_at=schedule.next_at)
        unit.emit(told, about=event.schedule_id)
        await unit.notify(SCHEDULES_CHANNEL)


@router.subscriber(**heard_by(SERVICE, ScheduleChangeRequested))
async def change(event: ScheduleChangeRequested, unit: InboxUnit) -> None:
    held = await store.lock(unit, event.schedule_id)
    if held is None:
        return  # Deleted in the meantime.
    schedule, state = held
    if event.change == "run-now":
        await _run_now(unit, schedule, event)
        return
    if event.change == "delete":
        await store.remove(unit, schedule.schedule_id)
    elif event.change == "pause" and state == "active":
        await store.set_state(unit, schedule.schedule_id, "paused")
    elif event.change == "resume" and state == "paused":
        # What would have been due during the pause was not missed: it was not wanted.
        next_at = rhythm.first_after(schedule.spec, schedule.created_at, now())
        fire_at = next_at + rhythm.jitter(schedule.spec, schedule.schedule_id, next_at)
        await store.move_on(unit, [(schedule.schedule_id, next_at, fire_at)])
        await store.set_state(unit, schedule.schedule_id, "active")
    else:
        return
    unit.emit(
        ScheduleChanged(schedule_id=schedule.schedule_id, name=schedule.name, change=event.change),
        about=schedule.schedule_id,
    )
    await unit.notify(SCHEDULES_CHANNEL)


@router.subscriber(**answered_by(SERVICE, "schedule-check"))
@replies
async def check(request: ScheduleCheck) -> ScheduleView:
    spec, at = request.spec, now()
    upcoming = _upcoming(spec, at, at)
    gap = min((b - a for a, b in itertools.pairwise(upcoming)), default=timedelta.max)
    if spec.jitter_seconds > gap.total_seconds():
        message = f"jitter_seconds is {spec.jitter_seconds:g}, and ticks come {gap.total_seconds():g} s apart."
        raise LtpError(ErrorCode.INVALID_SCHEDULE, message, "Ticks would overtake each other: make it shorter.")
    if isinstance(spec.action, MaintenanceAction):
        check_settings(spec.action)
    state = "paused" if spec.paused else "active"
    return ScheduleView(
        schedule_id=None,
        name=spec.name,
        state=state,
        builtin=False,
        spec=spec,
        created_at=None,
        next_at=upcoming[0],
        upcoming=upcoming,
    )


@router.subscriber(**answered_by(SERVICE, "schedule"))
@replies
async def show(request: ScheduleRequest, database: Stored) -> ScheduleView:
    row = await _found(database, request.schedule)
    view = _view(row)
    return view.model_copy(update={"upcoming": _upcoming(view.spec, row["created_at"], now())})


@router.subscriber(**answered_by(SERVICE, "schedules"))
@replies
async def list_all(request: SchedulesRequest, database: Stored) -> Schedules:
    rows = await store.page(database.engine, request)
    return Schedules(schedules=[_view(row) for row in rows])


@router.subscriber(**answered_by(SERVICE, "ticks"))
@replies
async def list_ticks(request: TicksRequest, database: Stored) -> Ticks:
    row = await _found(database, request.schedule)
    rows = await store.ticks_of(database.engine, row["schedule_id"], request)
    return Ticks(ticks=[TickView.model_validate(dict(row)) for row in rows])


async def _run_now(unit: Unit, schedule: Schedule, event: ScheduleChangeRequested) -> None:
    running, waiting = await store.at_work(unit, [schedule.schedule_id])
    planned = policy.overlapped(schedule.spec, event.requested_at, running=bool(running), waiting=bool(waiting))
    noun_id = new_id() if planned.fate == "running" else None
    # The tick has the id of the request, so that whoever asked can look it up.
    asked = Tick(event.change_id, schedule, planned.due_at, planned.fate, noun_id, planned.reason, by_hand=True)
    for tick in await store.add_ticks(unit, [asked]):
        if tick.state == "running":
            await start_action(unit, tick)


async def _found(database: Database, schedule: str) -> Any:
    row = await store.find(database.engine, schedule)
    if row is None:
        hint = "`ltp schedule list` shows all."
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no schedule {schedule!r}.", hint)
    return row


def _view(row: Any) -> ScheduleView:
    paused = row["state"] == "paused"
    return ScheduleView.model_validate(dict(row) | {"next_at": None if paused else row["next_at"]})


def _upcoming(spec: ScheduleSpec, anchor: Any, after: Any) -> list[Any]:
    found = list(itertools.islice(rhythm.instants(spec, anchor, after), _UPCOMING))
    return found or [rhythm.first_after(spec, anchor, after)]
