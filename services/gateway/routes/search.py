"""Vectors of datasets and searches in them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from ltp.bus.rpc import ask
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
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
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.routes.named import DoneOrder, Named, once_known, reference, resolve_named

router = APIRouter(tags=["datasets"])

# The first search by text loads the embedding model; the first by words makes the word index.
_SEARCH_SECONDS = 60.0


@router.post("/datasets/{named}/search", response_model=SearchPage)
async def search(named: Named, wanted: SearchAsk, runtime: Serving) -> Response:
    """Rows like a text or like a row: by meaning, by words, or both, among those that meet all conditions."""
    return await _search(runtime, named, wanted)


@router.get("/datasets/{named}/search", response_model=SearchPage)
async def search_text(
    named: Named,
    runtime: Serving,
    q: Annotated[str, Query(min_length=1, max_length=10_000)],
    mode: SearchMode = "hybrid",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
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
async def list_embeddings(
    named: Named,
    runtime: Serving,
    paging: Paging,
    sort: Annotated[DoneOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 200,
) -> EmbeddingList:
    """Embeddings of a dataset, newest first."""
    target = await resolve_named(runtime, named)

    async def read(page: PageQuery) -> list[Embedding]:
        return (await _embeddings(runtime, EmbeddingsRequest(**dict(page), name=target.name))).embeddings

    page = await paging.page(read, identity="embedding_id", sort=sort, cursor=cursor, limit=limit)
    return EmbeddingList(embeddings=page.items, next_cursor=page.next_cursor)


@router.get("/datasets/{named}/embeddings/{embedding_id}")
async def show_embedding(named: Named, embedding_id: UUID, runtime: Serving) -> Embedding:
    """One embedding: how far it is."""
    return (await _embeddings(runtime, EmbeddingsRequest(embedding_id=embedding_id))).embeddings[0]


async def _search(runtime: Runtime, named: str, wanted: SearchAsk) -> Response:
    # The dataset service resolves a name by itself: one question fewer for each search.
    request = SearchRequest(target=await reference(runtime, named), ask=wanted)
    page = await ask(runtime.client, "dataset", "search", request, SearchPage, timeout=_SEARCH_SECONDS)
    # The page is checked already; FastAPI would check it again and walk through it in Python.
    return Response(page.model_dump_json(), media_type="application/json")


async def _embeddings(runtime: Runtime, request: EmbeddingsRequest) -> EmbeddingList:
    return await ask(runtime.client, "dataset", "embeddings", request, EmbeddingList)
