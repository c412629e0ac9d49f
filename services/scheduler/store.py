"""The scheduler's tables and every statement it runs on them: jobs, attempts, hosts, leases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ARRAY, Boolean, Column, Integer, String, Table, Uuid, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from ltp.contracts.host import HostSeen
from ltp.contracts.plan import PlanMade
from ltp.contracts.values import Device, Placement
from ltp.core.lifecycle import JOB, JobState
from ltp.queue.tables import work
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from services.scheduler.policy import DeviceKind, HostState, Waiting

SCHEMA = "scheduler"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("state", String, nullable=False),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("run_id", Uuid),
    Column("made", JSONB),  # the PlanMade event: recipe, dataset, plan
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("checkpoint_path", String),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    schema=SCHEMA,
)
hosts = Table(
    "hosts",
    metadata,
    Column("host_id", String, primary_key=True),
    Column("devices", JSONB, nullable=False),
    Column("seen_at", TIME, nullable=False),
    schema=SCHEMA,
)
leases = Table(
    "leases",
    metadata,
    Column("lease_id", Uuid, primary_key=True),
    Column("work_id", Uuid, nullable=False, unique=True),
    Column("host_id", String, nullable=False),
    Column("device_kind", String, nullable=False),
    Column("device_indexes", ARRAY(Integer), nullable=False),
    Column("granted_at", TIME, nullable=False, server_default=func.now()),
    Column("released_at", TIME),
    schema=SCHEMA,
)


@dataclass(frozen=True)
class Job:
    """A job as the scheduler sees it."""

    job_id: UUID
    state: JobState
    cancel_requested: bool
    run_id: UUID | None
    made: PlanMade | None
    attempt: int
    checkpoint_path: str | None


async def open_job(unit: Unit, job_id: UUID) -> None:
    """Note a job; a second call changes nothing."""
    await unit.execute(insert(jobs).values(job_id=job_id, state=JOB.initial).on_conflict_do_nothing())


async def lock_job(unit: Unit, job_id: UUID) -> Job | None:
    """Read a job and hold its row until the unit ends, so that events about one job take effect one after the other."""
    row = (await unit.execute(select(jobs).where(jobs.c.job_id == job_id).with_for_update())).mappings().one_or_none()
    if row is None:
        return None
    made = None if row["made"] is None else PlanMade.model_validate(row["made"])
    state = JobState(row["state"])
    return Job(job_id, state, row["cancel_requested"], row["run_id"], made, row["attempt"], row["checkpoint_path"])


async def move(unit: Unit, job_id: UUID, target: JobState, **values: Any) -> bool:
    """Advance a job if the lifecycle allows it from where it stands; False when it does not."""
    if JOB.is_over(target):
        values["ended_at"] = now()
    statement = update(jobs).where(jobs.c.job_id == job_id, jobs.c.state.in_(sorted(JOB.sources(target))))
    return await unit.change(statement.values(state=target, **values)) == 1


async def note(unit: Unit, job_id: UUID, **values: Any) -> None:
    """Record facts about a job that do not change its state."""
    await unit.execute(update(jobs).where(jobs.c.job_id == job_id).values(**values))


async def see_host(unit: Unit, seen: HostSeen) -> None:
    """Note a host's devices as it says them now."""
    values = {"devices": [d.model_dump() for d in seen.devices], "seen_at": now()}
    statement = insert(hosts).values(host_id=seen.host_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["host_id"], set_=values))


async def waiting_work(unit: Unit) -> list[Waiting]:
    """Work that wants devices and has none, in the order of its turn."""
    query = select(work.c.id, work.c.wants).where(
        work.c.state == "queued", work.c.wants.is_not(None), work.c.placement.is_(None), work.c.run_at <= now()
    )
    rows = (await unit.execute(query.order_by(work.c.sort_at, work.c.id))).all()
    return [Waiting(row.id, int(row.wants["count"]), cast(DeviceKind, row.wants["kind"])) for row in rows]


async def host_states(unit: Unit) -> list[HostState]:
    """Hosts with what is leased on them. Locks the hosts, so that two schedulers cannot grant the same device."""
    seen = (await unit.execute(select(hosts).order_by(hosts.c.host_id).with_for_update())).mappings().all()
    held = (await unit.execute(select(leases).where(leases.c.released_at.is_(None)))).mappings().all()
    states: list[HostState] = []
    for host in seen:
        taken: dict[DeviceKind, frozenset[int]] = {"cpu": frozenset(), "gpu": frozenset()}
        for lease in held:
            if lease["host_id"] == host["host_id"]:
                taken[lease["device_kind"]] |= frozenset(lease["device_indexes"])
        states.append(HostState(host["host_id"], [Device.model_validate(d) for d in host["devices"]], taken))
    return states


async def grant(unit: Unit, work_id: UUID, placement: Placement) -> tuple[UUID, str] | None:
    """Lease devices to work and let it be claimed. Returns the lease and the kind of work; None when it is gone."""
    kind = (
        await unit.execute(
            update(work)
            .where(work.c.id == work_id, work.c.state == "queued", work.c.placement.is_(None))
            .values(placement=placement.model_dump())
            .returning(work.c.kind)
        )
    ).scalar_one_or_none()
    if kind is None:
        return None
    lease_id = new_id()
    await unit.execute(insert(leases).values(lease_id=lease_id, work_id=work_id, **placement.model_dump()))
    return lease_id, kind


async def release_ended(unit: Unit) -> list[tuple[UUID, UUID]]:
    """Free the devices of work that is over; returns (lease, work) of each."""
    over = select(work.c.id).where(work.c.state.in_(["done", "failed", "cancelled"]))
    statement = (
        update(leases)
        .where(leases.c.released_at.is_(None), leases.c.work_id.in_(over))
        .values(released_at=now())
        .returning(leases.c.lease_id, leases.c.work_id)
    )
    return [(row.lease_id, row.work_id) for row in (await unit.execute(statement)).all()]
