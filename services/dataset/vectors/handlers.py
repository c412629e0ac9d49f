"""What the dataset service hears and is asked about vectors and search."""

from __future__ import annotations

from typing import Annotated

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.search import (
    EmbeddingCompleted,
    EmbeddingFailed,
    EmbeddingList,
    EmbeddingRequested,
    EmbeddingsRequest,
    Resolved,
    ResolveRequest,
    SearchPage,
    SearchRequest,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue
from services.dataset.vectors import store
from services.dataset.vectors.library import Library
from services.dataset.vectors.search import Search

SERVICE = "dataset"
router = NatsRouter()

# A search waits for its query's vector; others need not wait for it.
_SEARCHES_AT_ONCE = 8

for event in (EmbeddingCompleted, EmbeddingFailed):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, EmbeddingRequested))
async def queue_embedding(
    event: EmbeddingRequested, unit: InboxUnit, library: Annotated[Library, Context("library")]
) -> None:
    await store.add_embedding(unit, event, library.label(event.ask.model))
    payload = {"embedding_id": str(event.embedding_id)}
    enqueue(unit, Queue.PREPROCESSING, "embed", payload, dedup_key=f"embed:{event.embedding_id}")


@router.subscriber(**answered_by(SERVICE, "search"), max_workers=_SEARCHES_AT_ONCE)
@replies
async def search(request: SearchRequest, finder: Annotated[Search, Context("search")]) -> SearchPage:
    return await finder.page(request)


@router.subscriber(**answered_by(SERVICE, "resolve"))
@replies
async def resolve(request: ResolveRequest, library: Annotated[Library, Context("library")]) -> Resolved:
    frozen = await library.frozen(request.target)
    return Resolved(name=frozen.name, version=frozen.version, rows=frozen.rows)


@router.subscriber(**answered_by(SERVICE, "embeddings"))
@replies
async def show_embeddings(request: EmbeddingsRequest, library: Annotated[Library, Context("library")]) -> EmbeddingList:
    engine = library.database.engine
    if request.embedding_id is None:
        return EmbeddingList(embeddings=await store.listed(engine, request.name, request.version, request))
    row = await store.embedding(engine, request.embedding_id)
    if row is None:
        message = f"There is no embedding {request.embedding_id}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp dataset embeddings NAME` shows what there is.")
    return EmbeddingList(embeddings=[store.shown(row)])
