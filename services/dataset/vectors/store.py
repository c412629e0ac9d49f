"""The tables of vectors: what was embedded, and the cache of vectors by model and text, which is the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

import numpy as np
from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Uuid,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.contracts.search import Embedding, EmbeddingRequested
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order
from services.dataset.vectors.index import F32

SCHEMA = "dataset"
_KEYS_A_QUERY = 5000

vector_cache = Table(
    "vector_cache",
    metadata,
    # The model's fingerprint and the text's hash: the same text under the same model has the same vector, once.
    Column("model_key", String, nullable=False),
    Column("text_key", LargeBinary, nullable=False),
    # float32, little endian, length 1.
    Column("vector", LargeBinary, nullable=False),
    PrimaryKeyConstraint("model_key", "text_key"),
    schema=SCHEMA,
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("embedding_id", Uuid, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("version", String, nullable=False, index=True),
    Column("part", String, nullable=False),
    Column("model", String, nullable=False),
    Column("model_key", String),
    Column("state", String, nullable=False),
    Column("dimension", Integer),
    Column("rows", Integer),
    Column("texts", Integer),
    Column("done", Integer, nullable=False, server_default="0"),
    Column("cached", Integer, nullable=False, server_default="0"),
    Column("empty", Integer, nullable=False, server_default="0"),
    Column("truncated", Integer, nullable=False, server_default="0"),
    # Which index, beside the scan, holds the vectors.
    Column("index", String),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    schema=SCHEMA,
)


async def add_embedding(unit: Unit, event: EmbeddingRequested, model: str) -> None:
    """Note a request."""
    values = {"name": event.name, "version": event.version, "part": event.ask.part, "model": model, "state": "queued"}
    await unit.execute(insert(embeddings).values(embedding_id=event.embedding_id, **values).on_conflict_do_nothing())


async def change_embedding(unit: Unit, embedding_id: UUID, **values: Any) -> bool:
    """Change one that is not over; False when it is."""
    statement = update(embeddings).where(embeddings.c.embedding_id == embedding_id, embeddings.c.ended_at.is_(None))
    return await unit.change(statement.values(**values)) == 1


async def note_index(unit: Unit, embedding_id: UUID, index: str | None, problem: dict[str, Any] | None) -> None:
    """Note which index holds the vectors, or why none does."""
    statement = update(embeddings).where(embeddings.c.embedding_id == embedding_id)
    await unit.execute(statement.values(index=index, problem=problem))


async def end_embedding(unit: Unit, embedding_id: UUID, **values: Any) -> bool:
    """Note the end once."""
    return await change_embedding(unit, embedding_id, ended_at=now(), **values)


async def embedding(engine: AsyncEngine, embedding_id: UUID) -> Mapping[str, Any] | None:
    """One embedding."""
    async with engine.connect() as connection:
        found = await connection.execute(select(embeddings).where(embeddings.c.embedding_id == embedding_id))
        return cast(Any, found.mappings().one_or_none())


async def latest(engine: AsyncEngine, version: str, part: str, model: str) -> Mapping[str, Any] | None:
    """The newest completed embedding of a version."""
    wanted = (embeddings.c.version == version, embeddings.c.part == part, embeddings.c.model == model)
    statement = select(embeddings).where(*wanted, embeddings.c.state == "completed")
    async with engine.connect() as connection:
        found = await connection.execute(statement.order_by(embeddings.c.created_at.desc()).limit(1))
        return cast(Any, found.mappings().one_or_none())


async def listed(engine: AsyncEngine, name: str | None, version: str | None, page: PageQuery) -> list[Embedding]:
    """A page of embeddings."""
    statement = in_order(select(embeddings), page, embeddings.c.embedding_id, {"state": embeddings.c.state})
    if name is not None:
        statement = statement.where(embeddings.c.name == name)
    if version is not None:
        statement = statement.where(embeddings.c.version == version)
    async with engine.connect() as connection:
        return [shown(cast(Any, row)) for row in (await connection.execute(statement)).mappings()]


def shown(row: Mapping[str, Any]) -> Embedding:
    """A row of the table as others see it."""
    return Embedding.model_validate(dict(row))


async def cached_keys(engine: AsyncEngine, model_key: str, text_keys: Sequence[bytes]) -> set[bytes]:
    """Which texts have their vector."""
    found: set[bytes] = set()
    async with engine.connect() as connection:
        for start in range(0, len(text_keys), _KEYS_A_QUERY):
            part = text_keys[start : start + _KEYS_A_QUERY]
            statement = select(vector_cache.c.text_key).where(
                vector_cache.c.model_key == model_key, vector_cache.c.text_key.in_(part)
            )
            found.update(bytes(key) for key in (await connection.execute(statement)).scalars())
    return found


async def cached_vectors(engine: AsyncEngine, model_key: str, text_keys: Sequence[bytes]) -> dict[bytes, F32]:
    """The vectors of some texts, by text."""
    found: dict[bytes, F32] = {}
    async with engine.connect() as connection:
        for start in range(0, len(text_keys), _KEYS_A_QUERY):
            part = text_keys[start : start + _KEYS_A_QUERY]
            statement = select(vector_cache.c.text_key, vector_cache.c.vector).where(
                vector_cache.c.model_key == model_key, vector_cache.c.text_key.in_(part)
            )
            for key, vector in await connection.execute(statement):
                found[bytes(key)] = np.frombuffer(vector, dtype="<f4")
    return found


async def keep_vectors(unit: Unit, model_key: str, text_keys: Sequence[bytes], vectors: F32) -> None:
    """Add vectors to the cache; one that is there stays."""
    rows = [
        {"model_key": model_key, "text_key": key, "vector": vector.astype("<f4").tobytes()}
        for key, vector in zip(text_keys, vectors, strict=True)
    ]
    await unit.execute(insert(vector_cache).on_conflict_do_nothing(), rows)
