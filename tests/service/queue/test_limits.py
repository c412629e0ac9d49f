"""Turns, limits and quotas over a real Postgres, with everybody pulling at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.limits import get_limits, locked_allowance, set_limit
from ltp.queue.policy import HEAD_START_SECONDS, SPACING_SECONDS, Limit, Queue, sort_at, turn
from ltp.queue.waiting import in_turn
from ltp.queue.work import NewWork, enqueue_many, finish
from ltp.queue.worker import Held, Worker
from ltp.store.clock import now
from ltp.store.database import Database
from tests.conftest import until
from tests.service.queue.conftest import Bench, working

GPUS = {"count": 2, "kind": "gpu"}


async def test_a_limit_holds_while_many_claim_at_once_and_can_be_changed(bench: Bench) -> None:
    for index in range(20):
        await bench.put(str(index))
    await bench.limit("queue", "default", max_running=3)
    taken = [w for w in await asyncio.gather(*(bench.take() for _ in range(12))) if w]
    assert len(taken) == 3
    async with bench.database.unit() as unit:
        await finish(unit, taken[0])
    assert [w for w in await asyncio.gather(*(bench.take() for _ in range(4))) if w] != []
    assert await bench.take() is None
    await bench.limit("queue", "default", max_running=5)
    assert len(await bench.take_all()) == 2
    await bench.limit("queue", "default")
    assert len(await bench.take_all()) == 20 - 6


async def test_a_paused_queue_starts_nothing_and_another_queue_goes_on(bench: Bench) -> None:
    await bench.put("paused")
    await bench.put("free", Queue.MAINTENANCE)
    await bench.limit("queue", "default", paused=True)
    assert await bench.take_all() == ["free"]
    await bench.limit("queue", "default")
    assert await bench.take_all() == ["paused"]


async def test_a_projects_quota_holds_back_that_project_only(bench: Bench) -> None:
    for index in range(5):
        await bench.put(f"a{index}", project="a", owner="a")
    await bench.put("b0", project="b", owner="b")
    await bench.limit("project", "a", max_running=2)
    assert sorted(await bench.take_all()) == ["a0", "a1", "b0"]


async def test_a_long_row_of_held_back_work_blocks_nobody(bench: Bench) -> None:
    async with bench.database.unit() as unit:
        await enqueue_many(
            unit, [NewWork(Queue.DEFAULT, "embed", {"key": "a"}, f"a{i}", project="a") for i in range(500)]
        )
    await bench.put("b", project="b", owner="late")
    await bench.limit("project", "a", paused=True)
    assert await bench.take_all() == ["b"]


async def test_one_owner_with_a_thousand_pieces_does_not_keep_another_waiting(bench: Bench) -> None:
    async with bench.database.unit() as unit:
        await enqueue_many(
            unit, [NewWork("default", "embed", {"key": "first"}, f"f{i}", owner="first") for i in range(1000)]
        )
    for index in range(5):
        await bench.put(f"second{index}", owner="second")
    order = [found.payload["key"] for _ in range(10) if (found := await bench.take())]
    assert sum(key != "first" for key in order) == 5


async def test_the_higher_priority_goes_first_and_neither_owner_nor_number_changes_that(bench: Bench) -> None:
    for index in range(5):
        await bench.put(f"low{index}", owner="same")
    await bench.put("high", owner="same", priority=5)
    await bench.put("lower still", owner="other", priority=-5)
    assert await bench.take_all() == ["high", *(f"low{i}" for i in range(5)), "lower still"]


async def test_old_maintenance_goes_before_fresh_training_however_much_of_it_there_is(bench: Bench) -> None:
    for index in range(10):
        await bench.put(f"train{index}", Queue.TRAINING, priority=0)
    await bench.put("sweep", Queue.MAINTENANCE, run_at=now() - timedelta(seconds=310))
    await bench.put("score", Queue.EVALUATION)
    first = await bench.take()
    assert first is not None
    assert first.payload["key"] == "sweep"


async def test_work_waits_for_its_time(bench: Bench) -> None:
    await bench.put("later", run_at=now() + timedelta(hours=1))
    assert await bench.take() is None


async def test_the_statement_and_the_policy_give_the_same_turn(bench: Bench) -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    spacing = timedelta(seconds=SPACING_SECONDS[Queue.DEFAULT])
    known: list[tuple[str, datetime]] = []
    for index, (owner, minutes) in enumerate(
        [("a", 0), ("a", 0), ("a", 1), ("b", 2), ("b", 2), ("c", 3000), ("a", 4000)]
    ):
        run_at = at + timedelta(minutes=minutes)
        await bench.put(str(index), owner=owner, run_at=run_at)
        first = min((t for _, t in known), default=None)
        own = max((t for o, t in known if o == owner), default=None)
        known.append((owner, turn(sort_at(Queue.DEFAULT, run_at), spacing, first, own)))
        assert (await bench.row(str(index)))["sort_at"] == known[-1][1]


async def test_many_at_once_get_the_turns_they_would_get_one_by_one(bench: Bench) -> None:
    news = [
        NewWork("default", "embed", {"key": str(i)}, str(i), run_at=datetime(2026, 5, 1, tzinfo=UTC)) for i in range(3)
    ]
    async with bench.database.unit() as unit:
        assert all(await enqueue_many(unit, news))
        assert await enqueue_many(unit, news) == [None] * 3
    base = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=HEAD_START_SECONDS[Queue.DEFAULT])
    steps = [((await bench.row(str(i)))["sort_at"] - base).total_seconds() for i in range(3)]
    assert steps == [0, SPACING_SECONDS[Queue.DEFAULT], 2 * SPACING_SECONDS[Queue.DEFAULT]]


async def test_devices_are_handed_out_in_turn_and_within_quota(bench: Bench) -> None:
    for index in range(3):
        await bench.put(f"a{index}", Queue.TRAINING, wants=GPUS, project="a", owner="a")
    await bench.put("b0", Queue.TRAINING, wants=GPUS, project="b", owner="b")
    await bench.put("urgent", Queue.TRAINING, wants=GPUS, project="c", owner="c", priority=1)
    await bench.limit("project", "a", max_devices=4)
    async with bench.database.unit() as unit:
        row, limits = await in_turn(unit), await locked_allowance(unit)
    assert limits is not None
    assert [w.payload["key"] for w in row] == ["urgent", "a0", "b0", "a1", "a2"]
    assert [w.payload["key"] for w in row if limits.take(w)] == ["urgent", "a0", "b0", "a1"]
    assert limits.refuses(row[-1]) == "project a holds 4 devices and this wants 2, its quota is 4"
    place = '{"host_id": "h", "device_kind": "gpu", "device_indexes": [0, 1]}'
    async with bench.database.unit() as unit:
        await unit.execute(
            text("UPDATE queue.work SET placement = CAST(:p AS jsonb) WHERE project = 'a'"), {"p": place}
        )
    # Devices given count before the work is taken, and what has its devices is taken whatever the limits say by now.
    await bench.limit("queue", "training", max_running=1)
    async with bench.database.unit() as unit:
        row, limits = await in_turn(unit), await locked_allowance(unit)
        assert limits is not None
        assert [w for w in row if limits.take(w)] == []
    assert len(await bench.take_all()) == 3


@pytest.mark.parametrize("number", [0, -1, 10**9])
async def test_an_absurd_limit_is_refused(bench: Bench, number: int) -> None:
    with pytest.raises(LtpError, match="is not between 1 and 100000") as refused:
        await bench.limit("queue", "default", max_running=number)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("queue", "options", "said"),
    [
        ("nowhere", {}, "There is no queue 'nowhere'"),
        ("default", {"priority": 101}, "Priority 101"),
        ("default", {"priority": 10**30}, "is not between"),
        ("default", {"owner": ""}, "The owner ''"),
        ("default", {"project": "a; DROP TABLE work"}, "is no name"),
        ("default", {"run_at": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001 — what must be refused
    ],
)
async def test_what_cannot_be_queued_is_refused_with_its_reason(
    bench: Bench, queue: str, options: Any, said: str
) -> None:
    with pytest.raises(LtpError, match=said) as refused:
        await bench.put("x", queue, **options)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


async def test_of_two_orders_the_later_holds_whichever_is_heard_last(bench: Bench) -> None:
    at = now()
    async with bench.database.unit() as unit:
        await set_limit(unit, "queue", "default", Limit(max_running=7), at)
        await set_limit(unit, "queue", "default", Limit(paused=True), at - timedelta(seconds=1))
        assert await get_limits(unit, "queue") == {"default": Limit(max_running=7)}


async def test_four_workers_do_each_piece_once_and_keep_the_limit(bench: Bench) -> None:
    done: list[str] = []
    inside = most = 0

    def handler() -> Callable[[Held], Any]:
        async def handle(held: Held) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            done.append(held.work.payload["key"])
            inside -= 1

        return handle

    workers = [_worker(bench.database, f"w{i}", handler()) for i in range(4)]
    await bench.limit("queue", "default", max_running=3)
    for index in range(60):
        await bench.put(str(index))
    async with working(*workers):
        await until(lambda: len(done) >= 60, 30)
        await until(lambda: _all_done(bench), 10)
    assert sorted(done, key=int) == [str(i) for i in range(60)]
    assert most <= 3


async def _all_done(bench: Bench) -> bool:
    return set(await bench.states()) == {"done"}


def _worker(database: Database, name: str, handler: Any) -> Worker:
    return Worker(database, "embed", name, handler, settles=True, concurrency=4, poll_seconds=0.02)
