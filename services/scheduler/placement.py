"""The loop that gives devices to waiting work and takes them back when the work is over."""

from __future__ import annotations

from ltp.contracts.lease import LeaseGranted, LeaseReleased
from ltp.service.runtime import Runtime
from ltp.store.database import Unit
from ltp.store.listener import WORK_CHANNEL
from ltp.store.patience import wait_at_most
from services.scheduler import policy, store


async def place_forever(runtime: Runtime, poll_seconds: float) -> None:
    """Place whenever the table of work changed, and now and then in case a notification was lost."""
    while True:
        runtime.work_changed.clear()
        async with runtime.database.unit() as unit:
            await place_once(unit)
        await wait_at_most(runtime.work_changed, poll_seconds)


async def place_once(unit: Unit) -> None:
    """Load, decide, apply: free what ended, then give what is free."""
    for lease_id, work_id in await store.release_ended(unit):
        unit.emit(LeaseReleased(lease_id=lease_id, work_id=work_id), about=lease_id)
    waiting = await store.waiting_work(unit)
    if not waiting:
        return
    granted = False
    for work_id, placement in policy.place(waiting, await store.host_states(unit)):
        lease = await store.grant(unit, work_id, placement)
        if lease is not None:
            lease_id, kind = lease
            granted = True
            unit.emit(LeaseGranted(lease_id=lease_id, work_id=work_id, kind=kind, placement=placement), about=lease_id)
    if granted:
        await unit.notify(WORK_CHANNEL)
