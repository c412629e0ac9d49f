"""What this machine has: GPUs as nvidia-smi tells them, otherwise its processors as one device."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
from pathlib import Path

from ltp.contracts.host import HostSeen
from ltp.contracts.values import Device

_QUERY = ("--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_MIB = 1 << 20


async def describe(name: str) -> HostSeen:
    """This host as it is now. The processors are always offered as well, for recipes that ask for `cpu`."""
    memory = await asyncio.to_thread(_memory_bytes)
    processors = Device(index=0, kind="cpu", model=platform.processor() or platform.machine(), memory_bytes=memory)
    return HostSeen(
        host_id=name,
        name=name,
        backend="local",
        devices=[*await _gpus(), processors],
        memory_bytes=memory,
        cpus=len(os.sched_getaffinity(0)),
        flash_attention=importlib.util.find_spec("flash_attn") is not None,
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


async def _gpus() -> list[Device]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    process = await asyncio.create_subprocess_exec(
        program, *_QUERY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return parse_gpus(output.decode(errors="replace")) if process.returncode == 0 else []


def _memory_bytes() -> int:
    """Memory this process may use: the machine's, or the control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            return min(total, int(limit.read_text()))
        except (OSError, ValueError):
            continue
    return total
