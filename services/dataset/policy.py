"""What a version of a dataset is: which rows belong to it, where each one goes, and the name that follows from both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from ltp.core.recipe import canonical
from services.dataset.rows import Detection, Row, content_id, detect, normalise

# Part of every version's hash: a change of the normal form or of the files must not pass for the old version.
SCHEMA_VERSION = 1
# The rows are held in memory, some kilobytes each; a larger set needs an external sort, which is not built.
MAX_ROWS = 1_000_000
TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Collection:
    """The rows of one source, all of one format, each id once."""

    detection: Detection
    rows: tuple[Row, ...]
    # Rows without an id of their own that repeated an earlier row word for word; each is kept once.
    duplicates: int


def collect(raws: Iterable[tuple[int, Mapping[str, Any]]], max_rows: int = MAX_ROWS) -> Collection:
    """Normalise numbered raw rows.

    Word-for-word copies are kept once: they would get the same id and could not stand in both splits of a fair test.
    Raises LtpError: DATASET_EMPTY, DATASET_ROW_INVALID (mixed formats, an id twice), TOO_LARGE, and all of `normalise`.
    """
    first: tuple[int, Detection] | None = None
    rows: dict[str, tuple[int, Row]] = {}
    duplicates = 0
    for line, raw in raws:
        found = detect(raw, line)
        first = first or (line, found)
        if found.format is not first[1].format:
            raise _mixed(first, (line, found))
        row = normalise(raw, found.format, line)
        if row.id not in rows:
            rows[row.id] = (line, row)
        elif row.id == content_id(row.messages, row.answer):
            duplicates += 1
        else:
            raise _repeated(row.id, rows[row.id][0], line)
        if len(rows) > max_rows:
            raise LtpError(ErrorCode.TOO_LARGE, f"The dataset has more than {max_rows:,} rows.", "Split the file.")
    if first is None:
        raise LtpError(ErrorCode.DATASET_EMPTY, "The dataset has no rows.", "Upload a file with at least one row.")
    return Collection(first[1], tuple(row for _, row in rows.values()), duplicates)


def _mixed(first: tuple[int, Detection], other: tuple[int, Detection]) -> LtpError:
    said = " but ".join(f"row {line} is of format {found.format} ({found.evidence})" for line, found in (first, other))
    return LtpError(
        ErrorCode.DATASET_ROW_INVALID, f"Mixed formats: {said}.", "Upload each format as a dataset of its own."
    )


def _repeated(row_id: str, first: int, second: int) -> LtpError:
    message = f"Row {second} repeats the id {row_id!r} of row {first}."
    return LtpError(ErrorCode.DATASET_ROW_INVALID, message, "Give every row an id of its own, or none.")


def _position(row_id: str) -> float:
    """Where a row lies in [0, 1): uniform over ids, and the same on every machine."""
    return int.from_bytes(hashlib.sha256(b"ltp.split." + row_id.encode()).digest()[:6]) / 2**48


def split_of(row_id: str, holdout: float) -> str:
    """The split of a row, by its id alone, so that a row keeps its side when others come or go."""
    return TEST if _position(row_id) < holdout else TRAIN


def assign(row_ids: Iterable[str], holdout: float) -> dict[str, str]:
    """Row id -> split. With two rows or more and a holdout, no split stays empty: the row nearest the border moves."""
    ordered = sorted(row_ids, key=lambda row_id: (_position(row_id), row_id))
    splits = {row_id: split_of(row_id, holdout) for row_id in ordered}
    if holdout > 0 and len(ordered) > 1:
        splits[ordered[0]] = TEST
        splits[ordered[-1]] = TRAIN
    return splits if len(ordered) > 1 else dict.fromkeys(ordered, TRAIN)


def canonical_order(rows: Iterable[Row]) -> list[Row]:
    """By the hash of the id: independent of the source's order, and already shuffled for readers that do not."""
    return sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest())


def version_of(rows: Iterable[Row], splits: Mapping[str, str]) -> str:
    """SHA-256 over schema version, rows in canonical order, and their splits, as 64 hexadecimal digits."""
    digest = hashlib.sha256(f"ltp.dataset.{SCHEMA_VERSION}\n".encode())
    for row in canonical_order(rows):
        messages = [[message.role, message.content] for message in row.messages]
        content = {"id": row.id, "messages": messages, "answer": row.answer, "split": splits[row.id]}
        digest.update(canonical(content) + b"\n")
    return digest.hexdigest()
