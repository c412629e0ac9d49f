"""What a plan may stand on: hosts as they were seen or described, and the groups of equal devices in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ltp.contracts.values import Device
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.hardware import Hardware, lookup, recognise
from ltp.core.memory import GIB

Kind = Literal["cpu", "gpu"]

# Share of a device's memory that a plan may count on. A GPU's driver keeps little; a host also runs these services.
USABLE: dict[Kind, float] = {"gpu": 0.97, "cpu": 0.90}
_MOST_DEVICES = 1024
# A described host has what the clouds sell beside a GPU: host memory about twice the GPU's, 16 processors each.
_CPUS_EACH = 16
_DESCRIPTION = re.compile(r"(?P<name>[^:]+?)(?::(?P<count>[^:]*))?")


@dataclass(frozen=True)
class HostFacts:
    """What the planner knows of a host."""

    host_id: str
    devices: Sequence[Device]
    memory_bytes: int
    cpus: int
    # Free bytes of devices that nobody leases, by (kind, index): what other programs hold is not ours to plan on.
    free: Mapping[tuple[Kind, int], int] = field(default_factory=dict[tuple[Kind, int], int])
    # The package flash-attn is there, so that sequences can be packed and spread over devices.
    flash_attention: bool = False


@dataclass(frozen=True)
class Pool:
    """Equal devices of one host that could carry the job. `memory_bytes` is that of the smallest of them."""

    host_id: str
    kind: Kind
    devices: int
    memory_bytes: int
    # Memory that is free on the worst of them now; the whole where nothing is known of other programs.
    free_bytes: int = 1 << 62
    hardware: Hardware | None = None
    host_memory_bytes: int = 1 << 62
    cpus: int = 0
    flash_attention: bool = False

    @property
    def usable_bytes(self) -> int:
        """Memory a plan may count on, per device."""
        return min(int(self.memory_bytes * USABLE[self.kind]), self.free_bytes)

    @property
    def model(self) -> str:
        """How its devices are called."""
        return self.hardware.name if self.hardware else self.kind

    @property
    def hourly_dollars(self) -> float | None:
        """What the devices cost together."""
        return None if self.hardware is None else self.devices * self.hardware.hourly_dollars


def pools_of(hosts: Iterable[HostFacts], kind: Kind, count: int, spread: int = 1) -> list[Pool]:
    """For each host and each model of device in it, the `count` devices of it that offer most.

    With `spread` hosts, for each model the hosts that offer most, the same number of devices on each.
    """
    if spread > 1:
        return _spanning(hosts, kind, count, spread)
    found: list[Pool] = []
    for host in hosts:
        models: dict[str, list[Device]] = {}
        for device in host.devices:
            if device.kind == kind:
                models.setdefault(device.model, []).append(device)
        found += [_pool(host, kind, count, group) for group in models.values() if len(group) >= count]
    return found


def _spanning(hosts: Iterable[HostFacts], kind: Kind, count: int, spread: int) -> list[Pool]:
    if count % spread:
        return []
    parts: dict[str, list[Pool]] = {}
    for host in hosts:
        models = {device.model for device in host.devices if device.kind == kind}
        for model in models:
            group = [device for device in host.devices if device.kind == kind and device.model == model]
            if len(group) >= count // spread:
                parts.setdefault(model, []).append(_pool(host, kind, count // spread, group))
    whole: list[Pool] = []
    for group in parts.values():
        chosen = sorted(group, key=lambda pool: (-pool.usable_bytes, pool.host_id))[:spread]
        if len(chosen) == spread:
            worst = min(chosen, key=lambda pool: pool.usable_bytes)
            names = "+".join(sorted(pool.host_id for pool in chosen))
            whole.append(replace(worst, host_id=names, devices=count))
    return whole


def _pool(host: HostFacts, kind: Kind, count: int, group: list[Device]) -> Pool:
    def offer(device: Device) -> tuple[int, int]:
        # A processor's memory is the host's, however its device states it.
        size = min(device.memory_bytes, host.memory_bytes) if kind == "cpu" else device.memory_bytes
        return min(size, host.free.get((kind, device.index), size)), size

    taken = sorted((offer(device) for device in group), reverse=True)[:count]
    return Pool(
        host.host_id,
        kind,
        count,
        memory_bytes=min(size for _, size in taken),
        free_bytes=min(free for free, _ in taken),
        hardware=recognise(group[0].model),
        host_memory_bytes=host.memory_bytes,
        cpus=host.cpus,
        flash_attention=host.flash_attention,
    )


def described_host(description: str, *, flash_attention: bool = False) -> HostFacts:
    """A host that is not there: `h100:8`, `rtx 4090` (one of them), `cpu:64` (processors with 64 GiB).

    Raises INVALID_REQUEST: a device that is not in the table, a count that is no whole number from 1 to 1024.
    """
    match = _DESCRIPTION.fullmatch(description.strip())
    name, count = (match["name"].strip(), match["count"]) if match else (description.strip(), "")
    number = 1 if count is None else _whole(description, count)
    if name.lower() == "cpu":
        size = (number if count else 16) * GIB
        return HostFacts(description, [Device(index=0, kind="cpu", model="cpu", memory_bytes=size)], size, _CPUS_EACH)
    row = lookup(name)
    if row.kind == "cpu":
        unified = Device(index=0, kind="cpu", model=row.name, memory_bytes=row.memory_bytes)
        return HostFacts(description, [unified], row.memory_bytes, _CPUS_EACH)
    devices = [Device(index=n, kind="gpu", model=row.name, memory_bytes=row.memory_bytes) for n in range(number)]
    memory = max(64 * GIB, 2 * number * row.memory_bytes)
    host = Device(index=0, kind="cpu", model="cpu", memory_bytes=memory)
    return HostFacts(description, [*devices, host], memory, _CPUS_EACH * number, flash_attention=flash_attention)


def _whole(description: str, text: str) -> int:
    if not text.strip().isdecimal() or not 1 <= int(text) <= _MOST_DEVICES:
        message = f"Hardware {description!r}: {text!r} is no number of devices from 1 to {_MOST_DEVICES}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Say it as `h100:8`, or `cpu:64` for 64 GiB.")
    return int(text)
