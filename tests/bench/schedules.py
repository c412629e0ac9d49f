"""A thousand schedules due in the same second, two schedulers, Postgres with fsync: each fires once, and how soon the last."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
from sqlalchemy import func, insert, select, text

from ltp.contracts.schedule import MaintenanceAction, ScheduleSpec
from ltp.queue.tables import work
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.store.schema import migrate
from ltp.up.postgres import SUPERUSER, Cluster
from ltp.up.privileges import server_account
from ltp.up.state import DataDir, prepare, read_or_make_secret
from services.scheduler.schedules.firing import fire_forever
from services.scheduler.schedules.store import schedules, ticks
from tests.bench.result import Result, at_most
from tests.conftest import free_port

_SCHEDULES, _SCHEDULERS, _RUNS, _LIMIT_SECONDS = 1000, 2, 3, 2.0


class Only:
    """What the loop needs of a runtime."""

    def __init__(self, database: Database) -> None:
        self.database = database


def run() -> list[Result]:
    """Seconds from the instant they are due to the firing of the last, and how many fired other than once."""
    with _postgres() as url:
        argv = [sys.executable, "-m", "tests.bench.schedules", url]
        children = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(_SCHEDULERS)]
        try:
            for child in children:
                assert child.stdout is not None and child.stdout.readline(), "a scheduler ended before it began"
            measured = [asyncio.run(_measure(url)) for _ in range(_RUNS)]
        finally:
            for child in children:
                child.kill()
                child.wait()
    seconds, wrong = [m[0] for m in measured], [float(m[1]) for m in measured]
    assert not any(wrong), f"schedules that did not fire exactly once: {wrong}"
    name = f"{_SCHEDULES} schedules due at once, {_SCHEDULERS} schedulers: until the last has fired"
    return [at_most(name, seconds, _LIMIT_SECONDS, unit="s")]


async def _measure(url: str) -> tuple[float, int]:
    database = Database.connect(url, "scheduler")
    due = now().replace(microsecond=0) + timedelta(seconds=10)
    async with database.unit() as unit:
        await unit.execute(text("TRUNCATE scheduler.schedules, scheduler.ticks, queue.work, scheduler.outbox CASCADE"))
        await unit.execute(insert(schedules), [_row(index, due) for index in range(_SCHEDULES)])
    assert now() < due, "the schedules took longer to make than the benchmark waits"
    deadline = time.monotonic() + 60
    fired = 0
    while fired < _SCHEDULES and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        async with database.engine.connect() as connection:
            # Seen from outside, so that it counts only once it is committed.
            fired = int(await connection.scalar(select(func.count()).select_from(ticks)) or 0)
    seconds = (now() - due).total_seconds() if fired else float("inf")
    async with database.engine.connect() as connection:
        each = select(ticks.c.schedule_id).where(ticks.c.state == "running", ticks.c.due_at == due)
        once = await connection.scalar(select(func.count(func.distinct(each.subquery().c.schedule_id))))
        total = await connection.scalar(select(func.count()).select_from(ticks))
        queued = await connection.scalar(select(func.count()).select_from(work))
        known = await connection.scalar(select(func.count()).select_from(schedules))
    await database.close()
    wrong = (
        abs(_SCHEDULES - int(once or 0))
        + abs(int(total or 0) - int(once or 0))
        + abs(int(queued or 0) - int(known or 0))
    )
    return seconds, wrong


def _row(index: int, due: datetime) -> dict[str, Any]:
    spec = ScheduleSpec(name=f"s{index}", every_seconds=3600, action=MaintenanceAction(task="host-probe"))
    return {
        "schedule_id": new_id(),
        "name": spec.name,
        "state": "active",
        "spec": spec.model_dump(mode="json"),
        "next_at": due,
        "fire_at": due,
        "created_at": due - timedelta(hours=1),
    }


@contextmanager
def _postgres() -> Iterator[str]:
    """A cluster of its own with its durable defaults, and our tables in it."""
    with tempfile.TemporaryDirectory(prefix="ltp-bench-schedules-") as folder:
        data = DataDir(Path(folder))
        prepare(data)
        password = read_or_make_secret(data.secret("superuser"))
        account = server_account(signal.SIGINT)
        cluster = Cluster(data.postgres, account, data.secret("superuser"), "unused", os.environ, data.log("postgres"))
        asyncio.run(cluster.prepare())
        port = free_port()
        process = subprocess.Popen(cluster.argv(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        try:
            place = f"{SUPERUSER}:{password}@127.0.0.1:{port}/postgres"
            asyncio.run(_answers(f"postgresql://{place}"))
            migrate(f"postgresql+asyncpg://{place}")
            yield f"postgresql+asyncpg://{place}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


async def _answers(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            await (await asyncpg.connect(url, timeout=2)).close()
            return
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    print("ready", flush=True)
    only = Only(Database.connect(sys.argv[1], "scheduler"))
    asyncio.run(fire_forever(cast("Runtime", cast("Any", only)), asyncio.Event()))
