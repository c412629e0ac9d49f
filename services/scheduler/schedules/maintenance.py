"""The platform's own chores: what each deletes or looks at, and the schedules that ask for them from the first start on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, func, not_, select

from ltp.contracts.event import SERVICES
from ltp.contracts.lease import LeaseReleased
from ltp.contracts.schedule import MaintenanceAction, ScheduleSpec, Task
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.tables import work, workers
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.clock import new_id, now
from ltp.store.database import Database, Unit
from ltp.store.retention import prune_inbox, prune_outbox
from services.scheduler.hosts import hosts, leases, release_ended
from services.scheduler.schedules import rhythm
from services.scheduler.schedules import store as schedules
from services.scheduler.schedules.firing import end_action
from services.scheduler.schedules.store import Schedule, ticks

_BATCH = 5000
_DAYS = 86_400.0
_SILENT_WORK = timedelta(hours=1)
# A worker that ended in order strikes itself off the list; one that was killed is forgotten after this.
_GONE_WORKER = timedelta(days=1)

Settings = Mapping[str, float]
Result = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """A setting of a chore."""

    default: float
    low: float
    high: float = 3650.0


# The settings of each chore. The floors keep what `ltp events refill` and late deliveries rest on (ltp.store.retention).
SETTINGS: dict[Task, dict[str, Range]] = {
    "work-retention": {"done_days": Range(14, 1), "failed_days": Range(90, 1), "tick_days": Range(90, 1)},
    "telemetry-retention": {"days": Range(90, 1)},
    "bus-retention": {"outbox_days": Range(45, 30), "inbox_days": Range(90, 60)},
    "orphan-sweep": {},
    "host-probe": {"silent_seconds": Range(180, 30, _DAYS)},
}
# Hourly chores meet neither each other nor the full hour, when people's own schedules fire.
BUILTIN: dict[Task, str] = {
    "work-retention": "17 3 * * *",
    "telemetry-retention": "27 3 * * *",
    "bus-retention": "37 3 * * *",
    "orphan-sweep": "7 * * * *",
    "host-probe": "*/10 * * * *",
}


def check_settings(action: MaintenanceAction) -> None:
    """Refuse settings that a chore does not have or that are out of range. Raises INVALID_SCHEDULE."""
    known = SETTINGS[action.task]
    for name, value in action.settings.items():
        if name not in known:
            raise _invalid(f"{action.task} has no setting {name!r}.", f"It has: {', '.join(known) or 'none'}.")
        low, high = known[name].low, known[name].high
        if not low <= value <= high:
            raise _invalid(f"{action.task}: {name} is {value:g}.", f"It lies between {low:g} and {high:g}.")
    filled = _filled(action.task, action.settings)
    if action.task == "bus-retention" and filled["inbox_days"] < filled["outbox_days"] + 30:
        hint = "An event may be published again until its outbox row is gone and stays in the stream for 30 days."
        raise _invalid("inbox_days must be at least 30 more than outbox_days.", hint)


async def ensure_builtin(database: Database) -> None:
    """Make the platform's own schedules where they are not there yet; what a user changed of them stays."""
    at = now()
    for task, cron in BUILTIN.items():
        spec = ScheduleSpec(name=task, cron=cron, action=MaintenanceAction(task=task))
        schedule = Schedule(new_id(), task, spec, rhythm.first_after(spec, at, at), at)
        async with database.unit() as unit:
            await schedules.add(unit, schedule, fire_at=schedule.next_at, builtin=True)


async def maintain(held: Held, database: Database) -> None:
    """Do a chore and note what it did on its tick."""
    payload = held.work.payload
    task: Task = payload["task"]
    result = await _CHORES[task](database, _filled(task, payload["settings"]))
    async with database.unit() as unit:
        await end_action(unit, UUID(payload["noun_id"]), "succeeded", result=result)
        await finish(unit, held.work)


async def tell_failure(unit: Unit, undone: Work, problem: Problem) -> None:
    """Note on its tick that a chore failed."""
    await end_action(unit, UUID(undone.payload["noun_id"]), "failed", problem=problem)


async def _retain_work(database: Database, settings: Settings) -> Result:
    """Forget work and ticks that ended long ago. Work that still holds a lease stays until the lease is released."""
    deleted: Result = {}
    held = select(leases.c.lease_id).where(leases.c.work_id == work.c.id, leases.c.released_at.is_(None)).exists()
    for name, states, days in (
        ("done", ("done", "cancelled"), settings["done_days"]),
        ("failed", ("failed",), settings["failed_days"]),
    ):
        old = and_(work.c.state.in_(states), work.c.ended_at < now() - timedelta(days=days), not_(held))
        deleted[name] = await _delete_in_batches(database, work, work.c.id, old)
    old_tick = ticks.c.ended_at < now() - timedelta(days=settings["tick_days"])
    deleted["ticks"] = await _delete_in_batches(database, ticks, ticks.c.tick_id, old_tick)
    gone = workers.c.seen_at < now() - _GONE_WORKER
    deleted["workers"] = await _delete_in_batches(database, workers, workers.c.name, gone)
    return {"deleted": deleted}


async def _retain_bus(database: Database, settings: Settings) -> Result:
    outbox, inbox = timedelta(days=settings["outbox_days"]), timedelta(days=settings["inbox_days"])
    return {
        "outbox_deleted": {service: await prune_outbox(database, service, outbox) for service in SERVICES},
        "inbox_deleted": {service: await prune_inbox(database, service, inbox) for service in SERVICES},
    }


async def _sweep_orphans(database: Database, settings: Settings) -> Result:
    """Release leases whose work is gone, and name work whose worker fell silent and that no other took up."""
    async with database.unit() as unit:
        released = await release_ended(unit)
        for lease_id, work_id in released:
            unit.emit(LeaseReleased(lease_id=lease_id, work_id=work_id), about=lease_id)
        silent = select(work.c.kind, func.count().label("left")).where(
            work.c.state == "running", work.c.lease_until < now() - _SILENT_WORK
        )
        abandoned = (await unit.execute(silent.group_by(work.c.kind))).all()
    return {"leases_released": len(released), "work_nobody_takes_up": {row.kind: row.left for row in abandoned}}


async def _probe_hosts(database: Database, settings: Settings) -> Result:
    """Which hosts have not said for a while that they live, and what is leased on them meanwhile."""
    async with database.unit() as unit:
        known = select(hosts.c.host_id, hosts.c.seen_at).where(hosts.c.removed_at.is_(None))
        seen = (await unit.execute(known.order_by(hosts.c.host_id))).all()
        open_leases = select(leases.c.host_id, func.count().label("held")).where(leases.c.released_at.is_(None))
        held = dict[str, int](
            (row.host_id, row.held) for row in (await unit.execute(open_leases.group_by(leases.c.host_id))).all()
        )
    at = now()
    silent = [
        {
            "host_id": row.host_id,
            # A host that was registered and could never be reached has said nothing yet.
            "silent_seconds": round((at - row.seen_at).total_seconds()) if row.seen_at else None,
            "leases": held.get(row.host_id, 0),
        }
        for row in seen
        if row.seen_at is None or (at - row.seen_at).total_seconds() > settings["silent_seconds"]
    ]
    return {"hosts": len(seen), "silent": silent}


async def _delete_in_batches(database: Database, table: Any, key: Any, old: Any) -> int:
    deleted = 0
    while True:
        async with database.unit() as unit:
            count = await unit.change(delete(table).where(key.in_(select(key).where(old).limit(_BATCH))))
        deleted += count
        if count < _BATCH:
            return deleted


# What the scheduler does itself; metrics belong to the gateway, which prunes them (`services.gateway.commands`).
_CHORES: dict[Task, Callable[[Database, Settings], Awaitable[Result]]] = {
    "work-retention": _retain_work,
    "bus-retention": _retain_bus,
    "orphan-sweep": _sweep_orphans,
    "host-probe": _probe_hosts,
}


def _filled(task: Task, settings: Settings) -> dict[str, float]:
    return {name: float(settings.get(name, known.default)) for name, known in SETTINGS[task].items()}


def _invalid(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_SCHEDULE, message, hint)
