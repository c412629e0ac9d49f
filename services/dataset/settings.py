"""The dataset service's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ltp.service.settings import CommonSettings


class DatasetSettings(CommonSettings):
    """LTP_*: where vectors are kept beside Postgres, and what makes them."""

    milvus_uri: str | None = Field(default=None, repr=False)
    # The index kept beside the scan; left out, Milvus where a URI is given.
    vector_index: Literal["scan", "milvus", "pgvector"] | None = None
    # Half-precision vectors held for the scan. A larger version is asked of the index beside it.
    vector_memory_bytes: int = Field(default=2 << 30, gt=0)
    # A directory below DATA/models or an absolute path; left out, all-MiniLM-L6-v2.
    embedding_model: str | None = None
    # An OpenAI-compatible endpoint (".../v1") for models named openai:NAME, and the file with its key.
    embedding_url: str | None = None
    embedding_key_file: Path | None = None
