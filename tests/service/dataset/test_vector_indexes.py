"""One specification for every vector index: the scan, Milvus (a real Milvus Lite server) and pgvector."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.engine import make_url

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.vectors.index import VectorIndex
from services.dataset.vectors.milvus import MilvusIndex
from services.dataset.vectors.pgvector import PgvectorIndex
from services.dataset.vectors.scan import ScanIndex
from tests.conftest import free_port, until
from tests.service.dataset.conftest import problem_of

KEY = "0123456789abcdef0123456789abcdef"
ROWS, SIZE = 3000, 48


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    random = np.random.default_rng(11)
    made = random.standard_normal((ROWS, SIZE)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    made[17] = 0.0  # a row without text
    return made


@pytest.fixture(scope="module")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("milvus_lite")
    port = free_port()
    argv = [sys.executable, "-m", "milvus_lite.cmdline", "server", "--data-dir", str(tmp_path_factory.mktemp("milvus"))]
    process = subprocess.Popen([*argv, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture(params=["scan", "milvus", "pgvector"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> VectorIndex:
    if request.param == "scan":
        return ScanIndex(tmp_path)
    if request.param == "milvus":
        return MilvusIndex(request.getfixturevalue("milvus_uri"))
    return PgvectorIndex(make_url(request.getfixturevalue("database_url")))


async def _ready(index: VectorIndex) -> None:
    async def answers() -> bool:
        try:
            await index.rows(KEY)
        except LtpError:
            return False
        return True

    await until(answers, 60)


async def test_an_index_finds_what_comparing_all_finds(index: VectorIndex, vectors: np.ndarray) -> None:
    await _ready(index)
    await index.drop(KEY)
    assert await index.rows(KEY) is None
    await index.rebuild(KEY, vectors)
    assert await index.rows(KEY) == ROWS - 1

    random = np.random.default_rng(5)
    some = random.random(ROWS) < 0.6
    few = np.isin(np.arange(ROWS), random.choice(ROWS, 7, replace=False))
    found = total = 0
    for query in random.standard_normal((20, SIZE)).astype(np.float32):
        unit = query / np.linalg.norm(query)
        for allowed in (None, some, few):
            scores = np.where(vectors.any(axis=1) & (True if allowed is None else allowed), vectors @ unit, -2.0)
            best = [row for row in np.argsort(-scores)[:10] if scores[row] > -2]
            hits = await index.search(KEY, unit, 10, allowed)
            found += len(set(best) & set(hits.row.tolist()))
            total += len(best)
            assert hits.score.tolist() == sorted(hits.score.tolist(), reverse=True)
            assert np.allclose(hits.score, scores[hits.row], atol=1e-5)
            assert 17 not in hits.row
    assert found / total >= 0.99

    # Again, with fewer rows: nothing of before is left.
    await index.rebuild(KEY, vectors[:100])
    assert await index.rows(KEY) == 99
    unit = vectors[500]
    assert (await index.search(KEY, unit, 200)).row.max() < 100
    none = await index.search(KEY, unit, 10, np.zeros(100, np.bool_))
    assert len(none.row) == 0
    await index.drop(KEY)
    assert await index.rows(KEY) is None


async def test_milvus_that_is_down_is_named() -> None:
    index = MilvusIndex(f"http://127.0.0.1:{free_port()}")
    error = await problem_of(index.rows(KEY))
    assert error.code is ErrorCode.SERVICE_UNAVAILABLE and "Milvus" in error.message


async def test_a_matrix_cut_short_counts_as_none(tmp_path: Path, vectors: np.ndarray) -> None:
    index = ScanIndex(tmp_path)
    await index.rebuild(KEY, vectors)
    whole = index.path(KEY).read_bytes()
    index.path(KEY).write_bytes(whole[: len(whole) // 2])
    assert await ScanIndex(tmp_path).rows(KEY) is None
