"""Freezes a file into an immutable version directory that verl reads as it is, or leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.policy import SCHEMA_VERSION, TEST, TRAIN, assign, canonical_order, collect, version_of
from services.dataset.rows import Message, Row
from services.dataset.source import read_rows

_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
# `messages` is what verl 0.9.1's MultiTurnSFTDataset reads; `prompt`, `data_source`, `reward_model` and `extra_info`
# are what its RLHFDataset and reward manager read (docs/training.md). One file serves both.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(_TURN)),
        ("prompt", pa.list_(_TURN)),
        ("answer", pa.string()),
        ("data_source", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("id", pa.string()), ("index", pa.int64())])),
    ]
)


@dataclass(frozen=True)
class FrozenSplit:
    """One Parquet file of a version. `answered` counts the rows with a reference answer."""

    rows: int
    path: Path
    answered: int


@dataclass(frozen=True)
class FrozenVersion:
    """An immutable version on the disk. `rows` counts what was kept, `duplicates` the word-for-word copies left out."""

    version: str
    format: str
    evidence: str
    rows: int
    duplicates: int
    splits: dict[str, FrozenSplit]


def freeze(source: Path, *, name: str, holdout: float, versions_dir: Path) -> FrozenVersion:
    """Read `source`, split it, and write `versions_dir/<version>/{<split>.parquet, manifest.json}`.

    Holds the dataset in memory: at most 1,000,000 rows (`policy.MAX_ROWS`), a few kilobytes each. `versions_dir`
    belongs to one dataset, since `name` stands in the files as verl's data_source but is no part of the version.
    An existing version is kept as it is. A split without rows has no file.
    Raises LtpError: what `read_rows` and `collect` raise, DISK_FULL, DATA_DIR_UNWRITABLE, DATA_DIR_CORRUPT.
    """
    collection = collect(read_rows(source))
    splits = assign((row.id for row in collection.rows), holdout)
    version = version_of(collection.rows, splits)
    ordered = canonical_order(collection.rows)
    by_split = {split: [row for row in ordered if splits[row.id] == split] for split in (TRAIN, TEST)}
    by_split = {split: rows for split, rows in by_split.items() if rows}
    target = versions_dir / version
    facts = {"format": collection.detection.format.value, "evidence": collection.detection.evidence}
    if not _is_whole(target, by_split):
        _publish(target, name, {"version": version, "rows": len(ordered), **facts}, by_split)
    frozen = {
        split: FrozenSplit(len(rows), target / f"{split}.parquet", sum(row.answer is not None for row in rows))
        for split, rows in by_split.items()
    }
    return FrozenVersion(version, facts["format"], facts["evidence"], len(ordered), collection.duplicates, frozen)


def _is_whole(target: Path, by_split: dict[str, list[Row]]) -> bool:
    """Whether the version stands already. It appears by a rename, so an incomplete one was damaged from outside."""
    if not target.exists():
        return False
    missing = [name for name in ("manifest.json", *(f"{s}.parquet" for s in by_split)) if not (target / name).is_file()]
    if missing:
        message = f"The version at {target} lacks {', '.join(missing)}."
        raise LtpError(ErrorCode.DATA_DIR_CORRUPT, message, "Remove that directory and upload the dataset again.")
    return True


def _publish(target: Path, name: str, facts: dict[str, Any], by_split: dict[str, list[Row]]) -> None:
    """Write everything beside the target, make it durable, then let it appear whole by one rename."""
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
        staging.chmod(0o755)
        splits = {split: _write_split(staging / f"{split}.parquet", name, rows) for split, rows in by_split.items()}
        manifest = {"schema_version": SCHEMA_VERSION, "name": name, **facts, "splits": splits}
        (staging / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        for path in (*staging.iterdir(), staging):
            _sync(path)
        _appear(staging, target)
        _sync(target.parent)
    except OSError as error:
        raise _storage_problem(error, target.parent) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _appear(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError as error:
        # Another process froze the same rows first; equal versions have equal files.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _storage_problem(error: OSError, directory: Path) -> LtpError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        message = f"No space is left for the dataset under {directory}."
        return LtpError(ErrorCode.DISK_FULL, message, "Free space on that disk and upload the dataset again.")
    message = f"{directory} cannot be written: {error.strerror or error}."
    return LtpError(ErrorCode.DATA_DIR_UNWRITABLE, message, "Check the permissions of the data directory.")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_split(path: Path, name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Write one split in blocks, so that the columns are never all in memory beside the rows."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(rows), 10_000):
            block = [_record(name, start + i, row) for i, row in enumerate(rows[start : start + 10_000])]
            writer.write_table(pa.Table.from_pylist(block, schema=SCHEMA))
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    answered = sum(row.answer is not None for row in rows)
    return {"file": path.name, "rows": len(rows), "answered": answered, "sha256": digest}


def _record(name: str, index: int, row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "messages": _turns(row.messages),
        "prompt": _turns(row.prompt),
        "answer": row.answer,
        "data_source": name,
        "reward_model": {"style": "rule", "ground_truth": row.answer},
        "extra_info": {"id": row.id, "index": index},
    }


def _turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
