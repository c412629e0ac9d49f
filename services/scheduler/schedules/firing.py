"""Fires what is due: each instant of a schedule once, by whichever scheduler takes it first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from ltp.contracts.admission import ADMIT, Admission, What
from ltp.contracts.pipeline import Origin
from ltp.contracts.schedule import (
    JobAction,
    MaintenanceAction,
    PipelineAction,
    ScheduleFired,
    ScheduleTickEnded,
    ScheduleTickMissed,
    TickState,
)
from ltp.contracts.values import Problem
from ltp.core.errors import LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import NewWork, enqueue_many
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.patience import wait_at_most
from services.scheduler.schedules import policy, rhythm, store
from services.scheduler.schedules.store import Schedule, Tick

MAINTAIN = "maintain"
# A postgres channel: a schedule was made or changed, so the next instant may be another.
SCHEDULES_CHANNEL = "ltp_schedules"
# Schedules a transaction: enough that a thousand take a moment, few enough that two schedulers share them.
_BATCH = 100
_POLL_SECONDS = 1.0
# Instants looked at when a schedule was asleep: all that may fire, and some to note as missed.
_LOOKED_AT = 110


async def fire_forever(runtime: Runtime, wake: asyncio.Event) -> None:
    """Fire whenever something is due, and look now and then in case a notification was lost."""
    while True:
        wake.clear()
        while await fire_once(runtime, now()):
            pass
        upcoming = await store.next_fire(runtime.database.engine)
        left = _POLL_SECONDS if upcoming is None else (upcoming - now()).total_seconds()
        await wait_at_most(wake, min(_POLL_SECONDS, max(0.0, left)))


async def fire_once(runtime: Runtime, at: datetime) -> int:
    """Fire a batch of what is due at `at`; returns how many schedules were taken."""
    async with runtime.database.unit() as unit:
        due = await store.claim_due(unit, at, _BATCH)
        if due:
            await _fire(unit, due, at)
        return len(due)


async def start_action(unit: Unit, tick: Tick) -> None:
    """Put a tick's action to work and say so. The work's key is the tick, so that it is done once."""
    await start_actions(unit, [tick])


async def start_actions(unit: Unit, started: Sequence[Tick]) -> None:
    """As `start_action`, for many in one statement."""
    await enqueue_many(unit, [_work_of(tick) for tick in started])
    for tick in started:
        _tell_fired(unit, tick)


def _work_of(tick: Tick) -> NewWork:
    action, key = tick.schedule.spec.action, f"tick:{tick.tick_id}"
    assert tick.noun_id is not None
    if isinstance(action, MaintenanceAction) and action.task != "telemetry-retention":
        payload = {"noun_id": str(tick.noun_id), "task": action.task, "settings": action.settings}
        return NewWork(Queue.MAINTENANCE, MAINTAIN, payload, key)
    what, body = _command(tick)
    admission = Admission(what=what, noun_id=tick.noun_id, body=body)
    queue = Queue.MAINTENANCE if what == "pruning" else Queue.DEFAULT
    return NewWork(queue, ADMIT, admission.model_dump(mode="json"), key)


def _tell_fired(unit: Unit, tick: Tick) -> None:
    action, schedule = tick.schedule.spec.action, tick.schedule
    assert tick.noun_id is not None
    fired = ScheduleFired(
        schedule_id=schedule.schedule_id,
        name=schedule.name,
        tick_id=tick.tick_id,
        due_at=tick.due_at,
        fired_at=now(),
        noun_id=tick.noun_id,
        action=action.kind,
        by_hand=tick.by_hand,
    )
    unit.emit(fired, about=schedule.schedule_id)


async def end_action(
    unit: Unit,
    noun_id: UUID,
    state: TickState,
    *,
    problem: Problem | None = None,
    result: dict[str, Any] | None = None,
) -> None:
    """What a tick started is over: note it, and let a tick that waited for that start. Not for ticks: no effect."""
    evidence = None if problem is None else problem.model_dump()
    ended = await store.end_tick(unit, noun_id, state, problem=evidence, result=result)
    if ended is None:
        return
    tick_id, schedule = ended
    told = ScheduleTickEnded(
        schedule_id=schedule.schedule_id, tick_id=tick_id, state=state, result=result, problem=problem
    )
    unit.emit(told, about=schedule.schedule_id)
    running, _ = await store.at_work(unit, [schedule.schedule_id])
    if not running:
        waiting = await store.start_waiting(unit, schedule)
        if waiting is not None:
            await start_action(unit, waiting)


async def _fire(unit: Unit, due: list[Schedule], at: datetime) -> None:
    running, waiting = await store.at_work(unit, [s.schedule_id for s in due])
    added: list[Tick] = []
    moved: list[tuple[UUID, datetime, datetime]] = []
    for schedule in due:
        try:
            instants, next_at = _due(schedule, at)
        except LtpError as error:
            # Accepted once and impossible now (a time zone that is gone): looked at again tomorrow.
            structlog.get_logger().error("schedule cannot be computed", name=schedule.name, error=error.message)
            instants, next_at = [], at + timedelta(days=1)
        busy = {"running": schedule.schedule_id in running, "waiting": schedule.schedule_id in waiting}
        for planned in policy.plan(schedule.spec, instants, at, **busy):
            noun_id = new_id() if planned.fate == "running" else None
            added.append(Tick(new_id(), schedule, planned.due_at, planned.fate, noun_id, planned.reason))
        fire_at = next_at + rhythm.jitter(schedule.spec, schedule.schedule_id, next_at)
        moved.append((schedule.schedule_id, next_at, fire_at))
    await store.move_on(unit, moved)
    noted = await store.add_ticks(unit, added)
    await start_actions(unit, [tick for tick in noted if tick.state == "running"])
    for tick in noted:
        if tick.state in {"skipped", "missed"}:
            told = ScheduleTickMissed(
                schedule_id=tick.schedule.schedule_id,
                name=tick.schedule.name,
                tick_id=tick.tick_id,
                due_at=tick.due_at,
                reason=tick.reason or "",
            )
            unit.emit(told, about=tick.schedule.schedule_id)


def _due(schedule: Schedule, at: datetime) -> tuple[list[datetime], datetime]:
    """The instants that fire now and the one after them."""
    spec, anchor = schedule.spec, schedule.created_at
    found = rhythm.newest_due(spec, anchor, schedule.next_at, at, _LOOKED_AT)
    # The newest may still be held back by its jitter.
    if len(found) > 1 and found[-1] + rhythm.jitter(spec, schedule.schedule_id, found[-1]) > at:
        return found[:-1], found[-1]
    return found, rhythm.first_after(spec, anchor, found[-1] if found else at)


def _command(tick: Tick) -> tuple[What, dict[str, Any]]:
    action = tick.schedule.spec.action
    if isinstance(action, JobAction):
        return "job", action.recipe.settings()
    if isinstance(action, PipelineAction):
        origin = Origin(kind="schedule", id=tick.tick_id)
        return "pipeline", {
            "spec": action.pipeline.model_dump(mode="json"),
            "origin": origin.model_dump(mode="json"),
        }
    return "pruning", dict(action.settings)
