"""Claims under a deep backlog, and a scheduler that starts on one."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from ltp.queue import statements
from ltp.store.database import Database
from ltp.store.line import Line
from ltp.up.servers import nats_binary
from tests.bench.dispatch.servers import answers, free_port, postgres, process, wait_for
from tests.bench.result import Result, at_most

SHALLOW, DEEP = 1_000, 100_000
_CLAIMS = 200
_FILL = """
INSERT INTO queue.work (id, queue, kind, payload, dedup_key, state, run_at, sort_at, owner, wants)
SELECT gen_random_uuid(), CAST(:queue AS text), CAST(:kind AS text), '{"index": 0}', CAST(:kind AS text) || g, 'queued', now(),
       now() + g * interval '1 ms', 'owner' || g % 10, CAST(:wants AS jsonb) FROM generate_series(1, CAST(:count AS int)) AS g
"""


def measure_backlog(place: Path) -> list[Result]:
    """Claim times and restart over a Postgres of their own."""
    with ExitStack() as stack:
        url, _ = stack.enter_context(postgres(place / "backlog"))
        ratios = [asyncio.run(_claim_ratio(url)) for _ in range(3)]
        print(f"claims: ratio {' '.join(f'{r:.2f}' for r in ratios)}", flush=True)
        restarts = _restarts(url, place, stack)
        print(f"restart: {' '.join(f'{r:.2f}' for r in restarts)} s", flush=True)
    return [
        at_most(f"claim time at {DEEP} queued over {SHALLOW}", ratios, 1.5, unit="x"),
        at_most(f"scheduler restart with {DEEP} queued", restarts, 5.0, unit="s"),
    ]


async def _claim_ratio(url: str) -> float:
    database = Database.connect(url, "scheduler")
    times = {depth: await _claim_time(database, depth) for depth in (SHALLOW, DEEP)}
    await database.close()
    print("claims: " + ", ".join(f"{t * 1000:.3f} ms at {d}" for d, t in times.items()), flush=True)
    return times[DEEP] / times[SHALLOW]


async def _claim_time(database: Database, depth: int) -> float:
    """Median seconds of a claim that takes one piece and settles the one before."""
    async with database.engine.begin() as connection:
        await connection.execute(text("TRUNCATE queue.work"))
        await connection.execute(text(_FILL), {"queue": "default", "kind": "bench", "wants": None, "count": depth})
    line, held, times = Line(database.engine), list[Any](), list[float]()
    for _ in range(_CLAIMS):
        values = {"kinds": ["bench"], "worker": "bench", "lease": timedelta(seconds=60), "count": 1, "hosts": None}
        keys = {"ids": [row["id"] for row in held], "tokens": [row["lease_token"] for row in held]}
        began = time.perf_counter()
        held = list(await line.fetch(statements.TURNOVER, values | keys))
        times.append(time.perf_counter() - began)
        assert held[0]["id"] is not None
    line.close()
    return statistics.median(times)


def _restarts(url: str, place: Path, stack: ExitStack) -> list[float]:
    """Seconds from the start of a scheduler to its readiness, with as much work waiting for devices, after a kill -9."""
    asyncio.run(_fill_training(url))
    port, monitor, health = free_port(), free_port(), free_port()
    nats = [str(nats_binary()), "-a", "127.0.0.1", "-p", str(port), "-m", str(monitor), "-js", "-sd", str(place / "js")]
    stack.enter_context(process(nats))
    wait_for(lambda: answers(f"http://127.0.0.1:{monitor}/healthz?js-enabled-only=true"), "NATS")
    environment = {
        **os.environ,
        "LTP_DATABASE_URL": url,
        "LTP_NATS_URL": f"nats://127.0.0.1:{port}",
        "LTP_HEALTH_PORT": str(health),
        "LTP_DATA_DIR": str(place / "data"),
    }
    found: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        argv = [sys.executable, "-m", "services.scheduler"]
        with process(argv, signal.SIGKILL, env=environment, stdin=subprocess.DEVNULL):
            wait_for(lambda: answers(f"http://127.0.0.1:{health}/readyz"), "the scheduler")
            found.append(time.monotonic() - began)
    return found


async def _fill_training(url: str) -> None:
    database = Database.connect(url, "scheduler")
    async with database.engine.begin() as connection:
        await connection.execute(text("TRUNCATE queue.work"))
        wants = '{"count": 1, "kind": "gpu"}'
        await connection.execute(text(_FILL), {"queue": "training", "kind": "train", "wants": wants, "count": DEEP})
    await database.close()
