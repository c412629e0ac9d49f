"""A report of a host that grows check by check while somebody watches it, and the saying of its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from ltp.contracts.host_access import HostCheck, HostSetUp, HostTested
from services.runner import hosts_store
from services.runner.backends.ray import RayBackend
from services.runner.backends.ssh import SshBackend
from services.runner.fleet import Fleet
from services.runner.host_watch import look_at


async def report(
    fleet: Fleet,
    ids: tuple[str, UUID],
    backend: SshBackend | RayBackend,
    steps: AsyncIterator[HostCheck],
    end: type[HostTested | HostSetUp],
) -> None:
    """Note each of `steps` as it comes, close the backend, say `end`; a host without a fault is looked at anew."""
    host_id, report_id = ids
    checks: list[HostCheck] = []
    try:
        async for check in steps:
            checks.append(check)
            async with fleet.database.unit() as unit:
                await hosts_store.note_checks(unit, report_id, checks, done=False)
    finally:
        await backend.close()
    failed = [check.name for check in checks if check.verdict == "fail"]
    async with fleet.database.unit() as unit:
        await hosts_store.note_checks(unit, report_id, checks, done=True)
        unit.emit(end(host_id=host_id, report_id=report_id, ok=not failed, failed=failed), about=host_id)
    if not failed:
        await look_at(fleet, host_id)
