"""Search and embeddings: questions about the rows of a version, and the making of their vectors."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.dedup import CheckState, TextPart, VersionRef
from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.values import Name, Problem, Sha256

SearchMode = Literal["semantic", "lexical", "hybrid"]
IndexName = Literal["scan", "milvus", "pgvector"]


class Condition(Value):
    """What a field must be. A null meets only `missing`; `contains` is for text (without regard to case) and lists."""

    field: str = Field(min_length=1, max_length=200)
    op: Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "contains", "missing"] = "eq"
    value: bool | int | float | str | list[bool | int | float | str] | None = None


class SearchAsk(Value):
    """Rows like a text, or like a row (`row_id`), among those that meet all conditions."""

    text: str | None = Field(default=None, max_length=100_000)
    row_id: str | None = Field(default=None, max_length=500)
    mode: SearchMode = "hybrid"
    where: list[Condition] = Field(default_factory=list[Condition], max_length=50)
    limit: int = Field(default=10, ge=1, le=100)
    cursor: str | None = Field(default=None, max_length=1000)
    part: TextPart = "conversation"
    model: str | None = Field(default=None, max_length=500)
    index: IndexName | None = Field(default=None, description="Ask this index; none means the quickest there is.")


class SearchRequest(Value):
    """The question to the dataset service."""

    target: VersionRef
    ask: SearchAsk


class Found(Value):
    """One row. `score` is the cosine, the BM25 score, or for hybrid the reciprocal rank fusion of both ranks (from 1)."""

    row_id: str
    split: str
    score: float
    semantic_rank: int | None = None
    lexical_rank: int | None = None
    cosine: float | None = None
    text: str
    fields: dict[str, Any] = Field(default_factory=dict[str, Any])


class SearchPage(Value):
    """Rows, best first. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    name: Name
    version: Sha256
    mode: SearchMode
    index: str
    rows: list[Found]
    matching: int
    next_cursor: str | None = None


class EmbedAsk(Value):
    """Make the vectors of a version's rows."""

    part: TextPart = "conversation"
    model: str | None = Field(default=None, max_length=500, description="Directory, or openai:NAME; none: the default.")


class EmbeddingRequested(Event, subject="ltp.embedding.v1.requested", speaker="gateway"):
    """Somebody asked for the vectors of a version."""

    embedding_id: UUID
    name: Name
    version: Sha256
    ask: EmbedAsk


class EmbeddingCompleted(Event, subject="ltp.embedding.v1.completed", speaker="dataset"):
    """Every row of a version has its vector."""

    embedding_id: UUID
    name: Name
    version: Sha256
    model: str
    dimension: int
    rows: int


class EmbeddingFailed(Event, subject="ltp.embedding.v1.failed", speaker="dataset"):
    """The vectors could not be made; `problem` says why."""

    embedding_id: UUID
    problem: Problem


class Embedding(Value):
    """The vectors of one version, part and model: how far they are, and what they cost."""

    embedding_id: UUID
    name: Name
    version: Sha256
    part: TextPart
    model: str
    state: CheckState
    dimension: int | None = None
    rows: int | None = None
    # Distinct texts, those that have their vector, those that were known before, and rows without text.
    texts: int | None = None
    done: int = 0
    cached: int = 0
    empty: int = 0
    truncated: int = 0
    index: str | None = None
    problem: Problem | None = None
    created_at: datetime
    ended_at: datetime | None = None


class EmbeddingsRequest(PageQuery):
    """A page of the embeddings of a name, or one of them."""

    name: Name | None = None
    version: Sha256 | None = None
    embedding_id: UUID | None = None


class EmbeddingList(Value):
    """A page of embeddings. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    embeddings: list[Embedding]
    next_cursor: str | None = None


class ResolveRequest(Value):
    """Whether a version exists, and its whole hash."""

    target: VersionRef


class Resolved(Value):
    """A frozen version as it is."""

    name: Name
    version: Sha256
    rows: int
