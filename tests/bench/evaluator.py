"""The evaluator against the same engine driven raw, a rate-limited endpoint, and a warm server: `make bench SUITE=evaluator`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from ltp.contracts.dataset import Split
from ltp.contracts.evaluation import DatasetUnderTest, EvaluationRequested, Result
from ltp.contracts.evaluation_spec import ApiModel, LocalModel, ModelUnderTest, RunSpec
from ltp.contracts.values import Placement
from ltp.queue.tables import work
from ltp.queue.work import claim
from ltp.queue.worker import Held
from ltp.store.clock import new_id
from ltp.store.database import Database
from ltp.store.schema import migrate
from ltp.up.postgres import SUPERUSER, Cluster
from ltp.up.privileges import server_account
from ltp.up.state import DataDir, prepare, read_or_make_secret
from services.evaluator import store
from services.evaluator.evaluation import Evaluator
from services.evaluator.opening import open_requested
from services.evaluator.pace import Pacer
from services.evaluator.settings import EvaluatorSettings
from tests.bench.result import Result as Line
from tests.bench.result import at_least, at_most, higher_is_better
from tests.conftest import _create, _reachable, free_port
from tests.service.evaluator.stub import Stub
from tests.tiny_model import write_tiny_model

CONCURRENCY, TOKENS = 32, 16
LOCAL_ROWS, API_ROWS, LIMIT = 128, 2000, 100.0
ROUNDS = 5


@dataclass(frozen=True)
class Load:
    """What is asked of an engine, how often, and how much of it at once."""

    engine: str
    rows: int = LOCAL_ROWS
    tokens: int = TOKENS
    rounds: int = ROUNDS
    concurrency: int = CONCURRENCY
    device_kind: Literal["cpu", "gpu"] = "cpu"


def run() -> list[Line]:
    """Three bars; about two minutes."""
    with tempfile.TemporaryDirectory(prefix="ltp-bench-") as folder:
        return asyncio.run(_run(Path(folder)))


async def _run(folder: Path) -> list[Line]:
    async with empty_database(folder) as url:
        database = Database.connect(url, "evaluator")
        settings = EvaluatorSettings(data_dir=folder / "data", evaluator_concurrency=CONCURRENCY)
        evaluator = Evaluator(database, settings)
        try:
            return [*await _local(evaluator, folder), *await _limited(evaluator, folder)]
        finally:
            await evaluator.cache.close()
            await database.close()


@asynccontextmanager
async def empty_database(folder: Path) -> AsyncIterator[str]:
    """A Postgres of its own with all tables."""
    data = DataDir(folder / "postgres")
    prepare(data)
    password = read_or_make_secret(data.secret("superuser"))
    account = server_account(signal.SIGINT)
    cluster = Cluster(data.postgres, account, data.secret("superuser"), "unused", os.environ, data.log("postgres"))
    await cluster.prepare()
    port = free_port()
    with data.log("postgres").open("ab") as log:
        process = subprocess.Popen(cluster.argv(port), stdout=log, stderr=log, cwd="/")
    place = f"127.0.0.1:{port}"
    try:
        while not await _reachable(place, password):
            await asyncio.sleep(0.1)
        await _create(place, password, "bench", None)
        url = f"postgresql+asyncpg://{SUPERUSER}:{password}@{place}/bench"
        await asyncio.to_thread(migrate, url)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


async def _local(evaluator: Evaluator, folder: Path) -> list[Line]:
    """Our evaluator and a bare client, one after the other, on the same warm server with the same requests."""
    model = folder / "model"
    write_tiny_model(model)
    return await local_model(evaluator, folder, LocalModel(path=str(model)), Load("own engine on CPU"))


async def local_model(evaluator: Evaluator, folder: Path, under_test: LocalModel, load: Load) -> list[Line]:
    """The evaluator and a bare client in turn on one warm server."""
    dataset = _dataset(folder, load.rows)
    spec = {"sampling": {"max_new_tokens": load.tokens}, "reuse": False}
    kind = load.device_kind
    await _evaluate(evaluator, under_test, dataset, spec, kind)  # starts the server and warms it
    server = next(iter(evaluator.cache._servers.values()))[0].server
    ours, raw, starts = list[float](), list[float](), list[float]()
    for _ in range(load.rounds):
        raw.append(load.rows / await _drive(f"{server.url}/v1", server.model_name, dataset, load))
        row = await _evaluate(evaluator, under_test, dataset, spec, kind)
        ours.append(load.rows / Result.model_validate(row["result"]).usage.seconds)
        starts.append((row["first_answer_at"] - row["asked_at"]).total_seconds())
    return [
        higher_is_better(f"throughput, {load.engine}", ours, raw, "bare httpx client", unit="answers/s", bar=0.95),
        at_most(f"request to first stored answer, warm model, {load.engine}", starts, 1.0, unit="s"),
    ]


async def _limited(evaluator: Evaluator, folder: Path) -> list[Line]:
    """2,000 samples against an endpoint that allows 100 a second and does not say so; and a bare client that knows it."""
    dataset = _dataset(folder, API_ROWS)
    ours, raw = list[float](), list[float]()
    for _ in range(2):
        async with Stub(per_second=LIMIT, burst=10.0, delay=0.05).serving() as stub:
            await _hammer(stub.url, dataset)
            raw.append(_rate(stub))
        async with Stub(per_second=LIMIT, burst=10.0, delay=0.05).serving() as stub:
            model = ApiModel(name="good", base_url=stub.url)
            await _evaluate(evaluator, model, dataset, {"scorer": "numeric", "reuse": False})
            ours.append(_rate(stub))
            load = os.getloadavg()[0]
            print(f"answered {ours[-1]:.1f}/s, raw {raw[-1]:.1f}/s, refused {stub.refused}, load {load:.1f}")
    name = "rate sustained of the 100/s allowed"
    return [
        at_least(name, ours, 0.95 * LIMIT, unit="answers/s"),
        higher_is_better(
            f"{name}, beside a bare client", ours, raw, "bare client that knows the limit", unit="answers/s", bar=0.95
        ),
    ]


def _rate(stub: Stub) -> float:
    assert len(stub.answered_at) == API_ROWS
    return (API_ROWS - 1) / (stub.answered_at[-1] - stub.answered_at[0])


async def _hammer(url: str, dataset: DatasetUnderTest) -> None:
    """Ask every row at the pace that the endpoint allows, and again what it refuses."""
    prompts = deque(record["prompt"] for record in pq.read_table(dataset.split.path).to_pylist())
    pacer, certificates = Pacer(LIMIT, time.monotonic), httpx.create_ssl_context()

    async def worker() -> None:
        async with httpx.AsyncClient(timeout=600, trust_env=False, verify=certificates) as client:
            while prompts:
                body = {"model": "good", "messages": prompts.popleft(), "max_tokens": TOKENS, "temperature": 0}
                await pacer.turn()
                while (await client.post(f"{url}/chat/completions", json=body)).status_code == 429:
                    await pacer.turn()

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


async def _drive(url: str, model: str, dataset: DatasetUnderTest, load: Load) -> float:
    """Seconds that a client takes that does nothing but ask."""
    prompts = [record["prompt"] for record in pq.read_table(dataset.split.path).to_pylist()]
    queue = deque(prompts)
    certificates = httpx.create_ssl_context()  # read once, as the evaluator does, and not within the time

    async def worker() -> None:
        # A client of its own: one that all share spends its time on looking for a connection.
        async with httpx.AsyncClient(timeout=600, trust_env=False, verify=certificates) as client:
            while queue:
                body = {"model": model, "messages": queue.popleft(), "max_tokens": load.tokens, "temperature": 0}
                (await client.post(f"{url}/chat/completions", json=body)).raise_for_status()

    started = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(load.concurrency)))
    return time.monotonic() - started


async def _evaluate(
    evaluator: Evaluator,
    model: ModelUnderTest,
    dataset: DatasetUnderTest,
    spec: dict[str, Any],
    kind: Literal["cpu", "gpu"] = "cpu",
) -> dict[Any, Any]:
    event = EvaluationRequested(
        evaluation_id=new_id(),
        name=None,
        model=model,
        dataset=dataset,
        spec=RunSpec.model_validate({"max_rows": 10_000, **spec}),
    )
    async with evaluator.database.unit() as unit:
        await open_requested(unit, event)
        place = Placement(host_id="here", device_kind=kind, device_indexes=[0]).model_dump()
        await unit.execute(work.update().values(placement=place))
    async with evaluator.database.unit() as unit:
        held = await claim(unit, ["evaluate"], "bench", timedelta(hours=1))
    assert held is not None
    await evaluator.evaluate(Held(held))
    return await _row(evaluator, event.evaluation_id)


async def _row(evaluator: Evaluator, evaluation_id: UUID) -> dict[Any, Any]:
    async with evaluator.database.unit() as unit:
        row = await store.evaluation(unit, evaluation_id)
    assert row is not None
    return dict(row)


def _dataset(folder: Path, rows: int) -> DatasetUnderTest:
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("id", pa.string()), ("prompt", pa.list_(turn)), ("answer", pa.string())])
    records = [
        {"id": f"{i:06}", "prompt": [{"role": "user", "content": f"{i} + {i % 7}"}], "answer": str(i + i % 7)}
        for i in range(rows)
    ]
    path = folder / f"rows-{rows}.parquet"
    pq.write_table(pa.Table.from_pylist(records, schema=schema), path)
    split = Split(rows=rows, path=str(path), answered=rows)
    return DatasetUnderTest(name="sums", version="0" * 64, split_name="test", split=split)
