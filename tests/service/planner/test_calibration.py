"""What finished runs teach the planner, through its real handlers and a real database."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from ltp.contracts.attempt import AttemptSucceeded, Measured
from ltp.contracts.calibration import CalibrationDrifted, CalibrationUpdated
from ltp.contracts.host import HostSeen
from ltp.contracts.values import Device, Plan
from ltp.core.memory import GIB
from ltp.planning.choice import choose
from ltp.planning.pools import described_host
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.store.metadata import outbox_table
from services.planner import store
from services.planner.calibration import allocated_bytes, intervals, observations
from services.planner.handlers import learn
from tests.plan_grid import architecture
from tests.unit.planning.recipes import recipe

GROUP = "H200:sft"


@pytest.fixture
def plan() -> Plan:
    return choose(recipe(resources={"device_kind": "gpu"}), architecture("qwen2.5-0.5b"), [described_host("h200")])


@pytest.fixture
async def database(database_url: str) -> Any:
    opened = Database.connect(database_url, "planner")
    yield opened
    await opened.close()


async def run(database: Database, plan: Plan, factor: float, attempt_id: UUID | None = None) -> UUID:
    """A job whose run needed `factor` times what was predicted."""
    job_id = new_id()
    seen = Measured(allocated_bytes=int(allocated_bytes(plan) * factor), lines=3)
    ended = AttemptSucceeded(
        attempt_id=attempt_id or new_id(),
        run_id=uuid4(),
        job_id=job_id,
        steps=3,
        ended_at=now(),
        measured=seen,
        plan=plan,
    )
    async with database.unit() as unit:
        await store.save(unit, new_id(), job_id, plan=plan.model_dump(), recipe_hash="0" * 64, algorithm="sft")
        await learn(ended, unit)
    return job_id


async def said(database: Database, subject: str) -> list[Any]:
    outbox = outbox_table("planner")
    async with database.engine.connect() as connection:
        rows = await connection.execute(select(outbox.c.payload).where(outbox.c.subject == subject))
        return [row.payload for row in rows]


async def test_a_run_that_needed_more_widens_the_interval_and_the_next_plan(database: Database, plan: Plan) -> None:
    for factor in (1.0, 1.01, 1.2):
        await run(database, plan, factor)
    async with database.unit() as unit:
        margins = intervals(await store.pairs(unit, "memory"))
    assert margins[GROUP].pairs == 3 and margins[GROUP].upper >= 1.19
    again = choose(
        recipe(resources={"device_kind": "gpu", "micro_batch_size": plan.micro_batch_size}),
        architecture("qwen2.5-0.5b"), [described_host("h200")], margins=margins,
    )  # fmt: skip
    assert again.memory_upper_bytes > plan.memory_upper_bytes
    updates = [
        CalibrationUpdated.model_validate_json(body) for body in await said(database, CalibrationUpdated.subject)
    ]
    assert [update.pairs for update in updates] == [1, 2, 3]
    assert updates[-1].error == pytest.approx(0.2, abs=1e-6) and updates[-1].group == GROUP


async def test_the_same_end_heard_twice_counts_once(database: Database, plan: Plan) -> None:
    attempt = new_id()
    await run(database, plan, 1.02, attempt)
    await run(database, plan, 1.02, attempt)
    async with database.unit() as unit:
        assert len((await store.pairs(unit, "memory"))[GROUP]) == 1


async def test_drift_raises_one_alarm(database: Database, plan: Plan) -> None:
    for _ in range(6):
        await run(database, plan, 1.08)
    alarms = [CalibrationDrifted.model_validate_json(body) for body in await said(database, CalibrationDrifted.subject)]
    assert [(alarm.group, alarm.direction) for alarm in alarms] == [(GROUP, "too-low")]


async def test_short_rows_prove_nothing(database: Database, plan: Plan) -> None:
    for _ in range(6):
        await run(database, plan, 0.4)
    assert await said(database, CalibrationDrifted.subject) == []
    async with database.unit() as unit:
        assert intervals(await store.pairs(unit, "memory"))[GROUP].pairs == 0


async def test_a_leased_device_is_planned_whole_and_a_crowded_one_is_not(database: Database) -> None:
    gpus = [
        Device(index=n, kind="gpu", model="NVIDIA H200", memory_bytes=140 * GIB, free_bytes=free * GIB)
        for n, free in ((0, 10), (1, 30), (2, 139))
    ]
    lease = new_id()
    async with database.unit() as unit:
        await store.note_lease(unit, lease, host_id="h", device_kind="gpu", device_indexes=[0])
        await store.see_host(
            unit, HostSeen(host_id="h", name="h", backend="local", devices=gpus, memory_bytes=GIB, cpus=1)
        )
        assert (await store.known_hosts(unit))[0].free == {("gpu", 1): 30 * GIB, ("gpu", 2): 139 * GIB}
        await store.note_lease(unit, lease, released_at=now())
        # Still as seen while our run held it.
        assert ("gpu", 0) not in (await store.known_hosts(unit))[0].free
        await store.see_host(
            unit, HostSeen(host_id="h", name="h", backend="local", devices=gpus, memory_bytes=GIB, cpus=1)
        )
        assert (await store.known_hosts(unit))[0].free[("gpu", 0)] == 10 * GIB


def test_a_run_on_processors_gives_no_pair(plan: Plan) -> None:
    assert list(observations(plan, "sft", Measured(lines=4))) == []
