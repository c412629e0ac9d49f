"""A host as it is said on the bus: its GPUs as nvidia-smi tells them, and its processors as one device."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from ltp.contracts.host import HostSeen
from ltp.contracts.values import Device
from services.runner import host_facts

_MIB = 1 << 20


def seen(name: str, reached_by: Literal["local", "ssh", "ray"], facts: dict[str, Any]) -> HostSeen:
    """This host as it is now. The processors are always offered as well, for recipes that ask for `cpu`."""
    memory = facts["memory_bytes"]
    processors = Device(index=0, kind="cpu", model=facts["processor"] or "cpu", memory_bytes=memory)
    return HostSeen(
        host_id=name,
        name=name,
        backend="local",
        reached_by=reached_by,
        devices=[*parse_gpus(facts["gpus"]), processors],
        memory_bytes=memory,
        cpus=facts["cpus"],
        flash_attention=facts["flash_attention"],
    )


def parse_gpus(table: str) -> list[Device]:
    """Devices from nvidia-smi's table of index, name, MiB in all and MiB free; lines it could not fill (`[N/A]`) are left out."""
    devices: list[Device] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) >= 3 and cells[0].isdigit() and cells[2].isdigit():
            memory = int(cells[2]) * _MIB
            free = int(cells[3]) * _MIB if len(cells) > 3 and cells[3].isdigit() else None
            devices.append(
                Device(index=int(cells[0]), kind="gpu", model=cells[1], memory_bytes=memory, free_bytes=free)
            )
    return devices


async def describe(name: str) -> HostSeen:
    """This machine as it is now."""
    return seen(name, "local", await asyncio.to_thread(host_facts.collect, {}))
