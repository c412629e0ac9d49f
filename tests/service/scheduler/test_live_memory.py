"""What other programs hold of a host's devices, on a real Postgres: a job waits for room, and is planned again for what is free.

The host's words are what the runner makes of nvidia-smi's table, recorded on an H200 with another program on it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select, update

from ltp.contracts import REGISTRY
from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Event
from ltp.contracts.host import HostSeen
from ltp.contracts.job import JobOptions, JobOutgrown, JobSubmitted
from ltp.contracts.lease import LeaseGranted
from ltp.contracts.plan import PlanMade
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from ltp.core.memory import GIB
from ltp.queue.tables import work
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.store.metadata import inbox_table, outbox_table
from services.runner.host import parse_gpus
from services.scheduler import handlers, hosts, placement, store
from services.scheduler.why import explain_job

TABLE = "0, NVIDIA H200, 143771, {free}\n"
RECIPE = Recipe.model_validate(
    {
        "name": "r", "model": {"path": "/m"}, "dataset": {"name": "d"},
        "training": {"steps": 9, "batch_size": 1, "learning_rate": 0.1},
    }
)  # fmt: skip
DATASET = DatasetVersion(name="d", version="0" * 64, rows=1, splits={})
PLAN = Plan(
    device_kind="gpu", devices=1, micro_batch_size=1, gradient_checkpointing=False, parameters=1, memory_bytes=1,
    memory_upper_bytes=90 * GIB, device_memory_bytes=140 * GIB, memory_components={},
)  # fmt: skip
HOUR = timedelta(hours=1)


def seen(free_mib: int) -> HostSeen:
    gpus = parse_gpus(TABLE.format(free=free_mib))
    return HostSeen(host_id="a", name="a", backend="local", devices=gpus, memory_bytes=1 << 40, cpus=8)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = Database.connect(database_url, "scheduler")
    async with found.unit() as unit:
        tables = (store.jobs, hosts.hosts, hosts.leased_devices, hosts.leases, work)
        for table in (*tables, inbox_table("scheduler"), outbox_table("scheduler")):
            await unit.execute(delete(table))
    yield found
    await found.close()


async def hear(database: Database, handler: Any, event: Event) -> None:
    async with database.unit(cause=new_id()) as unit:
        await handler(event, unit)


async def place(database: Database, *, later: timedelta = timedelta()) -> list[Event]:
    """One look at what waits, as if it had waited so long; returns what the scheduler has said so far."""
    outbox = outbox_table("scheduler")
    async with database.unit() as unit:
        await unit.execute(update(work).where(work.c.state == "queued").values(enqueued_at=work.c.enqueued_at - later))
        await placement.place_once(unit, HOUR)
    async with database.unit() as unit:
        rows = (await unit.execute(select(outbox).order_by(outbox.c.id))).mappings().all()
    return [REGISTRY[row["subject"]].model_validate(json.loads(row["payload"])) for row in rows]


async def submitted(database: Database) -> UUID:
    job_id = new_id()
    job = JobSubmitted(job_id=job_id, recipe=RECIPE, recipe_hash="0" * 64, dataset=DATASET, options=JobOptions())
    await hear(database, handlers.open_job, job)
    made = PlanMade(plan_id=new_id(), job_id=job_id, recipe=RECIPE, dataset=DATASET, plan=PLAN)
    await hear(database, handlers.take_plan, made)
    return job_id


async def test_a_job_waits_for_room_and_says_who_is_in_its_way(database: Database) -> None:
    await hear(database, handlers.see_host, seen(40_000))
    job_id = await submitted(database)
    said = await place(database)
    assert not [event for event in said if isinstance(event, LeaseGranted | JobOutgrown)]
    async with database.unit() as unit:
        (reason,) = (await explain_job(unit, job_id, HOUR)).reasons
    assert reason.cause == "no_room" and "39.1 GiB" in reason.message and "90.0 GiB" in reason.message
    # The other program ends.
    await hear(database, handlers.see_host, seen(143_000))
    assert [event for event in await place(database) if isinstance(event, LeaseGranted)]


async def test_after_a_while_it_is_planned_again_for_what_is_free(database: Database) -> None:
    await hear(database, handlers.see_host, seen(40_000))
    job_id = await submitted(database)
    (asked,) = [e for e in await place(database, later=2 * HOUR) if isinstance(e, JobOutgrown)]
    assert asked.free_bytes == 40_000 << 20 and asked.plan == PLAN and asked.job_id == job_id
    # Asked once, however often it looks.
    assert len([e for e in await place(database, later=HOUR) if isinstance(e, JobOutgrown)]) == 1
    smaller = PLAN.model_copy(update={"memory_upper_bytes": 30 * GIB})
    again = PlanMade(
        plan_id=new_id(), job_id=job_id, recipe=RECIPE, dataset=DATASET, plan=smaller, after_attempt=asked.attempt
    )
    await hear(database, handlers.take_plan, again)
    assert [event for event in await place(database) if isinstance(event, LeaseGranted)]


async def test_what_our_own_run_held_a_moment_ago_is_no_other_program(database: Database) -> None:
    await hear(database, handlers.see_host, seen(143_000))
    first = await submitted(database)
    assert [event for event in await place(database) if isinstance(event, LeaseGranted)]
    # The host looks while the run is on it; then the run ends, and nobody has looked again.
    await hear(database, handlers.see_host, seen(1_000))
    async with database.unit() as unit:
        ended = update(work).where(work.c.dedup_key == f"train:{first}:1")
        await unit.execute(ended.values(state="done", ended_at=now()))
    await submitted(database)
    said = await place(database)
    assert len([event for event in said if isinstance(event, LeaseGranted)]) == 2
