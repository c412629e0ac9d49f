"""`kill -9` of the service, and of its work's own process, while it reads, embeds and compares: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, text

from ltp.contracts.dataset import DatasetRequested
from ltp.contracts.dedup import DedupApplyRequested, DedupAsk, DedupRequested, Thresholds
from ltp.contracts.search import EmbedAsk, EmbeddingRequested
from ltp.queue.policy import MAX_FAILURES
from ltp.store.clock import new_id
from services.dataset.dedup import handlers as dedup_handlers
from services.dataset.dedup import store as dedup_store
from services.dataset.dedup.methods import measure
from services.dataset.handlers import queue_source
from services.dataset.ingest import SourceFile, freeze
from services.dataset.vectors import handlers as vector_handlers
from services.dataset.vectors import store as vector_store
from services.dataset.vectors.library import matrix_key
from tests.service.dataset.conftest import MODEL, Bench, Endpoint, bag

_WORDS = [
    "oak",
    "silk",
    "iron",
    "rain",
    "lamp",
    "river",
    "stone",
    "cloud",
    "bread",
    "night",
    "field",
    "glass",
    "road",
    "bird",
    "snow",
    "salt",
    "wind",
    "gold",
    "leaf",
    "star",
]


@dataclass
class Killed:
    """The workers in a process that is killed at random moments, `kills` times in all, and started again."""

    bench: Bench
    endpoint: Endpoint
    kills: int
    dice: random.Random
    done: Counter[str] = field(default_factory=Counter)
    inner: Counter[str] = field(default_factory=Counter)
    process: subprocess.Popen[str] | None = None

    async def until_over(self, what: str, query: Any) -> None:
        """Kill until there were enough kills; then let the work end."""
        for _ in range(self.kills):
            if await self._is_over(query):
                break
            await self._killed_once(what, query)
        self.process = self.process or await self._started()
        async with asyncio.timeout(300):
            while not await self._is_over(query):
                assert self.process.poll() is None
                await asyncio.sleep(0.05)

    def end(self) -> None:
        """End what runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    async def _killed_once(self, what: str, query: Any) -> None:
        self.process = process = self.process or await self._started()
        await asyncio.sleep(self.dice.uniform(0.0, 1.5))
        # Not more often than the queue tries again: work whose own process always dies is given up, and says so.
        if self.inner[what] < MAX_FAILURES - 1 and self.dice.random() < 0.3 and (inner := _inner(process.pid)):
            # The process of the work alone; the service lives and tries again.
            self.inner[what] += 1
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(inner), signal.SIGKILL)
            await asyncio.sleep(self.dice.uniform(0.0, 1.0))
        self.done[what if not await self._is_over(query) else f"{what}, over"] += 1
        self.end()

    async def _started(self) -> subprocess.Popen[str]:
        url = self.bench.library.settings.database_url
        script = Path(__file__).with_name("work_to_kill.py")
        argv = [sys.executable, str(script), url, str(self.bench.data), self.endpoint.url]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "ready"
        return process

    async def _is_over(self, query: Any) -> bool:
        async with self.bench.database.engine.connect() as connection:
            row = (await connection.execute(query)).mappings().one()
        assert not row["problem"], row["problem"]
        return row["ended_at"] is not None


def _inner(pid: int) -> list[int]:
    """The processes that the service's server of processes has forked."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for server in psutil.Process(pid).children() for child in server.children()]
    return []


def _rows(count: int) -> list[dict[str, Any]]:
    dice = random.Random(3)
    texts = [" ".join(dice.choices(_WORDS, k=30)) + f" number {i}" for i in range(count * 4 // 5)]
    texts += [f"{dice.choice(texts)} again" for _ in range(count - len(texts))]
    return [{"id": f"r{i}", "prompt": said, "response": f"reply {i}"} for i, said in enumerate(texts)]


async def _events(bench: Bench) -> Counter[str]:
    async with bench.database.engine.connect() as connection:
        found = await connection.execute(text("SELECT subject FROM dataset.outbox"))
        return Counter(found.scalars())


async def _killed_everywhere(bench: Bench, endpoint: Endpoint, count: int, kills: int) -> Counter[str]:
    rows = _rows(count)
    folder = bench.library.settings.root() / "datasets"
    folder.mkdir(parents=True)
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    killed = Killed(bench, endpoint, kills, random.Random(20261123))
    try:
        version = await _read(killed, source)
        held = pq.read_table(folder / "docs" / version / "train.parquet", columns=["id", "messages"]).to_pylist()
        assert sorted(row["id"] for row in held) == sorted(row["id"] for row in rows)
        prompts = [row["messages"][0]["content"] for row in held]
        vectors = await _embedded(killed, version, prompts)
        gone = await _deduplicated(killed, version, prompts, vectors)
    finally:
        killed.end()
    (clean,) = (folder / "clean").iterdir()
    stays = set(pq.read_table(clean / "train.parquet", columns=["id"]).column("id").to_pylist())
    assert stays == {row["id"] for place, row in enumerate(held) if place not in gone}
    said = await _events(bench)
    once = ("dataset.v1.frozen", "embedding.v1.completed", "dedup.v1.completed", "dedup.v1.applied")
    counts = {name: said[f"ltp.{name}"] for name in once}
    assert counts == {"dataset.v1.frozen": 2, **dict.fromkeys(once[1:], 1)}
    return killed.done


async def _read(killed: Killed, source: Path) -> str:
    """The version, which is that of a reader nobody killed; nothing else lies beside it."""
    bench, dataset_id = killed.bench, new_id()
    expected = freeze(
        [SourceFile(source, "in.jsonl")], name="docs", holdout=0.0, versions_dir=bench.data / "expected", owner="x"
    )
    async with bench.database.unit() as unit:
        await queue_source(DatasetRequested(dataset_id=dataset_id, name="docs", source=str(source), holdout=0.0), unit)
    over = text("SELECT ended_at, problem FROM dataset.datasets WHERE dataset_id = :id")
    await killed.until_over("ingest", over.bindparams(id=dataset_id))
    assert [path.name for path in (source.parent / "docs").iterdir()] == [expected.version]
    return expected.version


async def _embedded(killed: Killed, version: str, prompts: list[str]) -> np.ndarray:
    """The vectors, one a row and each its own, and one a text in the cache."""
    bench, embedding_id = killed.bench, new_id()
    async with bench.database.unit() as unit:
        ask = EmbedAsk(model=MODEL, part="prompt")
        wanted = EmbeddingRequested(embedding_id=embedding_id, name="docs", version=version, ask=ask)
        await vector_handlers.queue_embedding(wanted, unit, bench.library)
    table = vector_store.embeddings
    await killed.until_over("embed", select(table).where(table.c.embedding_id == embedding_id))
    made = await vector_store.embedding(bench.database.engine, embedding_id)
    assert made is not None and made["state"] == "completed"
    vectors = np.load(bench.library.scan.path(matrix_key(version, "prompt", made["model_key"])))
    assert np.allclose(vectors, np.array([bag(prompt) for prompt in prompts]), atol=1e-6)
    async with bench.database.engine.connect() as connection:
        cached = (await connection.execute(select(func.count()).select_from(vector_store.vector_cache))).scalar_one()
    assert cached == len(set(prompts))
    return vectors


async def _deduplicated(killed: Killed, version: str, prompts: list[str], vectors: np.ndarray) -> set[int]:
    """The rows that go, which are those of a search that nobody killed; they are removed into `clean`."""
    bench, dedup_id, applied, at = killed.bench, new_id(), new_id(), Thresholds()
    async with bench.database.unit() as unit:
        ask = DedupAsk(part="prompt", model=MODEL, method="combined", thresholds=at)
        wanted = DedupRequested(dedup_id=dedup_id, name="docs", version=version, ask=ask, against=[])
        await dedup_handlers.queue_dedup(wanted, unit)
    table = dedup_store.dedups
    await killed.until_over("dedup", select(table).where(table.c.dedup_id == dedup_id))
    removals = measure("combined", prompts, vectors, Thresholds(cosine=0.8, jaccard=0.6), at).removals(at)
    run = await dedup_store.one(bench.database.engine, table, dedup_id)
    assert run is not None and run["removals"] == len(removals) > 0
    async with bench.database.unit() as unit:
        request = DedupApplyRequested(dedup_id=dedup_id, dataset_id=applied, name="clean", thresholds=at)
        await dedup_handlers.queue_apply(request, unit)
    await killed.until_over("apply", _dataset_or_nothing(applied))
    return set(removals.row.tolist())


def _dataset_or_nothing(dataset_id: UUID) -> Any:
    """Its row; one that is not over as long as there is none."""
    wanted = (
        "SELECT max(ended_at) AS ended_at, max(problem::text) AS problem FROM dataset.datasets WHERE dataset_id = :id"
    )
    return text(wanted).bindparams(id=dataset_id)


async def test_killed_once_at_each_step(bench: Bench, endpoint: Endpoint) -> None:
    done = await _killed_everywhere(bench, endpoint, 400, 1)
    assert done["ingest"] == done["embed"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_killed_twenty_times_at_each_step(bench: Bench, endpoint: Endpoint) -> None:
    done = await _killed_everywhere(bench, endpoint, 20_000, 20)
    print(dict(done))  # noqa: T201 - how many of the kills hit the work
    assert min(done[step] for step in ("ingest", "embed", "dedup")) >= 20
