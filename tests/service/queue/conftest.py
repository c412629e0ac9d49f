"""A database with the queue, and the ways to put work in and take it out that the tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from ltp.queue.limits import set_limit
from ltp.queue.policy import Limit, Queue
from ltp.queue.tables import work
from ltp.queue.work import NewWork, Work, claim, enqueue_many
from ltp.queue.worker import Worker
from ltp.store.database import Database

LEASE = timedelta(seconds=30)


class Bench:
    """Puts work of kind `embed` in, takes it out, and looks at it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def put(self, key: str, queue: Queue | str = Queue.DEFAULT, **options: Any) -> UUID | None:
        async with self.database.unit() as unit:
            return (await enqueue_many(unit, [NewWork(queue, "embed", {"key": key}, key, **options)]))[0]

    async def take(self, lease: timedelta = LEASE) -> Work | None:
        async with self.database.unit() as unit:
            return await claim(unit, ["embed"], "w", lease)

    async def take_all(self) -> list[str]:
        """Keys of all that can be taken one after the other."""
        keys: list[str] = []
        while (found := await self.take()) is not None:
            keys.append(found.payload["key"])
        return keys

    async def limit(self, scope: Any, name: str, **values: Any) -> None:
        async with self.database.unit() as unit:
            await set_limit(unit, scope, name, Limit(**values))

    async def row(self, key: str) -> Any:
        async with self.database.engine.connect() as connection:
            return (await connection.execute(select(work).where(work.c.dedup_key == key))).mappings().one()

    async def states(self) -> list[str]:
        async with self.database.engine.connect() as connection:
            return sorted((await connection.execute(select(work.c.state))).scalars())


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, "scheduler")
    yield database
    await database.close()


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """Workers that run for the length of the block."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
