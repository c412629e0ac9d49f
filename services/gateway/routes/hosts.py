"""Hosts: what they have, who holds it, and what operators say of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path

from ltp.bus.rpc import ask
from ltp.contracts.event import Event
from ltp.contracts.host import (
    HostCordoned,
    HostGivenUp,
    HostLabelled,
    HostList,
    HostsRequest,
    HostUncordoned,
    HostView,
    Labels,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway.access import Serving
from services.gateway.routes.host_access import access_by_host

router = APIRouter(tags=["hosts"])

HostId = Annotated[str, Path(max_length=255)]


@router.get("/hosts")
async def list_hosts(runtime: Serving) -> HostList:
    """All hosts with their devices, who holds them, and how registered ones are reached."""
    found = await ask(runtime.client, "scheduler", "hosts", HostsRequest(), HostList)
    access = await access_by_host(runtime)
    return HostList(hosts=[host.model_copy(update={"access": access.get(host.host_id)}) for host in found.hosts])


@router.get("/hosts/{host_id}")
async def show_host(host_id: HostId, runtime: Serving) -> HostView:
    """One host."""
    found = await ask(runtime.client, "scheduler", "hosts", HostsRequest(host_id=host_id), HostList)
    if not found.hosts:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no host {host_id}.", "`ltp host list` shows all.")
    access = await access_by_host(runtime, host_id)
    return found.hosts[0].model_copy(update={"access": access.get(host_id)})


@router.put("/hosts/{host_id}/labels", status_code=202)
async def label_host(host_id: HostId, labels: Annotated[Labels, Body()], runtime: Serving) -> HostView:
    """Say what a host is like. These are all its labels from now on; recipes ask for them by `resources.labels`."""
    return await _say(runtime, host_id, HostLabelled(host_id=host_id, labels=labels))


@router.post("/hosts/{host_id}/cordon", status_code=202)
async def cordon_host(host_id: HostId, runtime: Serving) -> HostView:
    """Place nothing new on a host. What runs there goes on."""
    return await _say(runtime, host_id, HostCordoned(host_id=host_id))


@router.post("/hosts/{host_id}/uncordon", status_code=202)
async def uncordon_host(host_id: HostId, runtime: Serving) -> HostView:
    """Give a host back to the scheduler."""
    return await _say(runtime, host_id, HostUncordoned(host_id=host_id))


@router.post("/hosts/{host_id}/give-up", status_code=202)
async def give_up_host(host_id: HostId, runtime: Serving) -> HostView:
    """Give a host's work to others at once: you know that it will not come back. Its jobs go on from their checkpoints."""
    return await _say(runtime, host_id, HostGivenUp(host_id=host_id))


async def _say(runtime: Runtime, host_id: str, event: Event) -> HostView:
    host = await show_host(host_id, runtime)
    async with runtime.database.unit() as unit:
        unit.emit(event, about=host_id)
    return host
