"""The dataset service's settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from ltp.service.settings import CommonSettings
from services.dataset.hub import HubSettings


class DatasetSettings(CommonSettings):
    """LTP_* for what all share, LTP_DATASET_* for its own."""

    # Folders on the server whose files may be added by path, beside the data directory's own `datasets` and `uploads`.
    dataset_roots: list[Path] = Field(default_factory=list[Path])
    # What may come out of one archive, folder or repository.
    dataset_max_unpacked_bytes: int = Field(default=200 << 30, gt=0)
    # Empty: the hub's own address. A mirror such as https://hf-mirror.com otherwise.
    dataset_hf_endpoint: str = ""
    dataset_hf_token: SecretStr | None = None
    dataset_modelscope_endpoint: str = ""
    dataset_modelscope_token: SecretStr | None = None
    dataset_offline: bool = False
    # The interpreter that has verl; the service itself never imports it.
    dataset_python: str = sys.executable
    # How many rows the gate asks verl about before a job is accepted.
    dataset_gate_rows: int = Field(default=64, gt=0)
    dataset_retention_poll_seconds: float = Field(default=60.0, gt=0)
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

    def roots(self) -> list[Path]:
        """The folders a path may lie in."""
        return [self.root() / "datasets", self.root() / "uploads", *self.dataset_roots]

    def hub(self) -> HubSettings:
        """The hubs' settings."""
        hf, ms = self.dataset_hf_token, self.dataset_modelscope_token
        return HubSettings(
            hf_endpoint=self.dataset_hf_endpoint,
            hf_token=hf.get_secret_value() if hf else None,
            modelscope_endpoint=self.dataset_modelscope_endpoint,
            modelscope_token=ms.get_secret_value() if ms else None,
            offline=self.dataset_offline,
            max_bytes=self.dataset_max_unpacked_bytes,
        )
