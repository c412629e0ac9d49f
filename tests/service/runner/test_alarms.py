"""Alarms on a real database: raised once with their evidence, taken up by another runner, cleared when over or at the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from ltp.contracts.alarm import AlarmCleared, AlarmRaised
from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.plan import PlanMade
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Placement, Plan
from ltp.store.clock import new_id, now
from ltp.store.database import Database, Unit
from ltp.store.metadata import outbox_table
from services.runner import alarms_store
from services.runner.backends import LaunchStatus
from services.runner.backends.local import LocalBackend
from services.runner.facts import AttemptFacts
from services.runner.health_watch import HealthWatch
from services.runner.traces import read_metrics
from tests.training.runs import PLAN

pytestmark = pytest.mark.asyncio

RECIPE = Recipe.model_validate(
    {
        "name": "r", "algorithm": "grpo", "model": {"path": "/m"}, "dataset": {"name": "d"},
        "training": {"steps": 99, "batch_size": 1, "learning_rate": 0.1},
        "reinforcement": {"max_response_length": 16},
    }
)  # fmt: skip
RUNNING = LaunchStatus(1, 1, 2, 2, "running", now(), now(), None, None, None, None, alive=True)


class Watched:
    """A run directory whose metrics a test writes, and the watch on it."""

    def __init__(self, database: Database, run_dir: Path) -> None:
        self.database, self.run_dir, self.offset = database, run_dir, 0
        ids = new_id(), new_id(), new_id()
        plan = Plan.model_validate(PLAN)
        self.facts = AttemptFacts(*ids, 1, Placement(host_id="h", device_kind="cpu", device_indexes=[0]), 99, plan)
        self.made = PlanMade(
            job_id=ids[2], plan_id=new_id(), recipe=RECIPE, plan=plan,
            dataset=DatasetVersion(name="d", version="0" * 64, rows=1, splits={}),
        )  # fmt: skip
        self.holds = 0
        self.fresh()

    def fresh(self) -> None:
        """Another runner, which knows nothing."""
        self.watch = HealthWatch(self.facts, self.made, self.database, LocalBackend(), self.run_dir)

    def log(self, step: int, **values: float | None) -> None:
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            data = {name.replace("__", "/"): value for name, value in values.items()}
            file.write(json.dumps({"step": step, "data": data}) + "\n")

    async def look(self, status: LaunchStatus = RUNNING) -> None:
        await self.watch.take_up(self.offset)
        lines = await read_metrics(LocalBackend(), self.run_dir, self.offset)
        self.offset = lines[-1].end if lines else self.offset
        self.watch.add(lines)
        await self.watch.look(status, self._hold)

    async def _hold(self, unit: Unit) -> None:
        self.holds += 1

    async def said(self) -> list[tuple[str, Any]]:
        table = outbox_table("runner")
        async with self.database.engine.connect() as connection:
            rows = (await connection.execute(select(table.c.headers, table.c.payload).order_by(table.c.id))).all()
        return [(row.headers["ce-type"], json.loads(row.payload)) for row in rows]

    async def alarms(self, *, active: bool) -> list[Any]:
        return await alarms_store.of_job(self.database.engine, self.facts.job_id, active=active)


@pytest_asyncio.fixture
async def run(database_url: str, tmp_path: Path) -> AsyncIterator[Watched]:
    database = Database.connect(database_url, "runner")
    yield Watched(database, tmp_path)
    await database.close()


async def test_an_alarm_is_raised_once_with_its_evidence_and_cleared_when_over(run: Watched) -> None:
    for step in range(1, 4):
        run.log(step, actor__grad_norm=1.0)
        await run.look()
    assert run.holds == 0
    run.log(4, actor__grad_norm=None)  # verl's null is NaN
    for step in range(5, 8):
        await run.look()
        run.log(step, actor__grad_norm=1.0)
    # Another runner takes it up, and tells nothing twice.
    run.fresh()
    await run.look()
    [alarm] = await run.alarms(active=True)
    assert (alarm["rule"], alarm["severity"], alarm["step"]) == ("non_finite", "critical", 4)
    assert alarm["evidence"] == ["step 4: actor/grad_norm = nan"]
    for step in range(8, 12):
        run.log(step, actor__grad_norm=1.0)
    await run.look()
    assert await run.alarms(active=True) == []
    assert [kind for kind, _ in await run.said()] == [AlarmRaised.subject, AlarmCleared.subject]
    assert run.holds == 2


async def test_a_stall_and_a_disk_that_gets_worse(run: Watched) -> None:
    disk = {"level": "warn", "free_bytes": 1 << 30, "checkpoint_bytes": 1 << 30}
    await run.look(replace(RUNNING, disk=disk))
    await run.look(replace(RUNNING, disk={**disk, "free_bytes": 1 << 29}))
    stalled = {"since": now().isoformat(), "limit_seconds": 600, "last_step": 3, "evidence": ["in wait_for_a_peer"]}
    await run.look(replace(RUNNING, disk={**disk, "level": "alarm"}, stalled=stalled))
    found = {alarm["rule"]: alarm for alarm in await run.alarms(active=True)}
    assert {rule: alarm["severity"] for rule, alarm in found.items()} == {"disk": "critical", "stalled": "critical"}
    assert found["stalled"]["evidence"] == ["in wait_for_a_peer"]
    raised = [body["rule"] for kind, body in await run.said() if kind == AlarmRaised.subject]
    assert sorted(raised) == ["disk", "disk", "stalled"]
    async with run.database.unit() as unit:
        await run.watch.end(unit)
    assert await run.alarms(active=True) == []
    every = await run.alarms(active=False)
    assert len(every) == 3
    assert all(isinstance(alarm["cleared_at"], datetime) for alarm in every)
