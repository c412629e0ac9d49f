"""A frozen dataset in a real database, an embedding endpoint that answers as OpenAI's does, and work done on the spot."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from ltp.contracts.search import EmbedAsk, EmbeddingRequested
from ltp.core.errors import LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import claim, enqueue
from ltp.queue.worker import Held
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.dataset.ingest import SourceFile, freeze
from services.dataset.settings import DatasetSettings
from services.dataset.vectors import store
from services.dataset.vectors.library import Library
from services.dataset.vectors.work import embed
from services.dataset.versions import publish

MODEL = "openai:bag"


@dataclass
class Endpoint:
    """Embeds by hashed words, so that texts with common words are near. `spoil` changes an answer, `fail_after` ends it."""

    url: str = ""
    texts: list[str] = field(default_factory=list)
    spoil: Callable[[list[list[float]]], list[list[float]]] | None = None
    fail_after: int | None = None

    def answer(self, texts: list[str]) -> list[list[float]]:
        if self.fail_after is not None and len(self.texts) >= self.fail_after:
            raise RuntimeError("the endpoint is down")
        self.texts += texts
        vectors = [bag(text).tolist() for text in texts]
        return vectors if self.spoil is None else self.spoil(vectors)


def bag(text: str, size: int = 256) -> np.ndarray:
    """A vector of hashed words."""
    vector = np.zeros(size)
    for word in text.casefold().split():
        digest = hashlib.sha256(word.encode()).digest()
        vector[int.from_bytes(digest[:2]) % size] += 1
    return vector / (np.linalg.norm(vector) or 1)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An OpenAI-compatible server on a free port."""
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                vectors = state.answer(body["input"])
                answer = {"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)]}
                status, content = 200, json.dumps(answer).encode()
            except RuntimeError as error:
                status, content = 503, str(error).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    server.server_close()


@dataclass
class Bench:
    """A dataset service without its bus."""

    database: Database
    library: Library
    data: Path

    async def add(self, name: str, rows: list[dict[str, Any]], holdout: float = 0.0) -> str:
        """Freeze rows; returns the version."""
        source = self.data / f"{name}.jsonl"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        dataset_id = new_id()
        frozen = await asyncio.to_thread(
            freeze,
            [SourceFile(source, source.name)],
            name=name,
            holdout=holdout,
            versions_dir=self.library.versions_dir / name,
            owner=str(dataset_id),
        )
        await publish(self.database, dataset_id, "default", name, frozen)
        return frozen.version

    async def embed(self, name: str, version: str, **options: Any) -> dict[str, Any]:
        """Embed a version by the endpoint; returns the embedding's row."""
        event = EmbeddingRequested(
            embedding_id=new_id(), name=name, version=version, ask=EmbedAsk(model=MODEL, **options)
        )
        async with self.database.unit() as unit:
            await store.add_embedding(unit, event, MODEL)
        payload = {"embedding_id": str(event.embedding_id)}
        await self.work("embed", payload, lambda held: embed(held, self.database, self.library))
        row = await store.embedding(self.database.engine, event.embedding_id)
        assert row is not None
        return dict(row)

    async def work(self, kind: str, payload: dict[str, Any], do: Callable[[Held], Awaitable[None]]) -> None:
        """Put work in, take it out, do it."""
        async with self.database.unit() as unit:
            enqueue(unit, Queue.PREPROCESSING, kind, payload, dedup_key=f"{kind}:{new_id()}")
        await self.take(kind, do)

    async def take(self, kind: str, do: Callable[[Held], Awaitable[None]], lease: float = 60) -> None:
        """Take work that is there and do it."""
        async with self.database.unit() as unit:
            work = await claim(unit, [kind], "test", timedelta(seconds=lease))
        assert work is not None
        await do(Held(work))


@pytest_asyncio.fixture
async def bench(database_url: str, data_dir: Path, endpoint: Endpoint) -> AsyncIterator[Bench]:
    """The service's parts on a fresh database, indexed by the scan alone."""
    settings = DatasetSettings(
        data_dir=data_dir, database_url=database_url, embedding_url=endpoint.url, milvus_uri=None, vector_index="scan"
    )
    database = Database.connect(database_url, "dataset")
    library = Library(database, settings)
    yield Bench(database, library, data_dir)
    await library.close()
    await database.close()


async def problem_of(thing: Awaitable[Any]) -> LtpError:
    """The error that something must end with."""
    with pytest.raises(LtpError) as caught:
        await thing
    return caught.value
