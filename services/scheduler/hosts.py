"""Hosts and the leases on their devices: the tables, and every statement that is run on them.

That no device is leased twice at an instant is not left to the code: `leased_devices` has a unique index over what is held.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    Sequence,
    String,
    Table,
    Uuid,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from ltp.contracts.host import Holding, HostSeen, HostView
from ltp.contracts.values import Device, Placement
from ltp.queue.tables import work
from ltp.queue.waiting import in_turn
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from services.scheduler.allocation import DeviceKind, Holder, HostState, Waiting, Wants

SCHEMA = "scheduler"
_FENCE = Sequence("lease_fence", schema=SCHEMA, metadata=metadata)

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", String, primary_key=True),
    Column("devices", JSONB, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    Column("cordoned", Boolean, nullable=False, server_default=text("false")),
    # Set when its work was given to others, until it is heard of again.
    Column("lost_at", TIME),
    # Null until a registered host is heard of for the first time.
    Column("seen_at", TIME),
    # Taken away by an operator: late news of it changes nothing.
    Column("removed_at", TIME),
    Column("reached_by", String, nullable=False, server_default=text("'local'")),
    schema=SCHEMA,
)
leases = Table(
    "leases",
    metadata,
    Column("lease_id", Uuid, primary_key=True),
    Column("work_id", Uuid, nullable=False),
    Column("fence", BigInteger, nullable=False, unique=True, server_default=_FENCE.next_value()),
    Column("host_id", String, nullable=False),
    Column("device_kind", String, nullable=False),
    Column("device_indexes", ARRAY(Integer), nullable=False),
    Column("wants", JSONB, nullable=False, server_default=text("'{}'")),
    # Whether the holder was asked to save and leave.
    Column("leaving", Boolean, nullable=False, server_default=text("false")),
    Column("granted_at", TIME, nullable=False, server_default=func.now()),
    Column("released_at", TIME),
    schema=SCHEMA,
)
Index("uq_leases_work_held", leases.c.work_id, unique=True, postgresql_where=leases.c.released_at.is_(None))
leased_devices = Table(
    "leased_devices",
    metadata,
    Column("lease_id", Uuid, primary_key=True),
    Column("host_id", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("released_at", TIME),
    schema=SCHEMA,
)
_D = leased_devices.c
Index("uq_leased_devices_held", _D.host_id, _D.kind, _D.index, unique=True, postgresql_where=_D.released_at.is_(None))


@dataclass(frozen=True)
class Grant:
    """A lease as it was given."""

    lease_id: UUID
    kind: str
    placement: Placement


async def see_host(unit: Unit, seen: HostSeen) -> None:
    """Note a host's devices as it says them now."""
    values = {
        "devices": [d.model_dump() for d in seen.devices],
        "memory_bytes": seen.memory_bytes,
        "reached_by": seen.reached_by,
        "seen_at": now(),
        "lost_at": None,
    }
    statement = insert(hosts).values(host_id=seen.host_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["host_id"], set_=values))


async def register_host(unit: Unit, host_id: str, labels: dict[str, str]) -> None:
    """Note a host that was never heard of; one that was is reached another way from now on."""
    statement = insert(hosts).values(host_id=host_id, devices=[], labels=labels, lost_at=now())
    values = {"labels": labels, "removed_at": None}
    await unit.execute(statement.on_conflict_do_update(index_elements=["host_id"], set_=values))


async def remove_host(unit: Unit, host_id: str) -> None:
    """Place nothing on a host any more, and show it to nobody."""
    await note_host(unit, host_id, removed_at=now(), cordoned=False)


async def note_host(unit: Unit, host_id: str, **values: Any) -> bool:
    """Record what an operator said of a host; False when it is not known."""
    return await unit.change(update(hosts).where(hosts.c.host_id == host_id).values(**values)) == 1


async def waiting_work(unit: Unit) -> list[Waiting]:
    """Work that wants devices and has none, in its turn."""
    return [
        Waiting(row.id, read_wants(row.wants, row.kind), row.enqueued_at, row.queue, row.project)
        for row in await in_turn(unit)
    ]


def read_wants(wants: dict[str, Any], kind: str = "train") -> Wants:
    """What a row of work says of the devices it wants; what it leaves out has defaults."""
    return Wants(
        count=wants["count"],
        kind=wants["kind"],
        hosts=wants.get("hosts", 1),
        memory_bytes=wants.get("memory_bytes", 0),
        labels=wants.get("labels", {}),
        avoid=frozenset(wants.get("avoid", ())),
        priority=wants.get("priority", 0),
        preemptible=wants.get("preemptible", False),
        anywhere=kind == "train",
    )


async def host_states(unit: Unit, silent_after: timedelta, *, lock: bool = True) -> list[HostState]:
    """Hosts with who holds what on them. Locks the hosts, so that two schedulers decide one after the other."""
    query = select(hosts).where(hosts.c.removed_at.is_(None)).order_by(hosts.c.host_id)
    seen = (await unit.execute(query.with_for_update() if lock else query)).mappings().all()
    held, ended = await _holders(unit), await _last_ends(unit)
    at = now()
    return [
        HostState(
            host_id=row["host_id"],
            devices=[Device.model_validate(d) for d in row["devices"]],
            holders=held[row["host_id"]],
            labels=row["labels"],
            state=_state(row, at, silent_after),
            is_remote=row["reached_by"] != "local",
            free=_free_bytes(row, held[row["host_id"]], ended),
        )
        for row in seen
    ]


def _free_bytes(
    row: Any, held: list[Holder], ended: dict[tuple[str, str, int], datetime]
) -> dict[tuple[str, int], int]:
    """What a host said is free of its devices, but of those that our own runs hold, or held when it looked."""
    ours = {(holder.kind, index) for holder in held for index in holder.indexes}
    ours |= {
        (kind, index) for (host, kind, index), at in ended.items() if host == row["host_id"] and at >= row["seen_at"]
    }
    devices = [Device.model_validate(d) for d in row["devices"]]
    return {
        (d.kind, d.index): d.free_bytes for d in devices if d.free_bytes is not None and (d.kind, d.index) not in ours
    }


async def _last_ends(unit: Unit) -> dict[tuple[str, str, int], datetime]:
    """When each device's last lease ended: (host, kind, index) -> time."""
    last = func.max(_D.released_at).label("last")
    query = select(_D.host_id, _D.kind, _D["index"].label("device"), last).where(_D.released_at.is_not(None))
    rows = (await unit.execute(query.group_by(_D.host_id, _D.kind, _D["index"]))).all()
    return {(row.host_id, row.kind, row.device): row.last for row in rows}


def _state(row: Any, at: datetime, silent_after: timedelta) -> Any:
    if row["lost_at"] is not None or row["seen_at"] is None or at - row["seen_at"] > silent_after:
        return "silent"
    return "cordoned" if row["cordoned"] else "ready"


async def _holders(unit: Unit) -> dict[str, list[Holder]]:
    indexes = func.array_agg(_D.index).label("indexes")
    query = (
        select(leases.c.work_id, leases.c.wants, leases.c.leaving, _D.host_id, _D.kind, indexes)
        .join(leases, leases.c.lease_id == _D.lease_id)
        .where(_D.released_at.is_(None))
        .group_by(leases.c.work_id, leases.c.wants, leases.c.leaving, _D.host_id, _D.kind)
    )
    found: dict[str, list[Holder]] = defaultdict(list)
    for row in (await unit.execute(query)).all():
        wants: dict[str, Any] = row.wants
        kind: DeviceKind = row.kind
        job_id = UUID(wants["job_id"]) if wants.get("job_id") else None
        holder = Holder(
            row.work_id, job_id, kind, frozenset(row.indexes),
            wants.get("priority", 0), wants.get("preemptible", False), row.leaving,
        )  # fmt: skip
        found[row.host_id].append(holder)
    return found


async def grant(unit: Unit, work_id: UUID, placement: Placement) -> Grant | None:
    """Lease devices to work and let it be claimed; None when the work is gone. A device held by another is an IntegrityError."""
    free = work.c.id == work_id, work.c.state == "queued", work.c.placement.is_(None)
    row = (await unit.execute(select(work.c.kind, work.c.wants).where(*free).with_for_update())).one_or_none()
    if row is None:
        return None
    lease_id = new_id()
    statement = insert(leases).values(
        lease_id=lease_id,
        work_id=work_id,
        host_id=placement.host_id,
        device_kind=placement.device_kind,
        device_indexes=placement.device_indexes,
        wants=row.wants,
    )
    fence = (await unit.execute(statement.returning(leases.c.fence))).scalar_one()
    devices = [
        {"lease_id": lease_id, "host_id": share.host_id, "kind": placement.device_kind, "index": index}
        for share in placement.shares()
        for index in share.device_indexes
    ]
    await unit.execute(insert(leased_devices), devices)
    fenced = placement.model_copy(update={"fence": fence})
    await unit.execute(update(work).where(work.c.id == work_id).values(placement=fenced.model_dump()))
    return Grant(lease_id, row.kind, fenced)


async def release_ended(unit: Unit) -> list[tuple[UUID, UUID]]:
    """Free the devices of work that is over, or waits for its turn again; returns (lease, work) of each."""
    active = select(work.c.id).where(work.c.id == leases.c.work_id, work.c.placement.is_not(None))
    active = active.where(work.c.state.in_(["queued", "running"]))
    at = now()
    statement = (
        update(leases)
        .where(leases.c.released_at.is_(None), ~active.exists())
        .values(released_at=at)
        .returning(leases.c.lease_id, leases.c.work_id)
    )
    ended = [(row.lease_id, row.work_id) for row in (await unit.execute(statement)).all()]
    if ended:
        over = update(leased_devices).where(_D.lease_id.in_([lease for lease, _ in ended]))
        await unit.execute(over.values(released_at=at))
    return ended


async def ask_to_leave(unit: Unit, work_id: UUID) -> bool:
    """Note that the holder was asked to leave; False when it was before, or holds nothing."""
    held = leases.c.work_id == work_id, leases.c.released_at.is_(None), leases.c.leaving.is_(False)
    return await unit.change(update(leases).where(*held).values(leaving=True)) == 1


async def last_words(unit: Unit) -> list[tuple[str, datetime]]:
    """When each host that is not given up yet was last heard of."""
    query = select(hosts.c.host_id, hosts.c.seen_at).with_for_update()
    query = query.where(hosts.c.lost_at.is_(None), hosts.c.removed_at.is_(None), hosts.c.seen_at.is_not(None))
    return [(row.host_id, row.seen_at) for row in (await unit.execute(query)).all()]


async def give_up_work(unit: Unit, host_id: str, problem: dict[str, Any]) -> list[UUID]:
    """Take its work from a lost host: training ends as failed (its jobs are returned), other work waits for its turn again.

    Both lose their lease tokens, so that whoever still holds them can write nothing.
    """
    held = (
        select(leases.c.work_id)
        .join(leased_devices, leases.c.lease_id == _D.lease_id)
        .where(_D.host_id == host_id, _D.released_at.is_(None))
    )
    active = work.c.id.in_(held), work.c.state.in_(["queued", "running"])
    cleared: dict[str, Any] = {"lease_token": None, "lease_until": None}
    training = update(work).where(*active, work.c.kind == "train")
    ended = training.values(state="failed", problem=problem, ended_at=now(), **cleared).returning(work.c.wants)
    rows = (await unit.execute(ended)).all()
    others = update(work).where(*active, work.c.kind != "train")
    await unit.execute(others.values(state="queued", placement=None, **cleared))
    return [UUID(row.wants["job_id"]) for row in rows]


async def views(unit: Unit, silent_after: timedelta, host_id: str | None) -> list[HostView]:
    """Hosts with their holdings, for people."""
    query = select(hosts).where(hosts.c.removed_at.is_(None)).order_by(hosts.c.host_id)
    if host_id is not None:
        query = query.where(hosts.c.host_id == host_id)
    rows = (await unit.execute(query)).mappings().all()
    at = now()
    return [
        HostView(
            host_id=row["host_id"],
            state=_state(row, at, silent_after),
            seen_at=row["seen_at"],
            memory_bytes=row["memory_bytes"],
            devices=[Device.model_validate(d) for d in row["devices"]],
            labels=row["labels"],
            reached_by=row["reached_by"],
            holdings=await _holdings(unit, row["host_id"]),
        )
        for row in rows
    ]


async def _holdings(unit: Unit, host_id: str) -> list[Holding]:
    indexes = func.array_agg(_D.index).label("indexes")
    query = (
        select(leases, _D.kind, indexes)
        .join(leased_devices, leases.c.lease_id == _D.lease_id)
        .where(_D.host_id == host_id, _D.released_at.is_(None))
        .group_by(*leases.c, _D.kind)
        .order_by(leases.c.fence)
    )
    return [
        Holding(
            work_id=row.work_id,
            job_id=row.wants.get("job_id"),
            priority=row.wants.get("priority", 0),
            device_kind=row.kind,
            device_indexes=sorted(row.indexes),
            granted_at=row.granted_at,
            fence=row.fence,
            leaving=row.leaving,
        )
        for row in (await unit.execute(query)).all()
    ]
