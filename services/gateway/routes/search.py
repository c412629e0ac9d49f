"""Vectors of datasets and searches in them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from ltp.bus.rpc import ask
from ltp.contracts.search import (
    EmbedAsk,
    Embedding,
    EmbeddingList,
    EmbeddingRequested,
    EmbeddingsRequest,
    SearchAsk,
    SearchMode,
    SearchPage,
    SearchRequest,
)
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from services.gateway.access import Serving
from services.gateway.routes.named import Named, once_known, reference, resolve_named

router = APIRouter(tags=["datasets"])

# The first search by text loads the embedding model; the first by words makes the word index.
_SEARCH_SECONDS = 60.0


@router.post("/datasets/{named}/search")
async def search(named: Named, wanted: SearchAsk, runtime: Serving) -> SearchPage:
    """Rows like a text or like a row: by meaning, by words, or both, among those that meet all conditions."""
    return await _search(runtime, named, wanted)


@router.get("/datasets/{named}/search")
async def search_text(
    named: Named,
    runtime: Serving,
    q: Annotated[str, Query(min_length=1, max_length=10_000)],
    mode: SearchMode = "hybrid",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> SearchPage:
    """The same for a text without conditions."""
    return await _search(runtime, named, SearchAsk(text=q, mode=mode, limit=limit, cursor=cursor))


@router.post("/datasets/{named}/embeddings", status_code=202)
async def embed(named: Named, wanted: EmbedAsk, runtime: Serving, response: Response) -> Embedding:
    """Make the vectors of a version in the background; poll the Location until `completed` or `failed`."""
    target = await resolve_named(runtime, named)
    assert target.version is not None
    event = EmbeddingRequested(embedding_id=new_id(), name=target.name, version=target.version, ask=wanted)
    async with runtime.database.unit() as unit:
        unit.emit(event, about=event.embedding_id)
    response.headers["Location"] = f"/api/v1/datasets/{named}/embeddings/{event.embedding_id}"
    queued = Embedding(
        embedding_id=event.embedding_id,
        name=target.name,
        version=target.version,
        part=wanted.part,
        model=wanted.model or "",
        state="queued",
        created_at=now(),
    )
    return await once_known(lambda: show_embedding(named, event.embedding_id, runtime), queued)


@router.get("/datasets/{named}/embeddings")
async def list_embeddings(named: Named, runtime: Serving) -> EmbeddingList:
    """Embeddings of a dataset, newest first."""
    target = await resolve_named(runtime, named)
    return await _embeddings(runtime, EmbeddingsRequest(name=target.name))


@router.get("/datasets/{named}/embeddings/{embedding_id}")
async def show_embedding(named: Named, embedding_id: UUID, runtime: Serving) -> Embedding:
    """One embedding: how far it is."""
    return (await _embeddings(runtime, EmbeddingsRequest(embedding_id=embedding_id))).embeddings[0]


async def _search(runtime: Runtime, named: str, wanted: SearchAsk) -> SearchPage:
    # The dataset service resolves a name by itself: one question fewer for each search.
    request = SearchRequest(target=await reference(runtime, named), ask=wanted)
    return await ask(runtime.client, "dataset", "search", request, SearchPage, timeout=_SEARCH_SECONDS)


async def _embeddings(runtime: Runtime, request: EmbeddingsRequest) -> EmbeddingList:
    return await ask(runtime.client, "dataset", "embeddings", request, EmbeddingList)
