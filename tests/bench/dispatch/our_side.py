"""Our side of the dispatch benchmark: a worker process and a producer process over the real queue.

`python -m tests.bench.dispatch.our_side worker LOG` does work until it is ended; `… producer burst|paced COUNT LOG` puts work in.
The database is LTP_DATABASE_URL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from sqlalchemy import text

from ltp.queue.policy import Queue
from ltp.queue.work import enqueue
from ltp.queue.worker import Held, Worker
from ltp.store.clock import new_id
from ltp.store.database import Database
from ltp.store.listener import Listener, sets, work_channel

KIND = "bench"
IN_FLIGHT = 8
CONCURRENCY = 16
PACE_SECONDS = 0.02


async def work(database: Database, log: Path) -> None:
    """Do work for ever; each piece notes when it began."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def note(held: Held) -> None:
        os.write(handle, f"{held.work.payload['index']} {time.time()}\n".encode())

    worker = Worker(database, KIND, "bench", note, settles=True, concurrency=CONCURRENCY)
    listener = Listener(database.engine, {work_channel(KIND): sets(worker.wake)})
    await asyncio.gather(worker.run(), listener.run())


async def put(database: Database, index: int) -> float:
    """Enqueue one piece, as the services do: in a unit of its own; returns when the call began."""
    began = time.time()
    async with database.unit() as unit:
        enqueue(unit, Queue.DEFAULT, KIND, {"index": index}, dedup_key=str(new_id()))
    return began


async def burst(database: Database, count: int) -> dict[str, float]:
    """As fast as possible; returns seconds until the last piece was settled."""
    began, used, todo = time.time(), time.process_time(), iter(range(count))

    async def some() -> None:
        for index in todo:
            await put(database, index)

    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))
    entered = time.time()
    while await _open(database):
        await asyncio.sleep(0.02)
    return {"seconds": time.time() - began, "enqueue_seconds": entered - began, "cpu": time.process_time() - used}


async def paced(database: Database, count: int) -> dict[str, list[float]]:
    """One piece every 20 ms; returns when each call began."""
    began: list[float] = []
    start = time.time()
    for index in range(count):
        await asyncio.sleep(max(0.0, start + index * PACE_SECONDS - time.time()))
        began.append(await put(database, index))
    while await _open(database):
        await asyncio.sleep(0.02)
    return {"began": began}


async def _open(database: Database) -> bool:
    async with database.engine.connect() as connection:
        query = text("SELECT EXISTS (SELECT 1 FROM queue.work WHERE state IN ('queued', 'running') AND kind = 'bench')")
        return bool(await connection.scalar(query))


async def main() -> None:
    """See the module's text."""
    database = Database.connect(os.environ["LTP_DATABASE_URL"], "scheduler")
    if sys.argv[1] == "worker":
        await work(database, Path(sys.argv[2]))
        return
    produce = burst if sys.argv[2] == "burst" else paced
    print(json.dumps(await produce(database, int(sys.argv[3]))))
    await database.close()


if __name__ == "__main__":
    asyncio.run(main())
