"""Vectors in Postgres through the extension `vector`: the second index, transactional and open to many writers."""

# asyncpg has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false
from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import numpy as np
from sqlalchemy.engine import URL

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.vectors.index import F32, Hits, Mask, ranked

_SCHEMA = "dataset_vectors"
_BATCH = 1000
# Below this an exact scan is as quick as the graph and needs no building; the graph takes at most 2000 dimensions.
_GRAPH_FROM_ROWS, _GRAPH_DIMENSIONS = 20_000, 2000
_EF_SEARCH = 400


class PgvectorIndex:
    """One table a set, which appears under its name only when it is whole."""

    name = "pgvector"

    def __init__(self, url: URL) -> None:
        self._url = url

    async def rows(self, key: str) -> int | None:
        async with self._connection() as connection:
            if await connection.fetchval("SELECT to_regclass($1)", _table(key)) is None:
                return None
            count: Any = await connection.fetchval(f"SELECT count(*) FROM {_table(key)}")  # noqa: S608 - hexadecimal
            return int(count)

    async def rebuild(self, key: str, vectors: F32) -> None:
        async with self._connection() as connection:
            await self._require_extension(connection)
            async with connection.transaction():
                await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
                await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", _table(key))
                await connection.execute(f"DROP TABLE IF EXISTS {_table(key)}")
                column = f"vector public.vector({vectors.shape[1]}) NOT NULL"
                await connection.execute(f'CREATE TABLE {_table(key)} ("row" bigint PRIMARY KEY, {column})')
                await connection.copy_to_table(f"v_{key}", schema_name=_SCHEMA, source=_lines(vectors))
                if len(vectors) >= _GRAPH_FROM_ROWS and vectors.shape[1] <= _GRAPH_DIMENSIONS:
                    await connection.execute("SET LOCAL maintenance_work_mem = '512MB'")
                    await connection.execute(
                        f"CREATE INDEX ON {_table(key)} USING hnsw (vector public.vector_ip_ops)", timeout=3600
                    )

    async def search(self, key: str, query: F32, limit: int, allowed: Mask | None = None) -> Hits:
        literal = _literal(query)
        condition, values = "", [literal, limit]
        if allowed is not None:
            condition = 'WHERE "row" = ANY($3::bigint[])'
            values.append(np.flatnonzero(allowed).tolist())
        # The row number breaks ties outside, so that the graph can serve the inner order.
        statement = (
            f'SELECT "row", -(vector <#> $1::text::public.vector) AS score FROM {_table(key)} {condition} '  # noqa: S608
            "ORDER BY vector <#> $1::text::public.vector LIMIT $2"
        )
        async with self._connection() as connection, connection.transaction():
            await connection.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(_EF_SEARCH, limit))}")
            await connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            found = await connection.fetch(statement, *values)
        rows = np.array([record["row"] for record in found], dtype=np.int64)
        return ranked(rows, np.array([record["score"] for record in found], dtype=np.float32), limit)

    async def drop(self, key: str) -> None:
        async with self._connection() as connection:
            await connection.execute(f"DROP TABLE IF EXISTS {_table(key)}")

    async def _require_extension(self, connection: asyncpg.Connection) -> None:
        try:
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
        except asyncpg.PostgresError as error:
            raise LtpError(
                ErrorCode.DEPENDENCY_MISSING,
                f"This Postgres has no extension `vector` that we may use: {error}.",
                "As its superuser: CREATE EXTENSION vector; or set LTP_VECTOR_INDEX to milvus or scan.",
            ) from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        url = self._url
        try:
            connection = await asyncpg.connect(
                host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
            )
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            message = f"Postgres cannot be reached ({type(error).__name__})."
            raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "`ltp status` shows what is down.") from error
        try:
            yield connection
        finally:
            await connection.close()


def _table(key: str) -> str:
    if not key.isalnum():
        raise ValueError(f"{key!r} is no key")
    return f"{_SCHEMA}.v_{key}"


def _literal(vector: F32) -> str:
    return "[" + ",".join(map(repr, vector.astype(float).tolist())) + "]"


async def _lines(vectors: F32) -> AsyncIterator[bytes]:
    """The vectors in COPY's text form; zero vectors are left out, since they are similar to nothing."""
    for start in range(0, len(vectors), _BATCH):
        part = vectors[start : start + _BATCH]
        present = np.flatnonzero(np.einsum("ij,ij->i", part, part) > 0)
        yield "".join(f"{start + int(i)}\t{_literal(part[i])}\n" for i in present).encode()
