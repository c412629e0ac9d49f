"""The loop that gives devices to waiting work, makes room for what is more important, and takes devices back."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError

from ltp.contracts.host import HostLost
from ltp.contracts.lease import LeaseGranted, LeaseReleased
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.queue.limits import locked_allowance
from ltp.service.runtime import Runtime
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.listener import WORK_CHANNEL
from ltp.store.patience import wait_at_most
from services.scheduler import allocation, hosts
from services.scheduler.jobs import attempt_over, plan_for_room, preempt
from services.scheduler.settings import SchedulerSettings


async def place_forever(runtime: Runtime, settings: SchedulerSettings) -> None:
    """Place whenever the table of work changed, and now and then in case a notification was lost."""
    silent_after = timedelta(seconds=settings.scheduler_host_silent_seconds)
    while True:
        runtime.work_changed.clear()
        try:
            async with runtime.database.unit() as unit:
                await place_once(unit, silent_after)
        except IntegrityError as error:
            # Another scheduler granted in the same moment; what it left is seen at the next look.
            structlog.get_logger().info("granted by another scheduler", reason=str(error.orig)[:200])
            continue
        await wait_at_most(runtime.work_changed, settings.scheduler_poll_seconds)


async def place_once(unit: Unit, silent_after: timedelta) -> None:
    """Load, decide, apply: free what ended, give what is free, and ask for room where that is allowed."""
    for lease_id, work_id in await hosts.release_ended(unit):
        unit.emit(LeaseReleased(lease_id=lease_id, work_id=work_id), about=lease_id)
    waiting = await hosts.waiting_work(unit)
    if not waiting:
        return
    # The lock on the limits is taken before that on the hosts, by every scheduler.
    limits = await locked_allowance(unit)
    states, at = await hosts.host_states(unit, silent_after), now()
    decision = allocation.place(waiting, states, at, limits)
    granted = [await _grant(unit, work_id, placement) for work_id, placement in decision.placed]
    if any(granted):
        await unit.notify(WORK_CHANNEL)
    for holder, needy in decision.preempted.items():
        if await hosts.ask_to_leave(unit, holder):
            await preempt(unit, holder, needy)
    for work_id, free_bytes in allocation.crowded_out(waiting, states, at).items():
        await plan_for_room(unit, work_id, free_bytes)


async def _grant(unit: Unit, work_id: UUID, placement: allocation.Placement) -> bool:
    lease = await hosts.grant(unit, work_id, placement)
    if lease is None:
        return False
    event = LeaseGranted(lease_id=lease.lease_id, work_id=work_id, kind=lease.kind, placement=lease.placement)
    unit.emit(event, about=lease.lease_id)
    return True


async def look_after_hosts(runtime: Runtime, settings: SchedulerSettings) -> None:
    """Give the work of hosts that stay silent to others. Silence alone harms nothing: the patience is long on purpose.

    It is measured by this process's own steady clock, so that neither a clock that jumps nor an outage of ours counts.
    """
    patience, heard = settings.scheduler_host_lost_seconds, dict[str, tuple[datetime, float]]()
    while True:
        async with runtime.database.unit() as unit:
            for host_id, seen_at in await hosts.last_words(unit):
                if heard.get(host_id, (None,))[0] != seen_at:
                    heard[host_id] = (seen_at, time.monotonic())
                elif time.monotonic() - heard[host_id][1] > patience:
                    await lose_host(unit, host_id)
                    unit.emit(HostLost(host_id=host_id, seen_at=seen_at), about=host_id)
        await asyncio.sleep(settings.scheduler_host_silent_seconds / 4)


async def lose_host(unit: Unit, host_id: str) -> None:
    """Take a host's work from it; its jobs go on elsewhere, fenced from what may still run there."""
    problem = Problem(
        code=ErrorCode.HOST_LOST,
        message=f"Host {host_id} was lost while the attempt ran on it.",
        hint="The job goes on from its last checkpoint on another host; bring the host back or remove it.",
    )
    await hosts.note_host(unit, host_id, lost_at=now())
    for job_id in await hosts.give_up_work(unit, host_id, problem.model_dump()):
        await attempt_over(unit, job_id, problem, host_id=host_id)
    await unit.notify(WORK_CHANNEL)
