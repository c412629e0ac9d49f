"""What workers promise: done work is settled, killers are found out alone, cancelled work ends, and a stop loses nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue import monitor
from ltp.queue.policy import MAX_DEATHS, Queue
from ltp.queue.work import NewWork, Work, enqueue_many, finish
from ltp.queue.worker import Held, Worker
from ltp.store.database import Unit
from tests.conftest import until
from tests.service.queue.conftest import Bench, working

PAST = timedelta(seconds=-1)


class Notes:
    """What was done, and what was told as failed."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: dict[str, str] = {}

    async def handle(self, held: Held) -> None:
        self.done.append(held.work.payload["key"])

    async def tell(self, _: Unit, work: Work, problem: Problem) -> None:
        self.failed[work.payload["key"]] = problem.code

    def worker(self, bench: Bench, **options: Any) -> Worker:
        options = {"handler": self.handle, "settles": True, "poll_seconds": 0.02} | options
        return Worker(bench.database, "embed", "w", on_failed=self.tell, **options)


async def test_work_whose_workers_keep_dying_is_kept_dead_and_the_rest_is_done(bench: Bench) -> None:
    await bench.put("killer")
    for _ in range(MAX_DEATHS + 1):
        held = await bench.take(PAST)
        assert held is not None and held.payload["key"] == "killer"
    await bench.put("innocent")
    notes = Notes()
    async with working(notes.worker(bench)):
        await until(lambda: notes.done and notes.failed)
    assert (notes.done, notes.failed) == (["innocent"], {"killer": "worker_killed"})
    row = await bench.row("killer")
    assert row["state"] == "failed" and "ltp work retry" in row["problem"]["hint"]


async def test_work_that_only_is_watched_survives_any_number_of_watchers(bench: Bench) -> None:
    await bench.put("run")
    for _ in range(3 * MAX_DEATHS):
        assert await bench.take(PAST) is not None
    notes = Notes()
    async with working(notes.worker(bench, max_deaths=None)):
        await until(lambda: notes.done == ["run"])


async def test_a_suspect_is_done_alone(bench: Bench) -> None:
    await bench.put("suspect")
    for _ in range(3):
        assert await bench.take(PAST) is not None
    for index in range(3):
        await bench.put(str(index))
    hold, inside, company = asyncio.Event(), set[str](), list[set[str]]()

    async def handle(held: Held) -> None:
        inside.add(held.work.payload["key"])
        if held.work.payload["key"] == "suspect":
            await hold.wait()
            company.append(set(inside))
        inside.discard(held.work.payload["key"])

    notes = Notes()
    async with working(notes.worker(bench, handler=handle, concurrency=8)):
        await until(lambda: "suspect" in inside)
        await bench.put("newcomer")
        # The worker looks many times in this while.
        await asyncio.sleep(0.2)
        hold.set()
        await until(lambda: _is(bench, ["done"] * 5))
    assert company == [{"suspect"}]


async def test_a_worker_that_stops_hands_its_work_on_at_once(bench: Bench) -> None:
    started, notes = asyncio.Event(), Notes()

    async def hang(_: Held) -> None:
        started.set()
        await asyncio.Event().wait()

    await bench.put("a")
    async with working(notes.worker(bench, handler=hang, lease=timedelta(hours=1))):
        await asyncio.wait_for(started.wait(), 5)
    async with working(notes.worker(bench)):
        await until(lambda: notes.done == ["a"])
        await until(lambda: _is(bench, ["done"]))
    row = await bench.row("a")
    assert row["deaths"] == 0


async def test_waiting_work_that_is_cancelled_ends_without_being_done_and_the_world_is_told(bench: Bench) -> None:
    work_id = await bench.put("a", wants={"count": 1, "kind": "gpu"})
    assert work_id is not None
    notes = Notes()
    async with working(notes.worker(bench)):
        for _ in range(2):  # A second request changes nothing.
            async with bench.database.unit() as unit:
                await monitor.cancel_work(unit, work_id)
        await until(lambda: _is(bench, ["cancelled"]))
    assert (notes.done, notes.failed) == ([], {"a": "cancelled"})


async def test_dead_work_is_tried_again_on_request(bench: Bench) -> None:
    work_id = await bench.put("a", priority=3)
    assert work_id is not None
    broken, notes = [True], Notes()

    async def handle(held: Held) -> None:
        if broken[0]:
            raise LtpError(ErrorCode.DATASET_EMPTY, "Nothing in it.")
        await notes.handle(held)

    async with working(notes.worker(bench, handler=handle)):
        await until(lambda: _is(bench, ["failed"]))
        async with bench.database.unit() as unit:
            assert [row["dedup_key"] for row in await monitor.untold_deaths(unit)] == ["a"]
        async with bench.database.unit() as unit:
            assert await monitor.untold_deaths(unit) == []
        broken[0] = False
        async with bench.database.unit() as unit:
            assert await monitor.retry_dead(unit, work_id)
            assert not await monitor.retry_dead(unit, work_id)
        await until(lambda: _is(bench, ["done"]))
    assert notes.done == ["a"]


async def test_a_late_result_that_the_worker_settles_is_discarded(bench: Bench) -> None:
    await bench.put("a")
    started, hold, notes = asyncio.Event(), asyncio.Event(), Notes()

    async def handle(held: Held) -> None:
        started.set()
        await hold.wait()

    worker = notes.worker(bench, handler=handle)
    async with working(worker):
        await asyncio.wait_for(started.wait(), 5)
        # Nothing else may take it over: the worker itself looks for silent ones.
        worker.kind = "another"
        heir = None
        while heir is None:
            # Its heartbeat may come in between.
            async with bench.database.unit() as unit:
                await unit.execute(text("UPDATE queue.work SET lease_until = now() - interval '1 s'"))
            heir = await bench.take()
        hold.set()
        await until(lambda: not worker._tasks and not worker._finished)
        async with bench.database.unit() as unit:
            await finish(unit, heir)
    assert (await bench.row("a"))["state"] == "done"


async def test_workers_are_listed_with_what_they_hold_until_they_stop(bench: Bench) -> None:
    await bench.put("a")
    hold, notes = asyncio.Event(), Notes()

    async def handle(_: Held) -> None:
        await hold.wait()

    async def listed() -> list[Any]:
        async with bench.database.unit() as unit:
            return [row for row in await monitor.list_workers(unit) if row["alive"] and row["holds"]]

    async with working(notes.worker(bench, handler=handle)):
        await until(listed)
        assert [each["dedup_key"] for each in (await listed())[0]["holds"]] == ["a"]
        hold.set()
    async with bench.database.unit() as unit:
        assert await monitor.list_workers(unit) == []


async def test_an_outage_of_the_database_is_waited_out(bench: Bench) -> None:
    notes = Notes()
    # A claim whose answer was lost with the connection is taken over when its lease ends.
    worker = notes.worker(bench, lease=timedelta(seconds=2))
    async with working(worker):
        await bench.put("before")
        await until(lambda: notes.done == ["before"])
        async with bench.database.engine.connect() as connection:
            await connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND datname = current_database()"
                )
            )
        await bench.put("after")
        await until(lambda: notes.done == ["before", "after"])
        await until(lambda: _is(bench, ["done", "done"]))


async def test_what_is_put_in_together_gets_in_once_each(bench: Bench) -> None:
    news = [NewWork(Queue.DEFAULT, "embed", {"key": str(i)}, str(i)) for i in range(20)]

    async def put(some: list[NewWork]) -> list[UUID | None]:
        async with bench.database.unit() as unit:
            return await enqueue_many(unit, some)

    one, other = await asyncio.gather(put(news[:15]), put(news[10:]))
    assert {found for found in one + other if found is not None} == {new.id for new in news}
    assert one.count(None) + other.count(None) == 5
    assert len(await bench.states()) == 20


async def _is(bench: Bench, states: list[str]) -> bool:
    return await bench.states() == sorted(states)
