"""What all questions share: their context, the version that is meant, and the size of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from faststream import Context

from ltp.contracts.dataset import VersionAsked
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from services.dataset.derive import Source
from services.dataset.settings import DatasetSettings
from services.dataset.versions import find

Db = Annotated[Database, Context("database")]
Settings = Annotated[DatasetSettings, Context("settings")]
# NATS carries a megabyte.
_REPLY_BYTES = 900_000


def versions_dir(settings: DatasetSettings) -> Path:
    """Where versions lie: a folder per name, a folder per version."""
    return settings.root() / "datasets"


async def meant(asked: VersionAsked, database: Database, settings: DatasetSettings) -> Source:
    """The version that is meant. Raises as `find` does."""
    return await find(database, versions_dir(settings), asked.project, asked.name, asked.version)


def known_split(source: Source, split: str | None) -> None:
    """Raise NOT_FOUND for a split that the version does not have."""
    splits = source.manifest()["splits"]
    if split is not None and split not in splits:
        message = f"{source.name} has no split {split!r}."
        raise LtpError(ErrorCode.NOT_FOUND, message, f"It has: {', '.join(sorted(splits))}.")


def fitting(answer: Any) -> Any:
    """The answer, if it can be carried."""
    size = len(answer.model_dump_json())
    if size > _REPLY_BYTES:
        message = f"The answer has {size} bytes, and at most {_REPLY_BYTES} can be carried."
        raise LtpError(ErrorCode.TOO_LARGE, message, "Ask for fewer rows.")
    return answer
