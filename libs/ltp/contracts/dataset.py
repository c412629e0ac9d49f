"""Datasets: what came in, and the immutable versions that came out."""

from __future__ import annotations

from uuid import UUID

from ltp.contracts.event import Event, Value
from ltp.contracts.values import Name, Problem, Ratio, Sha256


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


class DatasetRejected(Event, subject="ltp.dataset.v1.rejected", speaker="dataset"):
    """The file could not become a dataset; `problem` names the row."""

    dataset_id: UUID
    name: Name
    problem: Problem
