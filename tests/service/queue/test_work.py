"""What the queue promises over a real Postgres: each piece of work has one effect, whoever dies while doing it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import NewWork, Work, claim, enqueue, enqueue_many, extend, fail, finish, request_cancel
from ltp.queue.worker import Held, Worker
from ltp.store.database import Database, Unit
from tests.conftest import until

LEASE = timedelta(seconds=30)
PAST = timedelta(seconds=-1)


async def put(database: Database, key: str, queue: Queue = Queue.DEFAULT) -> UUID | None:
    async with database.unit() as unit:
        return (await enqueue_many(unit, [NewWork(queue, "embed", {"key": key}, key)]))[0]


async def take(database: Database, lease: timedelta = LEASE) -> Work | None:
    async with database.unit() as unit:
        return await claim(unit, ["embed"], "w", lease)


async def test_the_same_key_is_enqueued_once(database: Database) -> None:
    assert await put(database, "a") is not None
    assert await put(database, "a") is None


async def test_many_workers_take_each_piece_once(database: Database) -> None:
    for index in range(30):
        await put(database, str(index))
    taken = await asyncio.gather(*(take(database) for _ in range(40)))
    keys = [work.payload["key"] for work in taken if work]
    assert sorted(keys, key=int) == [str(i) for i in range(30)]


async def test_training_goes_before_maintenance_enqueued_a_moment_earlier(database: Database) -> None:
    await put(database, "sweep", Queue.MAINTENANCE)
    await put(database, "train", Queue.TRAINING)
    first = await take(database)
    assert first is not None
    assert first.payload["key"] == "train"


async def test_a_silent_worker_loses_its_work_and_its_late_result(database: Database) -> None:
    await put(database, "a")
    dead = await take(database, PAST)
    heir = await take(database)
    assert dead is not None and heir is not None
    assert dead.id == heir.id
    with pytest.raises(LtpError) as late:
        async with database.unit() as unit:
            await finish(unit, dead)
    assert late.value.code is ErrorCode.STALE_LEASE
    with pytest.raises(LtpError):
        async with database.unit() as unit:
            await extend(unit, dead, LEASE)
    async with database.unit() as unit:
        await finish(unit, heir)
    assert await take(database) is None


async def test_work_that_wants_devices_waits_for_a_placement(database: Database) -> None:
    async with database.unit() as unit:
        enqueue(unit, Queue.TRAINING, "embed", {}, dedup_key="d", wants={"count": 1, "kind": "gpu"})
    assert await take(database) is None


async def test_cancelling_ends_waiting_work_at_once_and_tells_running_work(database: Database) -> None:
    await put(database, "waiting")
    async with database.unit() as unit:
        assert await request_cancel(unit, "waiting")
    assert await take(database) is None
    await put(database, "running")
    work = await take(database)
    assert work is not None
    async with database.unit() as unit:
        assert not await request_cancel(unit, "running")
    async with database.unit() as unit:
        assert await extend(unit, work, LEASE)


async def test_failures_are_retried_with_a_pause_and_then_kept_with_their_evidence(database: Database) -> None:
    await put(database, "a")
    work = await take(database)
    assert work is not None
    async with database.unit() as unit:
        assert await fail(unit, work, Problem(code="internal", message="no"), retry=True)
    assert await take(database) is None  # It rests before the next try.


async def test_a_worker_does_work_and_reports_what_cannot_be_done(database: Database) -> None:
    done: list[str] = []
    failed: list[str] = []

    async def handle(held: Held) -> None:
        if held.work.payload["key"] == "bad":
            raise LtpError(ErrorCode.DATASET_EMPTY, "Nothing in it.")
        async with database.unit() as unit:
            done.append(held.work.payload["key"])
            await finish(unit, held.work)

    async def note(_: Unit, work: Work, problem: Problem) -> None:
        failed.append(problem.code)

    await put(database, "good")
    await put(database, "bad")
    worker = Worker(database, "embed", "w", handle, on_failed=note, poll_seconds=0.05)
    task = asyncio.create_task(worker.run())
    await until(lambda: done and failed)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (done, failed) == (["good"], ["dataset_empty"])


async def test_work_left_by_a_stopped_worker_is_taken_up_by_the_next(database: Database) -> None:
    started = asyncio.Event()

    async def hang(_: Held) -> None:
        started.set()
        await asyncio.Event().wait()

    await put(database, "a")
    first = Worker(database, "embed", "one", hang, lease=timedelta(seconds=0.3), poll_seconds=0.05)
    task = asyncio.create_task(first.run())
    await asyncio.wait_for(started.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    async def taken_up() -> bool:
        return await take(database) is not None

    await until(taken_up)
