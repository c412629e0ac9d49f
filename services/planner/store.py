"""The planner's tables and every statement it runs on them: hosts as last seen, leases, plans as made, measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    RowMapping,
    String,
    Table,
    Uuid,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from ltp.contracts.host import HostSeen
from ltp.contracts.values import Device, Plan
from ltp.core.calibration import Drift, Pair
from ltp.planning.pools import HostFacts, Kind
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table

SCHEMA = "planner"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

hosts = Table(
    "hosts",
    metadata,
    Column("host_id", String, primary_key=True),
    Column("devices", JSONB, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("cpus", Integer, nullable=False),
    Column("seen_at", TIME, nullable=False),
    Column("flash_attention", Boolean, nullable=False, server_default=text("false")),
    schema=SCHEMA,
)
# A row may come from the release alone, when that is heard first.
leases = Table(
    "leases",
    metadata,
    Column("lease_id", Uuid, primary_key=True),
    Column("host_id", String),
    Column("device_kind", String),
    Column("device_indexes", ARRAY(Integer)),
    Column("released_at", TIME),
    schema=SCHEMA,
)
plans = Table(
    "plans",
    metadata,
    Column("plan_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False, unique=True),
    Column("recipe_hash", String, nullable=False),
    Column("plan", JSONB),
    Column("problem", JSONB),
    Column("made_at", TIME, nullable=False, server_default=func.now()),
    Column("algorithm", String),
    schema=SCHEMA,
)
measurements = Table(
    "measurements",
    metadata,
    Column("attempt_id", Uuid, primary_key=True),
    Column("quantity", String, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("group", String, nullable=False),
    Column("predicted", Float, nullable=False),
    Column("measured", Float, nullable=False),
    Column("plan", JSONB, nullable=False),  # the evidence: what was predicted for
    Column("measured_at", TIME, nullable=False, server_default=func.now()),
    schema=SCHEMA,
)
Index("ix_measurements_group", measurements.c.group, measurements.c.quantity, measurements.c.measured_at)
drifts = Table(
    "drifts",
    metadata,
    Column("group", String, primary_key=True),
    Column("quantity", String, primary_key=True),
    Column("above", Float, nullable=False),
    Column("below", Float, nullable=False),
    Column("alarmed", Boolean, nullable=False),
    schema=SCHEMA,
)
# Newer runs say more about the software of today than older ones, and an interval needs no more.
_WINDOW = 400


async def see_host(unit: Unit, seen: HostSeen) -> None:
    """Note a host as it describes itself now."""
    values = {
        "devices": [d.model_dump() for d in seen.devices],
        "memory_bytes": seen.memory_bytes,
        "cpus": seen.cpus,
        "seen_at": now(),
        "flash_attention": seen.flash_attention,
    }
    statement = insert(hosts).values(host_id=seen.host_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["host_id"], set_=values))


async def note_lease(unit: Unit, lease_id: UUID, **values: Any) -> None:
    """Note that a lease was granted or released, in whatever order that is heard."""
    statement = insert(leases).values(lease_id=lease_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["lease_id"], set_=values))


async def forget_host(unit: Unit, host_id: str) -> None:
    """Plan for a host no more."""
    await unit.execute(delete(hosts).where(hosts.c.host_id == host_id))


async def known_hosts(unit: Unit) -> list[HostFacts]:
    """All hosts that ever said what they have, with what is free of devices that nobody leases."""
    rows = (await unit.execute(select(hosts).order_by(hosts.c.host_id))).mappings().all()
    held = (await unit.execute(select(leases).where(leases.c.host_id.is_not(None)))).mappings().all()
    return [_facts(row, [lease for lease in held if lease["host_id"] == row["host_id"]]) for row in rows]


def _facts(row: RowMapping, held: Sequence[RowMapping]) -> HostFacts:
    devices = [Device.model_validate(device) for device in row["devices"]]
    # What our own runs hold comes back when they end; a look from before their end still counts it as taken.
    ours = {
        (lease["device_kind"], index)
        for lease in held
        if lease["released_at"] is None or lease["released_at"] >= row["seen_at"]
        for index in lease["device_indexes"]
    }
    free: dict[tuple[Kind, int], int] = {
        (device.kind, device.index): device.free_bytes
        for device in devices
        if device.free_bytes is not None and (device.kind, device.index) not in ours
    }
    return HostFacts(
        row["host_id"], devices, row["memory_bytes"], row["cpus"], free, flash_attention=row["flash_attention"]
    )


async def save(unit: Unit, plan_id: UUID, job_id: UUID, *, plan: Any = None, problem: Any = None, **facts: str) -> None:
    """Keep what was decided for a job; `facts` are recipe_hash and algorithm."""
    values = {"plan_id": plan_id, "job_id": job_id, "plan": plan, "problem": problem, **facts}
    await unit.execute(insert(plans).values(**values).on_conflict_do_nothing())


async def plan_of_job(unit: Unit, job_id: UUID) -> tuple[str, Plan] | None:
    """Algorithm and plan of a job; None when it was refused or planned before algorithms were kept."""
    query = select(plans.c.algorithm, plans.c.plan).where(plans.c.job_id == job_id)
    row = (await unit.execute(query)).one_or_none()
    return (
        None
        if row is None or row.plan is None or row.algorithm is None
        else (row.algorithm, Plan.model_validate(row.plan))
    )


async def add_measurement(unit: Unit, values: dict[str, Any]) -> bool:
    """Keep a pair with its evidence; False when it is there already."""
    return await unit.change(insert(measurements).values(**values).on_conflict_do_nothing()) == 1


async def pairs(unit: Unit, quantity: str, group: str | None = None) -> dict[str, list[Pair]]:
    """The newest pairs of each group, oldest first."""
    query = select(measurements).where(measurements.c.quantity == quantity)
    if group is not None:
        query = query.where(measurements.c.group == group)
    query = query.order_by(measurements.c.measured_at.desc(), measurements.c.attempt_id.desc()).limit(_WINDOW * 10)
    found: dict[str, list[Pair]] = {}
    for row in (await unit.execute(query)).mappings():
        known = found.setdefault(row["group"], [])
        if len(known) < _WINDOW:
            known.insert(0, Pair(row["predicted"], row["measured"]))
    return found


async def lock_drift(unit: Unit, group: str, quantity: str) -> tuple[Drift, bool]:
    """State of the drift test of a group, held until the unit ends, and whether its alarm was raised."""
    start = {"group": group, "quantity": quantity, "above": 0.0, "below": 0.0, "alarmed": False}
    await unit.execute(insert(drifts).values(**start).on_conflict_do_nothing())
    query = select(drifts).where(drifts.c.group == group, drifts.c.quantity == quantity).with_for_update()
    row = (await unit.execute(query)).mappings().one()
    return Drift(row["above"], row["below"]), row["alarmed"]


async def save_drift(unit: Unit, group: str, quantity: str, state: Drift, alarmed: bool) -> None:
    """Keep the test's state."""
    where = (drifts.c.group == group, drifts.c.quantity == quantity)
    await unit.execute(update(drifts).where(*where).values(above=state.above, below=state.below, alarmed=alarmed))
