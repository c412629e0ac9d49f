"""Datasets: what came in, and the immutable versions that came out."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value
from ltp.contracts.values import Name, Problem, Ratio, Sha256


DEFAULT_PROJECT = "default"


class ReadOptions(Value):
    """How a source is read, where its user knows better than detection, and whose it is."""

    project: Name = DEFAULT_PROJECT
    # As an entry of LLaMA-Factory's dataset_info.json: format, columns, tags.
    mapping: dict[str, Any] | None = None
    # Which file of an archive, folder or repository; a pattern such as `train/*.jsonl`.
    member: str | None = None
    # Fields that hold personal data: never in logs, events or messages.
    personal: list[str] = Field(default_factory=list)
    keep_days: Annotated[int, Field(gt=0)] | None = None


class DatasetUploaded(Event, subject="ltp.dataset.v1.uploaded", speaker="gateway"):
    """A file arrived whole and waits to be read."""

    dataset_id: UUID
    name: Name
    filename: str
    path: str
    sha256: Sha256
    size_bytes: int
    # Share of the rows that is held out as split `test`, chosen by hash.
    holdout: Ratio
    options: ReadOptions | None = None


class Split(Value):
    """A part of a version: one Parquet file that verl can read as it is."""

    rows: int
    path: str
    # Rows that carry a reference answer, which evaluation and RL need.
    answered: int


class DatasetVersion(Value):
    """An immutable version as others refer to it."""

    name: Name
    version: Sha256
    rows: int
    splits: dict[str, Split]


class DatasetFrozen(Event, subject="ltp.dataset.v1.frozen", speaker="dataset"):
    """An immutable version exists. The same rows with the same split give the same version."""

    dataset_id: UUID
    name: Name
    version: Sha256
    format: str
    rows: int
    # Word-for-word copies of other rows, kept once: they would leak from one split into the other.
    duplicates: int = 0
    splits: dict[str, Split]
    # The versions it was made of, and how; empty for what came from outside.
    parents: list[str] = Field(default_factory=list)
    reason: str = ""
    project: str = DEFAULT_PROJECT
    evidence: str = ""


class DatasetRequested(Event, subject="ltp.dataset.v1.requested", speaker="gateway"):
    """A dataset is wanted from a place the platform reaches by itself: a path on the server, or a hub."""

    dataset_id: UUID
    name: Name
    # An absolute path, `hf://owner/name[@revision][/file]` or `modelscope://...`.
    source: str
    holdout: Ratio
    options: ReadOptions = Field(default_factory=ReadOptions)


class MixPart(Value):
    """A version that goes into a mix, with its weight."""

    name: Name
    version: Sha256
    weight: Annotated[float, Field(gt=0)] = 1.0


class DatasetDerivationRequested(Event, subject="ltp.dataset.v1.derivation-requested", speaker="gateway"):
    """A version made of others is wanted."""

    dataset_id: UUID
    name: Name
    kind: Literal["split", "mix", "keep"]
    parts: Annotated[list[MixPart], Field(min_length=1)]
    # kind split: the ratio of each split, which sum to 1.
    shares: dict[str, float] = Field(default_factory=dict)
    # kind mix: how many rows in all; else as many as the weights allow.
    rows: int | None = None
    # kind keep: field -> the values a row may have there.
    where: dict[str, list[Any]] = Field(default_factory=dict)


class DatasetDeletionRequested(Event, subject="ltp.dataset.v1.deletion-requested", speaker="gateway"):
    """A version, or with no version every version of a name, is no longer wanted."""

    name: Name
    version: Sha256 | None = None


class DatasetDeleted(Event, subject="ltp.dataset.v1.deleted", speaker="dataset"):
    """A version is gone, by request or because its time was over."""

    dataset_id: UUID
    name: Name
    version: Sha256
    reason: Literal["requested", "retention"]


class DatasetMarked(Event, subject="ltp.dataset.v1.marked", speaker="gateway"):
    """What a user said of every version of a name. A part that is left out stays as it was."""

    name: Name
    personal: list[str] | None = None
    keep_days: int | None = None
    project: Name | None = None


class ProjectQuotaSet(Event, subject="ltp.project.v1.limited", speaker="gateway"):
    """How many bytes the versions of a project may take; null for no limit."""

    project: Name
    quota_bytes: int | None


class DatasetRejected(Event, subject="ltp.dataset.v1.rejected", speaker="dataset"):
    """The file could not become a dataset; `problem` names the row."""

    dataset_id: UUID
    name: Name
    problem: Problem
