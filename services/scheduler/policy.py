"""Which waiting work gets which devices, and what an attempt's end means for its job. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from ltp.contracts.values import Device, Placement
from ltp.core.lifecycle import JobState

DeviceKind = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Waiting:
    """Work that wants devices, in the order of its turn."""

    work_id: UUID
    count: int
    kind: DeviceKind


@dataclass(frozen=True)
class HostState:
    """A host's devices, and the indexes that are leased, per kind."""

    host_id: str
    devices: Sequence[Device]
    taken: Mapping[DeviceKind, frozenset[int]]

    def free(self, kind: DeviceKind) -> list[int]:
        """Indexes of unleased devices of a kind, in order."""
        taken = self.taken.get(kind, frozenset())
        return [d.index for d in self.devices if d.kind == kind and d.index not in taken]


def place(waiting: Sequence[Waiting], hosts: Sequence[HostState]) -> list[tuple[UUID, Placement]]:
    """Give devices to work, first come first served; work that does not fit now is passed over by smaller work behind it.

    All devices of one piece of work come from one host.
    """
    free = {(host.host_id, kind): host.free(kind) for host in hosts for kind in ("cpu", "gpu")}
    placed: list[tuple[UUID, Placement]] = []
    for work in waiting:
        fitting = [host.host_id for host in hosts if len(free[host.host_id, work.kind]) >= work.count]
        if not fitting:
            continue
        # The fullest host that fits, so that large work later finds whole hosts.
        host_id = min(fitting, key=lambda h: (len(free[h, work.kind]), h))
        indexes = free[host_id, work.kind]
        placement = Placement(host_id=host_id, device_kind=work.kind, device_indexes=indexes[: work.count])
        free[host_id, work.kind] = indexes[work.count :]
        placed.append((work.work_id, placement))
    return placed


def after_loss(number: int, max_attempts: int, cancel_requested: bool) -> JobState:
    """Where a job goes when attempt `number` is lost: again to the queue, unless that was the last or it should end."""
    if cancel_requested:
        return JobState.CANCELLED
    return JobState.QUEUED if number < max_attempts else JobState.FAILED


def after_stop(cancel_requested: bool) -> JobState:
    """Where a job goes when its attempt ended on request."""
    return JobState.CANCELLED if cancel_requested else JobState.QUEUED
