"""Vectors in Milvus: a real server, or the Milvus Lite server of `ltp up`.

Milvus Lite loses acknowledged rows when two clients write the same collection, so all writes go through one lock of the
one dataset service. It also compares primary keys in Python for each query (0.5 s at 100,000 rows): `scan` reads
instead wherever the vectors fit (docs/adr/0007-exact-scan.md).
"""

# pymilvus has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.vectors.index import F32, Hits, Mask, ranked

T = TypeVar("T")

_BATCH = 2000
# Filters with fewer rows are given to Milvus as a list of rows; with more, its answer is asked for longer and sifted.
_LISTED = 4000
_MOST = 16_384  # Milvus answers with no more rows than this
_TIMEOUT_SECONDS = 20.0


class MilvusIndex:
    """One collection a set, named after its key. A set is whole when the collection has its `complete` alias."""

    name = "milvus"

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._client: MilvusClient | None = None
        self._connecting = threading.Lock()
        self._writing = asyncio.Lock()

    async def rows(self, key: str) -> int | None:
        return await self._ask(lambda client: self._rows(client, key))

    async def rebuild(self, key: str, vectors: F32) -> None:
        async with self._writing:
            await self._ask(lambda client: self._rebuild(client, key, vectors))

    async def search(self, key: str, query: F32, limit: int, allowed: Mask | None = None) -> Hits:
        return await self._ask(lambda client: self._search(client, key, query, limit, allowed))

    async def drop(self, key: str) -> None:
        async with self._writing:
            await self._ask(lambda client: self._drop(client, key))

    async def _ask(self, question: Callable[[MilvusClient], T]) -> T:
        """Ask Milvus in a thread. Raises LtpError SERVICE_UNAVAILABLE when it cannot be reached or refuses."""
        try:
            return await asyncio.to_thread(lambda: question(self._connected()))
        except (MilvusException, OSError, ValueError) as error:
            self._client = None
            reason = str(getattr(error, "message", error)).splitlines()[0][:300]
            raise LtpError(
                ErrorCode.SERVICE_UNAVAILABLE,
                f"Milvus at {self.uri.rpartition('@')[2]} failed: {reason}",
                "Start it again (`ltp status` shows it); vectors are safe in Postgres and searches need only those.",
            ) from error

    def _connected(self) -> MilvusClient:
        with self._connecting:
            if self._client is None:
                self._client = MilvusClient(self.uri, timeout=_TIMEOUT_SECONDS)
            return self._client

    def _rows(self, client: MilvusClient, key: str) -> int | None:
        if not client.has_collection(_collection(key)):
            return None
        count = client.query(_collection(key), filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(count[0]["count(*)"])

    def _rebuild(self, client: MilvusClient, key: str, vectors: F32) -> None:
        name = _collection(key)
        self._drop(client, key)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        params = client.prepare_index_params()
        # Exact, like the other indexes: on Milvus Lite HNSW gains nothing and takes minutes to build.
        params.add_index("vector", index_type="FLAT", metric_type="IP")
        client.create_collection(name, schema=schema, index_params=params)
        for start in range(0, len(vectors), _BATCH):
            part = vectors[start : start + _BATCH]
            present = np.flatnonzero(np.einsum("ij,ij->i", part, part) > 0)
            rows = [{"row": start + int(i), "vector": part[i].tolist()} for i in present]
            if rows:
                client.insert(name, rows)
        client.flush(name)

    def _search(self, client: MilvusClient, key: str, query: F32, limit: int, allowed: Mask | None) -> Hits:
        few = None if allowed is None else np.flatnonzero(allowed)
        if few is not None and len(few) == 0:
            return ranked(np.empty(0, np.int64), np.empty(0, np.float32), limit)
        listed = few is not None and len(few) <= _LISTED
        asked = min(_MOST, limit)
        while True:
            found = client.search(
                _collection(key),
                data=[query.tolist()],
                limit=asked,
                filter=f"row in {few.tolist()}" if listed and few is not None else "",
                search_params={"metric_type": "IP"},
                consistency_level="Strong",
            )[0]
            hits = self._hits(found, None if listed else allowed, limit)
            if len(hits.row) >= limit or len(found) < asked or asked >= _MOST:
                return hits
            asked = min(_MOST, asked * 4)

    def _hits(self, found: list[dict[str, Any]], allowed: Mask | None, limit: int) -> Hits:
        rows = np.array([hit["row"] if "row" in hit else hit["id"] for hit in found], dtype=np.int64)
        scores = np.array([hit["distance"] for hit in found], dtype=np.float32)
        if allowed is not None:
            rows, scores = rows[allowed[rows]], scores[allowed[rows]]
        return ranked(rows, scores, limit)

    def _drop(self, client: MilvusClient, key: str) -> None:
        if client.has_collection(_collection(key)):
            client.drop_collection(_collection(key))


def _collection(key: str) -> str:
    return f"ltp_{key}"
