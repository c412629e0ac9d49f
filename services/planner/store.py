"""The planner's tables and every statement it runs on them: hosts as last seen, plans as made."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Integer, String, Table, Uuid, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert

from ltp.contracts.host import HostSeen
from ltp.contracts.values import Device
from ltp.planning.pools import HostFacts
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
    schema=SCHEMA,
)


async def see_host(unit: Unit, seen: HostSeen) -> None:
    """Note a host as it describes itself now."""
    values = {
        "devices": [d.model_dump() for d in seen.devices],
        "memory_bytes": seen.memory_bytes,
        "cpus": seen.cpus,
        "seen_at": now(),
    }
    statement = insert(hosts).values(host_id=seen.host_id, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["host_id"], set_=values))


async def known_hosts(unit: Unit) -> list[HostFacts]:
    """All hosts that ever said what they have."""
    rows = (await unit.execute(select(hosts).order_by(hosts.c.host_id))).mappings().all()
    return [
        HostFacts(r["host_id"], [Device.model_validate(d) for d in r["devices"]], r["memory_bytes"], r["cpus"])
        for r in rows
    ]


async def save(
    unit: Unit, plan_id: UUID, job_id: UUID, recipe_hash: str, *, plan: Any = None, problem: Any = None
) -> None:
    """Keep what was decided for a job."""
    values = {"plan_id": plan_id, "job_id": job_id, "recipe_hash": recipe_hash, "plan": plan, "problem": problem}
    await unit.execute(insert(plans).values(**values).on_conflict_do_nothing())
