"""Answers a search: the query's vector and words, the rows that may be found, and one order that pages never break."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltp.contracts.search import Found, SearchAsk, SearchPage, SearchRequest
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from services.dataset.vectors.filters import mask_of
from services.dataset.vectors.index import F32, Hits, Mask, VectorIndex
from services.dataset.vectors.library import Library, matrix_key
from services.dataset.vectors.rows import Frozen, RowsFile
from services.dataset.vectors.work import vectors_of

# Ranks that hybrid search fuses, and the furthest that pages reach.
FUSED, DEEPEST = 1000, 10_000
# Cormack, Clarke and Buettcher 2009.
_RRF = 60
_QUERIES_HELD = 512
# A reply stays below the megabyte that NATS carries.
_REPLY_BYTES = 500_000
_HIDDEN = frozenset({"row_id", "split", "text", "tools_json"})


@dataclass(frozen=True)
class _Ranking:
    """Rows in the order of the answer, with what put them there."""

    rows: list[int]
    scores: list[float]
    semantic: dict[int, tuple[int, float]]
    lexical: dict[int, int]
    index: str


@dataclass
class Search:
    """Searches over a library's versions."""

    library: Library
    database: Database
    _queries: OrderedDict[tuple[str, str], F32] = field(default_factory=OrderedDict[tuple[str, str], F32])
    _in_step: set[str] = field(default_factory=set[str])

    async def page(self, request: SearchRequest) -> SearchPage:
        """One page. Raises LtpError: EMBEDDING_NOT_READY, NOT_FOUND (row), FIELD_UNKNOWN, INVALID_REQUEST."""
        ask = request.ask
        _check(ask)
        frozen = await self.library.frozen(request.target)
        rows = await self.library.rows(frozen, ask.part)
        mask = await asyncio.to_thread(mask_of, rows.table, ask.where)
        like = None if ask.row_id is None else _row_of(rows, ask.row_id)
        if like is not None:
            mask = np.ones(len(rows), np.bool_) if mask is None else mask
            mask[like] = False
        matching = len(rows) if mask is None else int(mask.sum())
        stamp = _stamp(frozen, ask)
        offset = _offset(ask.cursor, stamp)
        ranking = await self._ranked(frozen, rows, ask, like, mask, offset + ask.limit + 1)
        found = _found(rows, ranking, offset, ask.limit)
        more = len(ranking.rows) > offset + ask.limit and offset + ask.limit < DEEPEST
        return SearchPage(
            name=frozen.name,
            version=frozen.version,
            mode=ask.mode,
            index=ranking.index,
            rows=found,
            matching=matching,
            next_cursor=_cursor(offset + ask.limit, stamp) if more else None,
        )

    async def _ranked(
        self, frozen: Frozen, rows: RowsFile, ask: SearchAsk, like: int | None, mask: Mask | None, depth: int
    ) -> _Ranking:
        semantic = lexical = Hits(np.empty(0, np.int64), np.empty(0, np.float32))
        used = "words"
        depth = FUSED if ask.mode == "hybrid" else depth
        if ask.mode != "lexical":
            semantic, used = await self._semantic(frozen, ask, like, mask, depth)
        if ask.mode != "semantic":
            text = ask.text if like is None else rows.table.column("text")[like].as_py()
            words = await self.library.words(frozen, ask.part)
            lexical = await asyncio.to_thread(words.search, text or "", len(rows), depth, mask)
        return _fused(semantic, lexical, ask.mode == "hybrid", used)

    async def _semantic(
        self, frozen: Frozen, ask: SearchAsk, like: int | None, mask: Mask | None, depth: int
    ) -> tuple[Hits, str]:
        embedding = await self.library.embedding(frozen, ask.part, ask.model)
        key = matrix_key(frozen.version, ask.part, embedding["model_key"])
        await vectors_of(self.database, self.library, frozen, embedding)
        vectors = self.library.scan.vectors(key)
        if like is not None:
            query = np.array(vectors[like])
            if not query.any():
                message = f"Row {ask.row_id} has no text in its {ask.part}, so nothing is like it."
                raise LtpError(ErrorCode.INVALID_REQUEST, message, "Choose another row or part.")
        else:
            query = await self._vector(ask, embedding["model_key"])
        if len(query) != vectors.shape[1]:
            raise LtpError(
                ErrorCode.VECTORS_INVALID,
                f"The query's vector has {len(query)} numbers, those of the version {vectors.shape[1]}.",
                "The model changed: run `ltp dataset embed` again.",
            )
        index = await self._index(ask, key, vectors)
        try:
            return await index.search(key, query, depth, mask), index.name
        except LtpError as error:
            if error.code is not ErrorCode.SERVICE_UNAVAILABLE or index.name == "scan":
                raise
        # Its server may have been started again, with rows lost: look at it from the ground, once.
        self._in_step.discard(f"{index.name}:{key}")
        index = await self._index(ask, key, vectors)
        return await index.search(key, query, depth, mask), index.name

    async def _index(self, ask: SearchAsk, key: str, vectors: F32) -> VectorIndex:
        """The scan where it fits in memory, else the index beside it; the one asked for when one is asked for."""
        beside = self.library.beside
        fits = 2 * vectors.size <= self.library.settings.vector_memory_bytes
        if ask.index is None and (fits or beside is None):
            return self.library.scan
        index = beside if ask.index is None and beside is not None else self.library.index(ask.index or "scan")
        if index.name != "scan" and f"{index.name}:{key}" not in self._in_step:
            # Once a life of this process: a crash of a server that loses rows must not lose them silently.
            if await index.rows(key) != int(vectors.any(axis=1).sum()):
                await index.rebuild(key, vectors)
            self._in_step.add(f"{index.name}:{key}")
        return index

    async def _vector(self, ask: SearchAsk, model_key: str) -> F32:
        text = (ask.text or "").strip()
        held = self._queries.get((model_key, text))
        if held is not None:
            self._queries.move_to_end((model_key, text))
            return held
        encoder = await self.library.encoder(ask.model)
        if await encoder.key() != model_key:
            message = f"The embedding model {self.library.label(ask.model)} changed since the rows were embedded."
            raise LtpError(ErrorCode.EMBEDDING_NOT_READY, message, "Run `ltp dataset embed` again.")
        vector = (await encoder.encode([text])).vectors[0]
        self._queries[model_key, text] = vector
        if len(self._queries) > _QUERIES_HELD:
            self._queries.popitem(last=False)
        return vector


def _check(ask: SearchAsk) -> None:
    if (ask.text is None) == (ask.row_id is None):
        message = "A search takes either a text or a row id."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give exactly one of them.")
    if ask.text is not None and not ask.text.strip():
        raise LtpError(ErrorCode.INVALID_REQUEST, "The text to search for is empty.", "Give at least one word.")


def _row_of(rows: RowsFile, row_id: str) -> int:
    for name in ("row_id", "id"):
        if name in rows.table.column_names:
            place: int = pc.index(rows.table.column(name), pa.scalar(row_id, pa.string())).as_py()
            if place >= 0:
                return place
    message = f"There is no row {row_id[:200]!r} in this version."
    raise LtpError(ErrorCode.NOT_FOUND, message, "A search by text shows row ids.")


def _fused(semantic: Hits, lexical: Hits, both: bool, used: str) -> _Ranking:
    """One ranking. For hybrid, each list gives a row 1 / (60 + rank); equal sums stand in the order of rows."""
    by_vector = {
        row: (rank, score)
        for rank, (row, score) in enumerate(zip(semantic.row.tolist(), semantic.score.tolist(), strict=True), start=1)
    }
    by_word = {row: rank for rank, row in enumerate(lexical.row.tolist(), start=1)}
    if not both:
        hits = semantic if used != "words" else lexical
        return _Ranking(hits.row.tolist(), hits.score.tolist(), by_vector, by_word, used)
    total: dict[int, float] = {}
    for ranks in ({row: rank for row, (rank, _) in by_vector.items()}, by_word):
        for row, rank in ranks.items():
            total[row] = total.get(row, 0.0) + 1 / (_RRF + rank)
    order = sorted(total, key=lambda row: (-total[row], row))
    return _Ranking(order, [total[row] for row in order], by_vector, by_word, f"{used}+words")


def _found(rows: RowsFile, ranking: _Ranking, offset: int, limit: int) -> list[Found]:
    places = ranking.rows[offset : offset + limit]
    if not places:
        return []
    shown = [n for n in rows.table.column_names if n not in _HIDDEN and n != "id"]
    records = rows.records(places)
    room = _REPLY_BYTES // len(places)
    found: list[Found] = []
    for place, score, record in zip(places, ranking.scores[offset : offset + limit], records, strict=True):
        rank, cosine = ranking.semantic.get(place, (None, None))
        fields = {n.removeprefix("fields."): record[n] for n in shown if record[n] is not None}
        if len(json.dumps(fields, default=str)) > room // 2:
            fields = {}
        found.append(
            Found(
                row_id=record["row_id"],
                split=record["split"],
                score=score,
                semantic_rank=rank,
                lexical_rank=ranking.lexical.get(place),
                cosine=cosine,
                # JSON spells a character in at most 6 bytes.
                text=(record["text"] or "")[: min(4000, room // 12)],
                fields=fields,
            )
        )
    return found


def _stamp(frozen: Frozen, ask: SearchAsk) -> str:
    """What a cursor belongs to: the same question to the same rows."""
    question = ask.model_dump(mode="json", exclude={"cursor", "limit"}) | {"version": frozen.version}
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


def _cursor(offset: int, stamp: str) -> str:
    return base64.urlsafe_b64encode(f"{offset}:{stamp}".encode()).decode()


def _offset(cursor: str | None, stamp: str) -> int:
    if cursor is None:
        return 0
    try:
        offset, _, of = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        place = int(offset)
    except ValueError:
        place, of = -1, ""
    if not 0 < place <= DEEPEST or of != stamp:
        message = "The cursor does not belong to this search."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Repeat the search as it was, or start without a cursor.")
    return place
