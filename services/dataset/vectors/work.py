"""The work of embedding a version: batches into the cache, then the indexes. Killed anywhere, it goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np
import structlog

from ltp.contracts.dedup import TextPart, VersionRef
from ltp.contracts.search import EmbedAsk, EmbeddingCompleted, EmbeddingFailed, EmbeddingRequested
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset.dedup.texts import distinct, text_key
from services.dataset.vectors import store
from services.dataset.vectors.encoder import Encoder
from services.dataset.vectors.index import F32
from services.dataset.vectors.library import Library, matrix_key
from services.dataset.vectors.rows import Frozen
from services.dataset.versions import Settle

_BATCH = 128


@dataclass(frozen=True)
class _Texts:
    """The distinct, non-empty texts of a version, and for each row which of them is its own (-1: empty)."""

    texts: list[str]
    keys: list[bytes]
    where: np.ndarray[Any, np.dtype[np.int64]]


async def embed(held: Held, database: Database, library: Library) -> None:
    """Make the vectors of one embedding, index them, say so."""
    await _embed(held, database, library, UUID(held.work.payload["embedding_id"]), lambda unit: finish(unit, held.work))


async def ensure_vectors(
    held: Held, database: Database, library: Library, frozen: Frozen, part: TextPart, model: str | None
) -> Path:
    """The file of the vectors [rows, d] of a version, made in the course of other work when there are none."""
    found = await store.latest(database.engine, frozen.version, part, library.label(model))
    if found is None:
        # The same id when this work is done again, so that it goes on with what it began.
        embedding_id = uuid5(held.work.id, f"{frozen.version}:{part}")
        event = EmbeddingRequested(
            embedding_id=embedding_id, name=frozen.name, version=frozen.version, ask=EmbedAsk(part=part, model=model)
        )
        async with database.unit() as unit:
            await store.add_embedding(unit, event, library.label(model))
        await _embed(held, database, library, embedding_id, _nothing)
        found = await store.latest(database.engine, frozen.version, part, library.label(model))
        assert found is not None
    return await vectors_of(database, library, frozen, found)


async def _nothing(_: Unit) -> None:
    """Settle nothing: the work goes on."""


async def _embed(held: Held, database: Database, library: Library, embedding_id: UUID, settle: Settle) -> None:
    row = await store.embedding(database.engine, embedding_id)
    assert row is not None
    encoder = await library.encoder(row["model"])
    model_key = await encoder.key()
    frozen = await library.frozen(VersionRef(name=row["name"], version=row["version"]))
    rows = await library.rows(frozen, row["part"])
    texts = await asyncio.to_thread(_distinct_texts, rows.texts)
    await _fill_cache(held, database, embedding_id, encoder, model_key, texts)
    vectors = await _matrix(database, model_key, texts)
    key = matrix_key(frozen.version, row["part"], model_key)
    await library.scan.rebuild(key, vectors)
    await library.words(frozen, row["part"])
    index, problem = await _index_beside(library, key, vectors)
    await _complete(database, row, model_key, vectors, index, problem, settle)
    library.forget_embedding(frozen.version, row["part"], row["model"])


async def fail_embedding(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why the vectors could not be made."""
    embedding_id = UUID(work.payload["embedding_id"])
    if await store.end_embedding(unit, embedding_id, state="failed", problem=problem.model_dump()):
        unit.emit(EmbeddingFailed(embedding_id=embedding_id, problem=problem), about=embedding_id)


async def vectors_of(database: Database, library: Library, frozen: Frozen, row: Mapping[str, Any]) -> Path:
    """The file of the vectors [rows, d] of a completed embedding, written from the cache when it is gone."""
    key = matrix_key(frozen.version, row["part"], row["model_key"])
    if not await asyncio.to_thread(library.scan.has, key):
        rows = await library.rows(frozen, row["part"])
        texts = await asyncio.to_thread(_distinct_texts, rows.texts)
        await library.scan.rebuild(key, await _matrix(database, row["model_key"], texts))
    return library.scan.path(key)


def _distinct_texts(texts: list[str]) -> _Texts:
    first, where = distinct(texts)
    filled = np.array([bool(texts[row].strip()) for row in first.tolist()], dtype=np.bool_)
    place = np.where(filled, np.cumsum(filled) - 1, -1)
    kept = [texts[row] for row in first[filled].tolist()]
    return _Texts(kept, [text_key(text) for text in kept], place[where])


async def _fill_cache(
    held: Held, database: Database, embedding_id: UUID, encoder: Encoder, model_key: str, texts: _Texts
) -> None:
    known = await store.cached_keys(database.engine, model_key, texts.keys)
    missing = [i for i, key in enumerate(texts.keys) if key not in known]
    counts = {"rows": len(texts.where), "texts": len(texts.keys), "empty": int((texts.where < 0).sum())}
    async with database.unit() as unit:
        before = await store.embedding(database.engine, embedding_id)
        # What an interrupted try of this very request made is not "known before".
        cached = before["cached"] if before and before["state"] == "running" else len(known)
        done = {"done": len(known), "cached": cached}
        await store.change_embedding(unit, embedding_id, state="running", model_key=model_key, **counts, **done)
    truncated = 0
    # Texts of about the same length together: the model pads to the longest of a batch.
    missing.sort(key=lambda i: len(texts.texts[i]))
    for start in range(0, len(missing), _BATCH):
        if held.cancelled.is_set():
            raise LtpError(ErrorCode.EMBEDDING_FAILED, "The embedding was cancelled.", "What is done is kept.")
        part = missing[start : start + _BATCH]
        encoded = await encoder.encode([texts.texts[i] for i in part])
        truncated += encoded.truncated
        async with database.unit() as unit:
            await store.keep_vectors(unit, model_key, [texts.keys[i] for i in part], encoded.vectors)
            done = {"done": len(known) + start + len(part), "truncated": truncated}
            await store.change_embedding(unit, embedding_id, dimension=encoded.vectors.shape[1], **done)


async def _matrix(database: Database, model_key: str, texts: _Texts) -> F32:
    """One vector a row, from the cache; zero for rows without text. Raises VECTORS_INVALID for mixed dimensions."""
    found: F32 | None = None
    for start in range(0, len(texts.keys), 5000):
        keys = texts.keys[start : start + 5000]
        part = await store.cached_vectors(database.engine, model_key, keys)
        for place, key in enumerate(keys, start=start):
            if found is None:
                found = np.zeros((len(texts.keys), len(part[key])), dtype=np.float32)
            if len(part[key]) != found.shape[1]:
                message = f"The model gave vectors of {found.shape[1]} and of {len(part[key])} numbers."
                raise LtpError(ErrorCode.VECTORS_INVALID, message, "It changed behind its name; give it another name.")
            found[place] = part[key]
    if found is None:
        message = "No row of the version has any text in that part."
        raise LtpError(ErrorCode.DATASET_EMPTY, message, "Choose another --part.")
    matrix = np.zeros((len(texts.where), found.shape[1]), dtype=np.float32)
    filled = texts.where >= 0
    matrix[filled] = found[texts.where[filled]]
    return matrix


async def _index_beside(library: Library, key: str, vectors: F32) -> tuple[str | None, LtpError | None]:
    """Bring the other index in step. Its trouble does not undo the embedding: searches go on by scan."""
    index = library.beside
    if index is None:
        return None, None
    try:
        if await index.rows(key) != int(vectors.any(axis=1).sum()):
            await index.rebuild(key, vectors)
        return index.name, None
    except LtpError as error:
        structlog.get_logger().warning("vectors not indexed", index=index.name, reason=error.message)
        return None, error


async def _complete(
    database: Database,
    row: Mapping[str, Any],
    model_key: str,
    vectors: F32,
    index: str | None,
    problem: LtpError | None,
    settle: Settle,
) -> None:
    embedding_id: UUID = row["embedding_id"]
    noted = None if problem is None else Problem.of(problem).model_dump()
    async with database.unit() as unit:
        values = {"model_key": model_key, "dimension": vectors.shape[1], "index": index, "problem": noted}
        if await store.end_embedding(unit, embedding_id, state="completed", **values):
            fact = EmbeddingCompleted(
                embedding_id=embedding_id,
                name=row["name"],
                version=row["version"],
                model=row["model"],
                dimension=vectors.shape[1],
                rows=len(vectors),
            )
            unit.emit(fact, about=embedding_id)
        else:
            await store.note_index(unit, embedding_id, index, noted)
        await settle(unit)
