"""Schedules on a real database: each tick once however many fire, what meets or was missed goes as its policy says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import delete, func, select, update

from ltp.contracts.pages import PageQuery
from ltp.contracts.schedule import ScheduleChangeRequested, ScheduleSpec, SchedulesRequest, ScheduleSubmitted
from ltp.queue.tables import work, workers
from ltp.queue.work import claim
from ltp.queue.worker import Held
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.store.metadata import outbox_table
from services.scheduler.hosts import hosts
from services.scheduler.schedules import handlers, store
from services.scheduler.schedules.firing import MAINTAIN, end_action, fire_forever, fire_once
from services.scheduler.schedules.maintenance import BUILTIN, ensure_builtin, maintain
from services.scheduler.schedules.store import schedules, ticks
from tests.conftest import until

CHORE = {"kind": "maintenance", "task": "host-probe"}
RECIPE = {
    "name": "r",
    "model": {"path": "/m"},
    "dataset": {"name": "d"},
    "training": {"steps": 1, "batch_size": 1, "learning_rate": 0.1},
}
PIPELINE = {"name": "p", "stages": {"data": {"kind": "dataset", "settings": {"name": "d"}}}}


@dataclass
class Desk:
    """A scheduler's database, and the runtime as the firing loop sees it."""

    database: Database

    @property
    def runtime(self) -> Any:
        return SimpleNamespace(database=self.database)

    async def create(self, name: str = "s", **given: Any) -> UUID:
        schedule_id = new_id()
        spec = ScheduleSpec.model_validate({"name": name, "action": CHORE} | given)
        submitted = ScheduleSubmitted(schedule_id=schedule_id, spec=spec, submitted_at=now())
        async with self.database.unit() as unit:
            await handlers.add(submitted, unit)
        return schedule_id

    async def ask(self, schedule_id: UUID, change: Any) -> None:
        request = ScheduleChangeRequested(
            change_id=new_id(), schedule_id=schedule_id, change=change, requested_at=now()
        )
        async with self.database.unit() as unit:
            await handlers.change(request, unit)

    async def set(self, schedule_id: UUID, **values: Any) -> None:
        async with self.database.unit() as unit:
            await unit.execute(update(schedules).where(schedules.c.schedule_id == schedule_id).values(**values))

    async def due_since(self, schedule_id: UUID, ago: timedelta) -> None:
        """As if nobody had fired for a while."""
        at = now() - ago
        await self.set(schedule_id, created_at=at - timedelta(days=1), next_at=at, fire_at=at)

    async def fire(self, at: datetime | None = None) -> int:
        return await fire_once(self.runtime, at or now())

    async def ticks(self, schedule_id: UUID) -> list[Any]:
        return sorted(
            await store.ticks_of(self.database.engine, schedule_id, PageQuery(limit=1000)),
            key=lambda row: row["due_at"],
        )

    async def states(self, schedule_id: UUID) -> list[str]:
        return [tick["state"] for tick in await self.ticks(schedule_id)]

    async def end_running(self, schedule_id: UUID) -> None:
        running = [tick for tick in await self.ticks(schedule_id) if tick["state"] == "running"]
        async with self.database.unit() as unit:
            await end_action(unit, running[0]["noun_id"], "succeeded")

    async def works(self) -> list[Any]:
        async with self.database.unit() as unit:
            return list((await unit.execute(select(work).order_by(work.c.id))).mappings().all())

    async def said(self, name: str) -> list[Any]:
        outbox = outbox_table("scheduler")
        async with self.database.unit() as unit:
            query = select(outbox.c.payload).where(outbox.c.subject == f"ltp.schedule.v1.{name}")
            return [json.loads(payload) for payload in (await unit.execute(query)).scalars()]


@pytest_asyncio.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    database = Database.connect(database_url, "scheduler")
    yield Desk(database)
    await database.close()


async def test_two_loops_fire_each_of_two_hundred_schedules_once(desk: Desk) -> None:
    for index in range(200):
        await desk.due_since(await desk.create(f"s{index}", every_seconds=3600), timedelta(seconds=1))
    loops = [asyncio.create_task(fire_forever(desk.runtime, asyncio.Event())) for _ in range(2)]

    async def fired() -> bool:
        return len(await desk.works()) >= 200

    await until(fired)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    assert await desk.fire() == 0
    async with desk.database.unit() as unit:
        found = (await unit.execute(select(ticks.c.schedule_id, ticks.c.state))).all()
    assert Counter(row.schedule_id for row in found).most_common(1)[0][1] == 1
    assert len(found) == 200 and {row.state for row in found} == {"running"}
    assert len(await desk.works()) == 200 and len(await desk.said("fired")) == 200


async def test_a_tick_that_was_noted_before_is_not_fired_again(desk: Desk) -> None:
    schedule_id = await desk.create(every_seconds=60)
    await desk.due_since(schedule_id, timedelta(seconds=1))
    due_at = now() - timedelta(seconds=1)
    for _ in range(2):
        # A database restored from a moment before the tick asks for the same instant again.
        await desk.set(schedule_id, next_at=due_at, fire_at=due_at)
        await desk.fire()
    assert await desk.states(schedule_id) == ["running"]
    assert len(await desk.works()) == 1


@pytest.mark.parametrize(
    ("overlap", "then", "after_end"),
    [
        ("skip", ["running", "skipped", "skipped"], ["succeeded", "skipped", "skipped"]),
        ("queue-one", ["running", "waiting", "skipped"], ["succeeded", "running", "skipped"]),
        ("allow", ["running", "running", "running"], None),
    ],
)
async def test_ticks_that_meet(desk: Desk, overlap: str, then: list[str], after_end: list[str] | None) -> None:
    schedule_id = await desk.create(every_seconds=60, overlap=overlap)
    await desk.due_since(schedule_id, timedelta(seconds=1))
    for step in range(3):
        await desk.fire(now() + timedelta(seconds=60 * step))
    assert await desk.states(schedule_id) == then
    assert len(await desk.said("tick-missed")) == then.count("skipped")
    if after_end is not None:
        await desk.end_running(schedule_id)
        assert await desk.states(schedule_id) == after_end
        assert len(await desk.works()) == after_end.count("running") + 1


@pytest.mark.parametrize(("catch_up", "fired"), [("none", 0), ("last", 1), ("all", 3)])
async def test_what_was_missed_for_ten_minutes(desk: Desk, catch_up: str, fired: int) -> None:
    schedule_id = await desk.create(every_seconds=60, catch_up=catch_up, catch_up_limit=3, overlap="allow")
    # The newest is 40 s late: later than the grace, so all ten were missed.
    await desk.due_since(schedule_id, timedelta(seconds=9 * 60 + 40))
    await desk.fire()
    states = await desk.states(schedule_id)
    assert states == ["missed"] * (10 - fired) + ["running"] * fired
    assert len(await desk.works()) == fired
    assert await desk.fire() == 0


async def test_a_paused_schedule_fires_nothing_and_catches_nothing_up(desk: Desk) -> None:
    schedule_id = await desk.create(every_seconds=60, catch_up="all")
    await desk.due_since(schedule_id, timedelta(minutes=5))
    await desk.ask(schedule_id, "pause")
    assert await desk.fire() == 0
    await desk.ask(schedule_id, "resume")
    assert await desk.fire() == 0
    assert await desk.states(schedule_id) == []
    row = await store.find(desk.database.engine, "s")
    assert row is not None and row["state"] == "active" and row["next_at"] > now()
    assert [said["change"] for said in await desk.said("changed")] == ["pause", "resume"]


async def test_run_now_fires_once_also_when_asked_twice_while_it_works(desk: Desk) -> None:
    schedule_id = await desk.create(every_seconds=3600, paused=True)
    await desk.ask(schedule_id, "run-now")
    await desk.ask(schedule_id, "run-now")
    assert await desk.states(schedule_id) == ["running", "skipped"]
    assert (await desk.said("fired"))[0]["by_hand"] is True


async def test_across_the_change_of_the_clock_each_day_has_its_tick(desk: Desk) -> None:
    """Europe/Berlin, 29 March 2026: 02:30 does not exist, and comes at 03:00 (01:00 UTC)."""
    schedule_id = await desk.create(cron="30 2 * * *", timezone="Europe/Berlin", overlap="allow")
    at = datetime.fromisoformat("2026-03-28T01:30:00+00:00")
    await desk.set(schedule_id, created_at=at, next_at=at, fire_at=at)
    hour = at - timedelta(minutes=30)
    while hour < at + timedelta(days=3):
        await desk.fire(hour)
        hour += timedelta(minutes=10)
    fired = [f"{tick['due_at']:%d %H:%M}" for tick in await desk.ticks(schedule_id)]
    assert fired == ["28 01:30", "29 01:00", "30 00:30", "31 00:30"]


@pytest.mark.parametrize(
    ("action", "what", "body"),
    [
        ({"kind": "job", "recipe": RECIPE}, "job", "name"),
        ({"kind": "pipeline", "pipeline": PIPELINE}, "pipeline", "spec"),
    ],
)
async def test_a_job_or_a_pipeline_is_put_to_the_door_and_its_end_ends_the_tick(
    desk: Desk, action: dict[str, Any], what: str, body: str
) -> None:
    schedule_id = await desk.create(every_seconds=60, action=action)
    await desk.due_since(schedule_id, timedelta(seconds=1))
    await desk.fire()
    (tick,), (put,) = await desk.ticks(schedule_id), await desk.works()
    assert put["kind"] == "admit" and put["queue"] == "default"
    assert put["payload"]["what"] == what and put["payload"]["noun_id"] == str(tick["noun_id"])
    assert body in put["payload"]["body"]
    await desk.end_running(schedule_id)
    await desk.set(schedule_id, state="paused")
    assert await desk.states(schedule_id) == ["succeeded"]


async def test_the_platforms_own_chores_are_made_once_and_stay_as_users_changed_them(desk: Desk) -> None:
    await asyncio.gather(ensure_builtin(desk.database), ensure_builtin(desk.database))
    row = await store.find(desk.database.engine, "host-probe")
    assert row is not None
    await desk.ask(row["schedule_id"], "pause")
    await ensure_builtin(desk.database)
    rows = await store.page(desk.database.engine, SchedulesRequest())
    assert sorted(row["name"] for row in rows) == sorted(BUILTIN)
    assert {row["name"]: row["state"] for row in rows}["host-probe"] == "paused"


async def chore_done_now(desk: Desk, schedule_id: UUID) -> dict[str, Any]:
    """Run a chore of the platform and give its one tick."""
    await desk.ask(schedule_id, "run-now")
    async with desk.database.unit() as unit:
        held = await claim(unit, [MAINTAIN], "w", timedelta(minutes=1))
    assert held is not None
    await maintain(Held(held), desk.database)
    (tick,) = await desk.ticks(schedule_id)
    return tick


async def test_retention_forgets_old_work_and_silent_workers_and_says_how_much(desk: Desk) -> None:
    schedule_id = await desk.create(every_seconds=3600, action={"kind": "maintenance", "task": "work-retention"})
    old, fresh = now() - timedelta(days=20), now() - timedelta(days=1)
    async with desk.database.unit() as unit:
        base: dict[str, Any] = {"queue": "default", "kind": "x", "payload": {}, "sort_at": old, "run_at": old}
        for key, state, ended in (
            ("a", "done", old),
            ("b", "failed", old),
            ("c", "done", fresh),
            ("d", "queued", None),
        ):
            values = base | {"id": new_id(), "dedup_key": key, "state": state, "ended_at": ended}
            await unit.execute(work.insert().values(**values))
        for name, seen in (("gone", old), ("here", now())):
            known = {"name": name, "kind": "x", "host": "h", "pid": 1, "concurrency": 1, "seen_at": seen}
            await unit.execute(workers.insert().values(**known))
    tick = await chore_done_now(desk, schedule_id)
    assert tick["result"] == {"deleted": {"done": 1, "failed": 0, "ticks": 0, "workers": 1}}
    assert {row["dedup_key"] for row in await desk.works() if row["kind"] == "x"} == {"b", "c", "d"}


async def test_a_schedule_that_is_deleted_while_its_tick_works_is_gone(desk: Desk) -> None:
    schedule_id = await desk.create(every_seconds=60)
    await desk.due_since(schedule_id, timedelta(seconds=1))
    await desk.fire()
    (tick,) = await desk.ticks(schedule_id)
    await desk.ask(schedule_id, "delete")
    async with desk.database.unit() as unit:
        await end_action(unit, cast("UUID", tick["noun_id"]), "succeeded")
        left = (await unit.execute(select(func.count()).select_from(ticks))).scalar_one()
        await unit.execute(delete(work))
    assert left == 0 and await desk.fire() == 0


async def test_the_probe_tells_of_hosts_that_were_never_heard_and_forgets_removed_ones(desk: Desk) -> None:
    schedule_id = await desk.create(every_seconds=3600, action=CHORE)
    async with desk.database.unit() as unit:
        base: dict[str, Any] = {"devices": [], "memory_bytes": 0}
        for name, seen, removed in (("here", now(), None), ("never", None, None), ("gone", None, now())):
            await unit.execute(hosts.insert().values(host_id=name, seen_at=seen, removed_at=removed, **base))
    tick = await chore_done_now(desk, schedule_id)
    assert tick["result"] == {"hosts": 2, "silent": [{"host_id": "never", "silent_seconds": None, "leases": 0}]}
