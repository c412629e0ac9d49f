"""Which waiting work gets which devices, who must make room for it, and why work waits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from ltp.contracts.values import Device, HostShare, Placement
from ltp.contracts.why import Cause, Reason
from ltp.queue.policy import Allowance

DeviceKind = Literal["cpu", "gpu"]

# Work that has waited this long keeps smaller work behind it from taking the devices it needs; before, they may overtake.
RESERVES_AFTER = timedelta(minutes=5)
# What other programs hold of a device may be gone in a moment; a plan that has waited this long for it is made anew.
CROWDED_AFTER = timedelta(seconds=60)


@dataclass(frozen=True)
class Wants:
    """The devices a piece of work asks for: `count` in all, the same number on each of `hosts` hosts."""

    count: int
    kind: DeviceKind
    hosts: int = 1
    # Bytes that each device must have.
    memory_bytes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    # Hosts on which this work failed in a way that another host may cure: taken only where there are no others.
    avoid: frozenset[str] = frozenset()
    priority: int = 0
    preemptible: bool = False
    # Training goes wherever there is a way; all other work is done where the platform itself runs.
    anywhere: bool = True

    @property
    def per_host(self) -> int:
        """Devices on each host."""
        return self.count // self.hosts


@dataclass(frozen=True)
class Waiting:
    """Work that wants devices, in the order of its turn."""

    work_id: UUID
    wants: Wants
    since: datetime
    queue: str = "training"
    project: str = "default"

    @property
    def devices(self) -> int:
        """How many it would hold: what its project's quota counts."""
        return self.wants.count


@dataclass(frozen=True)
class Holder:
    """Work that holds devices of a host. `leaving`: it was asked to save and go."""

    work_id: UUID
    job_id: UUID | None
    kind: DeviceKind
    indexes: frozenset[int]
    priority: int = 0
    preemptible: bool = False
    leaving: bool = False


@dataclass(frozen=True)
class HostState:
    """A host: its devices, who holds them, and whether anything may be placed on it."""

    host_id: str
    devices: Sequence[Device]
    holders: Sequence[Holder] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    state: Literal["ready", "silent", "cordoned"] = "ready"
    # By SSH or Ray, where only training is started.
    is_remote: bool = False
    # Bytes free on devices that nobody leases, by (kind, index), where the host said so since the last lease ended.
    free: Mapping[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])

    def roomy(self, wants: Wants) -> list[int]:
        """Indexes of suited devices of which other programs hold no more than the work leaves."""
        enough = max(0, wants.memory_bytes)
        return [index for index in self.suited(wants) if self.free.get((wants.kind, index), enough) >= enough]

    def suited(self, wants: Wants) -> list[int]:
        """Indexes of devices that would do, leased or not."""
        return [d.index for d in self.devices if d.kind == wants.kind and d.memory_bytes >= wants.memory_bytes]

    def refusal(self, wants: Wants) -> tuple[Cause, str, str] | None:
        """Why this host is out of the question whoever holds its devices: cause, message, remedy."""
        name = self.host_id
        if self.state == "silent":
            return "silent", f"{name} has not been heard of lately", f"start the runner on {name}"
        if self.state == "cordoned":
            return "cordoned", f"{name} is cordoned", f"`ltp host uncordon {name}`"
        if self.is_remote and not wants.anywhere:
            remedy = "ask for a device that a machine of the platform has (`device_kind: cpu`)"
            return "remote", f"{name} is reached over a network, where only training runs", remedy
        missing = {k: v for k, v in wants.labels.items() if self.labels.get(k) != v}
        if missing:
            asked = ", ".join(f"{k}={v}" for k, v in sorted(missing.items()))
            return "labels", f"{name} lacks the label {asked}", f"`ltp host label {name} {asked}`"
        there = sum(d.kind == wants.kind for d in self.devices)
        if there < wants.per_host:
            return "too_few_devices", f"{name} has {there} {wants.kind}, {wants.per_host} are wanted", "ask for fewer"
        if len(self.suited(wants)) < wants.per_host:
            need = f"{wants.memory_bytes / 2**30:.1f} GiB"
            return "too_small", f"{name} has too few devices with {need} of memory", "plan again for smaller devices"
        return None


@dataclass(frozen=True)
class Decision:
    """What to do now: give devices, ask holders to leave (holder's work -> the work that needs the room), and who blocks."""

    placed: list[tuple[UUID, Placement]]
    preempted: dict[UUID, UUID]
    # Hosts kept free for work that waited long or had room made for it.
    reserved: dict[str, UUID]


def place(
    waiting: Sequence[Waiting], hosts: Sequence[HostState], now: datetime, allowance: Allowance | None = None
) -> Decision:
    """Give devices to work in its turn; all of a gang at once or none. What a limit or a quota holds back is passed over.

    Work that does not fit is overtaken by smaller work behind it, until it has waited for `RESERVES_AFTER` or others
    were asked to make room for it: then the hosts it would use take no work from behind it.
    """
    free = {(h.host_id, kind): _free(h, kind) for h in hosts for kind in ("cpu", "gpu")}
    decision = Decision([], {}, {})
    limits = allowance or Allowance()
    for work in waiting:
        if limits.refuses(work) is not None:
            continue
        able = [h for h in _able(work.wants, hosts) if h.host_id not in decision.reserved]
        open_now = [h for h in able if len(_usable(h, work.wants, free)) >= work.wants.per_host]
        if len(open_now) >= work.wants.hosts:
            # The fullest hosts that fit, so that large work later finds whole hosts.
            open_now.sort(key=lambda h: (len(free[h.host_id, work.wants.kind]), h.host_id))
            decision.placed.append((work.work_id, _take(work.wants, open_now[: work.wants.hosts], free)))
            limits.count(work)
            continue
        made_room = _make_room(work, able, free, decision)
        if not made_room and now - work.since >= RESERVES_AFTER:
            for host in sorted(able, key=lambda h: -len(_usable(h, work.wants, free)))[: work.wants.hosts]:
                decision.reserved[host.host_id] = work.work_id
    return decision


def _able(wants: Wants, hosts: Sequence[HostState]) -> list[HostState]:
    """Hosts that could carry the work, whoever holds their devices: those it failed on only where there are no others."""
    able = [h for h in hosts if h.refusal(wants) is None]
    preferred = [h for h in able if h.host_id not in wants.avoid]
    return preferred if len(preferred) >= wants.hosts else able


def _free(host: HostState, kind: str) -> list[int]:
    taken = {index for holder in host.holders if holder.kind == kind for index in holder.indexes}
    return [d.index for d in host.devices if d.kind == kind and d.index not in taken]


def _usable(host: HostState, wants: Wants, free: Mapping[tuple[str, str], list[int]]) -> list[int]:
    roomy = set(host.roomy(wants))
    return [index for index in free[host.host_id, wants.kind] if index in roomy]


def _take(wants: Wants, hosts: Sequence[HostState], free: dict[tuple[str, str], list[int]]) -> Placement:
    shares: list[HostShare] = []
    for host in hosts:
        # The smallest devices that do, so that work which needs more finds the larger ones.
        sizes = {d.index: d.memory_bytes for d in host.devices if d.kind == wants.kind}
        chosen = sorted(_usable(host, wants, free), key=lambda index: (sizes[index], index))[: wants.per_host]
        free[host.host_id, wants.kind] = [i for i in free[host.host_id, wants.kind] if i not in chosen]
        shares.append(HostShare(host_id=host.host_id, device_indexes=sorted(chosen)))
    first, *others = shares
    return Placement(host_id=first.host_id, device_kind=wants.kind, device_indexes=first.device_indexes, others=others)


def crowded_out(waiting: Sequence[Waiting], hosts: Sequence[HostState], now: datetime) -> dict[UUID, int]:
    """Work that no host has room for because of what other programs hold there -> the bytes it could have on each device.

    Devices that are leased count as free: their holders leave some day, and other programs perhaps never.
    """
    found: dict[UUID, int] = {}
    for work in waiting:
        able = _able(work.wants, hosts)
        crowded = able and all(len(host.roomy(work.wants)) < work.wants.per_host for host in able)
        if crowded and now - work.since >= CROWDED_AFTER:
            found[work.work_id] = max(_offer(host, work.wants) for host in able)
    return found


def _offer(host: HostState, wants: Wants) -> int:
    """Bytes free on the fullest of the emptiest devices that the work would take."""
    sizes = {device.index: device.memory_bytes for device in host.devices if device.kind == wants.kind}
    offers = sorted((host.free.get((wants.kind, index), sizes[index]) for index in host.suited(wants)), reverse=True)
    return offers[wants.per_host - 1]


def _make_room(
    work: Waiting, able: Sequence[HostState], free: Mapping[tuple[str, str], list[int]], decision: Decision
) -> bool:
    """Ask as few and as unimportant holders as possible to leave. True when room is being made and was reserved."""
    wants = work.wants
    leavers = [(victims, host) for host in able if (victims := _victims(host, wants, free)) is not None]
    if len(leavers) < wants.hosts:
        return False
    leavers.sort(key=lambda found: (sum(v.priority + 1000 for v in found[0]), len(found[0]), found[1].host_id))
    for victims, host in leavers[: wants.hosts]:
        decision.reserved[host.host_id] = work.work_id
        decision.preempted.update({v.work_id: work.work_id for v in victims if not v.leaving})
    return True


def _victims(host: HostState, wants: Wants, free: Mapping[tuple[str, str], list[int]]) -> list[Holder] | None:
    """Holders whose leaving gives the host enough devices; None when even all that may be asked are too few."""
    suited = set(host.suited(wants))
    missing = wants.per_host - len(_usable(host, wants, free))
    # Who is on the way out already costs nothing more; then the least important, then the largest.
    may_go = [
        h for h in host.holders
        if h.kind == wants.kind and (h.leaving or (h.preemptible and h.priority < wants.priority)) and h.indexes & suited
    ]  # fmt: skip
    may_go.sort(key=lambda h: (not h.leaving, h.priority, -len(h.indexes & suited), h.work_id))
    victims: list[Holder] = []
    for holder in may_go:
        if missing <= 0:
            break
        victims.append(holder)
        missing -= len(holder.indexes & suited)
    return victims if missing <= 0 else None


def explain(work: Waiting, waiting: Sequence[Waiting], hosts: Sequence[HostState], now: datetime) -> list[Reason]:
    """Why this work has no devices at this moment: one reason a host, and its turn."""
    if not hosts:
        remedy = "start a runner: `ltp up` starts the one of this machine"
        return [Reason(cause="no_host", message="no host is known", remedy=remedy)]
    decision = place(waiting, hosts, now)
    able = _able(work.wants, hosts)
    reasons = [
        _avoided(host)
        if host.refusal(work.wants) is None and host not in able
        else _about_host(work.wants, host, decision.reserved.get(host.host_id), work.work_id)
        for host in hosts
    ]
    turn = next(i for i, other in enumerate(waiting) if other.work_id == work.work_id)
    if turn:
        message = f"{turn} piece{'s' if turn > 1 else ''} of work wait{'' if turn > 1 else 's'} for devices before it"
        reasons.append(Reason(cause="turn", message=message))
    return reasons


def _avoided(host: HostState) -> Reason:
    name = host.host_id
    message = f"{name}: an attempt failed on it, so another host is tried first"
    return Reason(cause="avoided", message=message, host_id=name)


def _about_host(wants: Wants, host: HostState, reserved_for: UUID | None, work_id: UUID) -> Reason:
    refusal = host.refusal(wants)
    if refusal is not None:
        cause, message, remedy = refusal
        return Reason(cause=cause, message=message, remedy=remedy, host_id=host.host_id)
    if reserved_for not in {None, work_id}:
        message = f"{host.host_id} is kept for work {reserved_for}, whose turn is before"
        return Reason(cause="reserved", message=message, host_id=host.host_id)
    if len(host.roomy(wants)) < wants.per_host:
        need, offer = (f"{size / 2**30:.1f} GiB" for size in (wants.memory_bytes, _offer(host, wants)))
        message = f"{host.host_id}: other programs leave {offer} of a device free, and the plan needs {need}"
        remedy = f"end them (`nvidia-smi` on {host.host_id} lists them); else the job is planned again for what is free"
        return Reason(cause="no_room", message=message, remedy=remedy, host_id=host.host_id)
    held = [h for h in host.holders if h.kind == wants.kind]
    holders = "; ".join(_about_holder(h) for h in held) or "nobody"
    free = len(_free(host, wants.kind))
    message = f"{host.host_id}: {free} of {len(host.suited(wants))} {wants.kind} free, {wants.per_host} wanted; held by {holders}"
    remedy = " or ".join(f"the end, a pause or a cancel of job {h.job_id}" for h in held if h.job_id) or ""
    return Reason(cause="busy", message=message, remedy=remedy, host_id=host.host_id)


def _about_holder(holder: Holder) -> str:
    who = f"job {holder.job_id}" if holder.job_id else f"work {holder.work_id}"
    manner = "leaving" if holder.leaving else "preemptible" if holder.preemptible else "not preemptible"
    return f"{who} ({len(holder.indexes)} devices, priority {holder.priority}, {manner})"
