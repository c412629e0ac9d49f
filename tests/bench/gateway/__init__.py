"""The door under load: lists and metrics beside a bare FastAPI route, and points pushed while hundreds of clients follow them."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil

from ltp.contracts.dataset import DatasetVersion
from ltp.recipe_text import parse_recipe
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.up.servers import nats_binary
from services.gateway import store
from tests.bench.dispatch.servers import postgres, process, wait_for
from tests.bench.gateway.pushing import push
from tests.bench.result import Result, at_most, lower_is_better
from tests.conftest import free_port
from tests.service.gateway.conftest import Door, open_door

_RUNS, _EACH, _SECONDS = 100, 100, int(os.environ.get("LTP_BENCH_SECONDS", "60"))
_STREAMS, _SOCKETS = 450, 50
_ASKED = 150
_RECIPE = "name: r\nalgorithm: sft\nmodel: {path: models/tiny}\ndataset: {name: d}\ntraining: {steps: 12, batch_size: 32, learning_rate: 1.0e-4, max_length: 512}\n"


def run() -> list[Result]:
    """Everything in one run: ratios to the bare route, then the load."""
    with tempfile.TemporaryDirectory(prefix="ltp-bench-gateway-") as folder, ExitStack() as stack:
        place, port, bare_port = Path(folder), free_port(), free_port()
        url, _ = stack.enter_context(postgres(place / "pg"))
        nats = [str(nats_binary()), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(place / "js")]
        stack.enter_context(process(nats))
        (place / "door").mkdir()
        limits = {"LTP_GATEWAY_REQUESTS_PER_SECOND": "100000"}
        door = open_door(f"nats://127.0.0.1:{port}", url, place / "door", **limits)
        stack.callback(door.process.wait, 20)
        stack.callback(door.process.terminate)
        environment = {**os.environ, "LTP_DATABASE_URL": url, "BARE_PORT": str(bare_port)}
        stack.enter_context(process([sys.executable, "-m", "tests.bench.gateway.bare"], env=environment))
        bare = f"http://127.0.0.1:{bare_port}"
        wait_for(lambda: _answers(bare), "the bare application")
        asyncio.run(_fill(url, door))
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        results = [_compare(door, bare, path) for path in ("/jobs?limit=50", "/metrics/filled?limit=1000")]
        try:
            results += _load(door, place)
        except httpx.HTTPError:
            print("".join(line for line in door.log.read_text().splitlines(True) if '"error"' in line)[-3000:])
            raise
        print(f"load average after: {os.getloadavg()[0]:.1f}")
        return results


def _answers(bare: str) -> bool:
    try:
        return httpx.get(f"{bare}/jobs").status_code == 200
    except httpx.TransportError:
        return False


async def _fill(url: str, door: Door) -> None:
    recipe, database = parse_recipe(_RECIPE), Database.connect(url, "gateway")
    version = DatasetVersion(name="d", version="0" * 64, rows=1, splits={}).model_dump(mode="json")
    async with database.unit() as unit:
        for _ in range(500):
            row = {"job_id": new_id(), "name": "r", "recipe": recipe.settings(), "recipe_hash": recipe.hash()}
            row |= {"dataset": version, "options": {}, "submitted_at": now()}
            await store.add_job(unit, row)
    await database.close()
    readings = [{"step": step, "values": {"loss": 1.0, "reward": 0.5}} for step in range(1000)]
    door.root.post("/metrics", json={"run": "filled", "readings": readings}).raise_for_status()


def _compare(door: Door, bare: str, path: str) -> Result:
    ours, theirs = [], []
    with httpx.Client(base_url=bare) as peer:
        for number in range(_ASKED + 20):
            for client, times in ((door.root, ours), (peer, theirs)):
                began = time.perf_counter()
                answer = client.get(path)
                took = time.perf_counter() - began
                assert answer.status_code == 200, answer.text
                if number >= 20:
                    times.append(took * 1000)
    return lower_is_better(f"GET {path}, p50", ours, theirs, "bare FastAPI, same rows", unit="ms", bar=0.5)


def _load(door: Door, place: Path) -> list[Result]:
    argv = [sys.executable, "-m", "tests.bench.gateway.followers", door.url, door.admin]
    argv += [str(n) for n in (_RUNS, _STREAMS, _SOCKETS)]
    # A file, for a pipe that nobody empties while points are pushed would hold the followers up.
    with (place / "followers").open("wb") as out:
        followers = subprocess.Popen(argv, stdout=out)
    wait_for(lambda: bool(_told(place)), "the followers")
    memory: list[float] = []
    sent, took = asyncio.run(_push(door, memory))
    wanted = sent // _RUNS
    try:
        wait_for(lambda: min(_told(place)[-1]["points"]) >= wanted, "all points")
    except TimeoutError:
        pass  # What is lacking is counted below.
    followers.terminate()
    followers.wait(20)
    told = _told(place)
    lags = sorted(lag for line in told for lag in line["lags"])
    lost = sum(abs(wanted - points) for points in told[-1]["points"])
    stored = sum(r["points"] for r in door.root.get("/metrics?limit=1000").json() if r["run"].startswith("load-"))
    p99 = lags[int(len(lags) * 0.99)] if lags else float("inf")
    print(
        f"{sent} points in {took:.1f} s; p50 lag {statistics.median(lags or [0]) * 1000:.0f} ms; {len(lags)} deliveries"
    )
    print(f"gateway's memory, MiB: {[round(m) for m in memory]}")
    name = f"{_RUNS * _EACH} points/s for {_SECONDS} s, {_STREAMS} SSE and {_SOCKETS} WebSocket clients (each one of {_RUNS} runs)"
    doubled = max(line["doubled"] for line in told)
    third = max(1, len(memory) // 3)
    growth = statistics.median(memory[-third:]) / statistics.median(memory[third : 2 * third] or memory)
    return [
        at_most(
            f"{name}: points lost or doubled", [float(lost + doubled + abs(stored - sent)) or 1e-9], 1e-9, unit="points"
        ),
        at_most("time to push what is due in its time", [took], _SECONDS * 1.05, unit="s"),
        at_most("lag of followers, p99", [p99 * 1000], 500, unit="ms"),
        at_most("memory of the last third beside the one before", [growth], 1.1, unit="times"),
    ]


def _told(place: Path) -> list[dict[str, Any]]:
    """What the followers said so far."""
    return [json.loads(line) for line in (place / "followers").read_text().splitlines(True) if line.endswith("\n")]


async def _push(door: Door, memory: list[float]) -> tuple[int, float]:
    """Push, and look at the gateway's memory meanwhile; returns (points, seconds)."""
    gateway = psutil.Process(door.process.pid)

    async def watch() -> None:
        while True:
            memory.append(gateway.memory_info().rss / 2**20)
            await asyncio.sleep(2)

    watching = asyncio.create_task(watch())
    found = await push(door.url, door.admin, _RUNS, _EACH, _SECONDS)
    watching.cancel()
    return found
