"""Search over HTTP in the embedded stack: 100,000 rows, filters, words, and the query's own embedding, held against the bar.

The rows' texts are made up and their vectors are drawn (embedding 100,000 texts would take half an hour); they are put
into the cache of the platform's own Postgres, and everything from there on is the product: `ltp dataset embed`, the
index, the API. Queries by text are embedded by the real model. Recall is held against comparing all vectors in float64.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pymilvus import MilvusClient

from ltp.store.database import Database
from ltp.up.servers import database_url
from ltp.up.state import DataDir
from services.dataset.dedup.texts import text_key
from services.dataset.vectors import store
from services.dataset.vectors.encoder import LocalEncoder, model_directory
from tests.bench.result import Result, at_least, at_most, lower_is_better

ROWS, SIZE, QUERIES, TOP = int(os.environ.get("LTP_BENCH_ROWS", "100000")), 384, 200, 10
LTP = str(Path(sys.executable).with_name("ltp"))


def run() -> list[Result]:
    """All lines of the suite; the platform is started on a directory of its own and removed."""
    data = Path(tempfile.mkdtemp(prefix="ltp-bench-search-"))
    environment = {**os.environ, "LTP_DATA_DIR": str(data)}
    try:
        subprocess.run([LTP, "up", "-d"], env=environment, check=True, stdout=subprocess.DEVNULL)
        return _measured(data, environment)
    finally:
        subprocess.run([LTP, "down"], env=environment, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(data, ignore_errors=True)


def _measured(data: Path, environment: dict[str, str]) -> list[Result]:
    texts = _texts()
    source = data / "rows.jsonl"
    with source.open("w") as file:
        for i, text in enumerate(texts):
            row = {"id": f"r{i}", "prompt": text, "response": "ok", "tenant": f"t{i % 10}", "level": i % 100}
            file.write(json.dumps(row) + "\n")
    _ltp(environment, "dataset", "add", str(source), "--name", "big", "--holdout", "0")
    vectors = _vectors()
    record = json.loads((data / "run.json").read_text())
    port = int(record["ports"]["postgres"])
    asyncio.run(_fill(database_url(DataDir(data), port), texts, vectors))
    began = time.perf_counter()
    made = json.loads(_ltp(environment, "dataset", "embed", "big", "--part", "prompt", "--json"))
    print(
        f"embed (all cached) and index {ROWS} rows: {time.perf_counter() - began:.1f} s; index beside: {made['index']}"
    )
    token = (data / "secrets" / "token").read_text().strip()
    url = f"{record['urls']['gateway']}/api/v1/datasets/big/search"
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=120) as client:
        return _lines(lambda body: _ask(client, url, body), texts, vectors, record["urls"].get("milvus"))


def _lines(
    ask: Callable[[dict[str, Any]], dict[str, Any]], texts: list[str], vectors: np.ndarray, milvus: str | None
) -> list[Result]:
    rng = random.Random(3)
    chosen = rng.sample(range(ROWS), QUERIES)
    base = {"part": "prompt", "limit": TOP}
    by_row = [base | {"row_id": f"r{i}", "mode": "semantic"} for i in chosen]
    filtered = [
        b | {"where": [{"field": "tenant", "value": "t3"}, {"field": "level", "op": "lt", "value": 50}]} for b in by_row
    ]
    fresh = [base | {"text": f"{texts[i]} {i}", "mode": "hybrid"} for i in chosen]
    lexical = [base | {"text": texts[i], "mode": "lexical"} for i in chosen]
    for body in (by_row[0], fresh[0] | {"text": "warm"}, lexical[0]):
        ask(body)
    answers, times = _timed(ask, by_row)
    results = _times("by row", times)
    results.append(at_least("recall@10 against comparing all", [_recall(answers, chosen, vectors)], 0.99, unit="share"))
    results += _times("by row, two conditions", _timed(ask, filtered)[1])
    results += _times("by words", _timed(ask, lexical)[1])
    results += _times("hybrid by text, query known", _twice(ask, fresh))
    results += _times("hybrid by text, query embedded", _timed(ask, [b | {"text": f"{b['text']} z"} for b in fresh])[1])
    short = [b | {"text": f"how do I get {texts[i].split()[0]} back {i}"} for b, i in zip(fresh, chosen, strict=True)]
    results += _times("hybrid by seven words, query embedded", _timed(ask, short)[1])
    if milvus is not None:
        theirs = _milvus(milvus, vectors[chosen[:20]])
        results.append(
            lower_is_better(
                "by row against Milvus Lite alone: p50", [_p(times, 50)], [theirs], "Milvus Lite", unit="ms", bar=None
            )
        )
    return results


def _times(name: str, times: list[float]) -> list[Result]:
    return [
        at_most(f"{name}: p50", [_p(times, 50)], 20.0, unit="ms"),
        at_most(f"{name}: p99", [_p(times, 99)], 100.0, unit="ms"),
    ]


def _timed(
    ask: Callable[[dict[str, Any]], dict[str, Any]], bodies: list[dict[str, Any]]
) -> tuple[list[Any], list[float]]:
    answers, times = [], []
    for body in bodies:
        began = time.perf_counter()
        answers.append(ask(body))
        times.append((time.perf_counter() - began) * 1e3)
    return answers, times


def _twice(ask: Callable[[dict[str, Any]], dict[str, Any]], bodies: list[dict[str, Any]]) -> list[float]:
    times: list[float] = []
    for body in bodies:
        ask(body)
        times += _timed(ask, [body])[1]
    return times


def _p(times: list[float], share: float) -> float:
    return float(np.percentile(times, share))


def _recall(answers: list[dict[str, Any]], chosen: list[int], vectors: np.ndarray) -> float:
    """Ties at the border do not occur among drawn vectors."""
    wide = vectors.astype(np.float64)
    found = 0
    for answer, row in zip(answers, chosen, strict=True):
        scores = wide @ wide[row]
        scores[row] = -2
        best = set(np.argpartition(scores, -TOP)[-TOP:].tolist())
        shown = np.array([hit["cosine"] for hit in answer["rows"]])
        # Rows are known to the API by their content's hash; their cosines name them here.
        found += int((shown >= scores[list(best)].min() - 1e-6).sum())
    return found / (TOP * len(chosen))


def _milvus(uri: str, queries: np.ndarray) -> float:
    client = MilvusClient(uri)
    collection = client.list_collections()[0]
    times = []
    for query in queries:
        began = time.perf_counter()
        client.search(collection, data=[query.tolist()], limit=TOP, search_params={"metric_type": "IP"})
        times.append((time.perf_counter() - began) * 1e3)
    return _p(times, 50)


def _ask(client: httpx.Client, url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(url, json=body)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _texts() -> list[str]:
    rng = random.Random(1)
    words = [
        f"{a}{b}{c}"
        for a in "bdfglmnprst"
        for b in ("ar", "el", "in", "os", "um", "ka")
        for c in ("ton", "vek", "lis", "dor", "mi", "ra")
    ]
    weights = [1 / (i + 3) for i in range(len(words))]
    return [" ".join(rng.choices(words, weights, k=24)) + f" {i}" for i in range(ROWS)]


def _vectors() -> np.ndarray:
    random_ = np.random.default_rng(2)
    spectrum = 1 / np.sqrt(1 + np.arange(SIZE) / 60)
    centres = random_.standard_normal((ROWS // 50, SIZE)) * spectrum
    made = centres[random_.integers(0, len(centres), ROWS)] + random_.standard_normal((ROWS, SIZE)) * spectrum
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


async def _fill(url: str, texts: list[str], vectors: np.ndarray) -> None:
    encoder = LocalEncoder(model_directory(None, Path()))
    key = await encoder.key()
    await encoder.close()
    database = Database.connect(url, "dataset")
    for start in range(0, len(texts), 5000):
        part = slice(start, start + 5000)
        async with database.unit() as unit:
            await store.keep_vectors(unit, key, [text_key(text) for text in texts[part]], vectors[part])
    await database.close()


def _ltp(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run([LTP, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ltp {' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout
