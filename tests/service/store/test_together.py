"""Units that only add rows share commits: each row is there once, one unit's fault is its own, and order is kept inside a unit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError

from ltp.queue.policy import Queue
from ltp.queue.tables import work
from ltp.queue.work import enqueue
from ltp.store.database import Database
from ltp.store.envelope import Message
from ltp.store.metadata import outbox_table


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, "scheduler")
    yield database
    await database.close()


async def put(database: Database, key: str, said: str | None = None) -> None:
    async with database.unit() as unit:
        enqueue(unit, Queue.DEFAULT, "embed", {"key": key}, dedup_key=key)
        if said is not None:
            unit.send(Message(said, "ltp.test.v1.said", {}, b"{}", keep=True))


async def keys(database: Database) -> list[str]:
    async with database.engine.connect() as connection:
        return sorted((await connection.execute(select(work.c.dedup_key))).scalars())


async def commits(database: Database) -> int:
    """Transactions of the server that wrote something, so far."""
    async with database.engine.connect() as connection:
        return int(await connection.scalar(text("SELECT txid_snapshot_xmax(txid_current_snapshot())")) or 0)


async def test_units_that_end_together_commit_together_and_say_what_they_put(database: Database) -> None:
    before = await commits(database)
    await asyncio.gather(*(put(database, f"{n:03}", f"m{n}") for n in range(100)), put(database, "000"))
    assert await keys(database) == [f"{n:03}" for n in range(100)]
    assert await commits(database) - before < 20
    async with database.engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(outbox_table("scheduler"))) == 100


async def test_a_row_that_cannot_be_written_fails_its_own_unit_only(database: Database) -> None:
    bad = "b\0d"
    done = await asyncio.gather(*(put(database, key) for key in ("a", bad, "c")), return_exceptions=True)
    assert [type(each) for each in (done[0], done[2])] == [type(None)] * 2
    assert isinstance(done[1], DBAPIError)
    assert await keys(database) == ["a", "c"]


async def test_what_broke_off_in_the_middle_is_there_once(database: Database) -> None:
    await put(database, "first")
    async with database.engine.connect() as connection:
        mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        await connection.execute(text(mine))
    await asyncio.gather(put(database, "first"), put(database, "second"))
    assert await keys(database) == ["first", "second"]


async def test_what_was_put_is_seen_by_the_next_statement_and_undone_with_its_savepoint(database: Database) -> None:
    async with database.unit() as unit:
        enqueue(unit, Queue.DEFAULT, "embed", {}, dedup_key="kept")
        assert (await unit.execute(select(func.count()).select_from(work))).scalar_one() == 1
        with pytest.raises(RuntimeError):
            async with unit.savepoint():
                enqueue(unit, Queue.DEFAULT, "embed", {}, dedup_key="undone")
                unit.send(Message("undone", "ltp.test.v1.said", {}, b"{}", keep=True))
                raise RuntimeError
    assert await keys(database) == ["kept"]
    async with database.engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(outbox_table("scheduler"))) == 0


async def test_a_unit_that_raises_adds_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.unit() as unit:
            enqueue(unit, Queue.DEFAULT, "embed", {}, dedup_key="a")
            raise RuntimeError
    assert await keys(database) == []
