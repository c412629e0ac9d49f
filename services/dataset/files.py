"""Writes an immutable version directory that verl reads as it is, whole by one rename, or leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.policy import SCHEMA_VERSION
from services.dataset.profile import Profile
from services.dataset.schema import flat, frozen_schema, hexadecimal, merged_fields, merged_turn, without_last
from services.dataset.spool import KEY, Spool, keys_of

# Rows -> the split of each row, as indices into a list of names.
SplitOf = Callable[[pa.Table], tuple[np.ndarray, list[str]]]
MANIFEST, PROFILE = "manifest.json", "profile.json"
_DICTIONARY = ["data_source", "reward_model.style"]


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


@dataclass
class _SplitFile:
    """A split on its way to the disk."""

    path: Path
    writer: pq.ParquetWriter
    profile: Profile
    rows: int = 0
    answered: int = 0
    names: Any = field(default_factory=hashlib.sha256)


def write_version(
    spool: Spool, split_of: SplitOf, *, name: str, facts: Mapping[str, Any], versions_dir: Path, owner: str
) -> FrozenVersion:
    """Write `versions_dir/<version>/{<split>.parquet, manifest.json, profile.json}` from the rows of a spool.

    Holds one range of the spool in memory. `versions_dir` belongs to one dataset, since `name` stands in the files as
    verl's data_source but is no part of the version. `facts` go into the manifest; `format` and `evidence` must be
    among them. What an earlier try of the same `owner` left is removed first. An existing version is kept as it is.
    A split without rows has no file. Raises LtpError: DISK_FULL, DATA_DIR_UNWRITABLE, DATA_DIR_CORRUPT, DATASET_EMPTY.
    """
    with staging_directory(versions_dir, owner) as staging:
        files = _write_splits(spool, split_of, staging, name)
        rows = sum(file.rows for file in files.values())
        if rows == 0:
            raise LtpError(ErrorCode.DATASET_EMPTY, "No row is left.", "Nothing was written.")
        version = _version_of(files)
        splits = {split: _split_facts(file) for split, file in sorted(files.items())}
        manifest = {
            "schema_version": SCHEMA_VERSION, "name": name, "version": version, "rows": rows,
            "duplicates": spool.duplicates, **facts, "splits": splits,
        }  # fmt: skip
        profile = {split: file.profile.summary() for split, file in sorted(files.items())}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        (staging / PROFILE).write_text(json.dumps(profile, sort_keys=True) + "\n")
        target = versions_dir / version
        if not _is_whole(target, files):
            for path in (*staging.iterdir(), staging):
                _sync(path)
            _appear(staging, target)
            _sync(versions_dir)
    frozen = {
        split: FrozenSplit(file.rows, target / f"{split}.parquet", file.answered) for split, file in files.items()
    }
    return FrozenVersion(version, facts["format"], facts["evidence"], rows, spool.duplicates, frozen)


def _write_splits(spool: Spool, split_of: SplitOf, staging: Path, name: str) -> dict[str, _SplitFile]:
    schemas = [part.schema for part in spool.parts]
    schema = frozen_schema(merged_turn(schemas), merged_fields(schemas))
    files: dict[str, _SplitFile] = {}
    # One thread encodes while this one sorts the next range; both work in C++ without the interpreter's lock.
    with ThreadPoolExecutor(1) as pool:
        pending: Future[None] | None = None
        try:
            for split, table in _by_split(spool.read(), split_of):
                if split not in files:
                    path = staging / f"{split}.parquet"
                    writer = pq.ParquetWriter(
                        path, schema, compression="zstd", compression_level=1, use_dictionary=_dictionary(schema)
                    )
                    files[split] = _SplitFile(path, writer, Profile())
                if pending is not None:
                    pending.result()
                pending = pool.submit(_write_block, files[split], table, schema, name)
            if pending is not None:
                pending.result()
        finally:
            pool.shutdown(wait=True)
            for file in files.values():
                file.writer.close()
    return files


def _dictionary(schema: pa.Schema) -> list[str]:
    fields = schema.field("fields").type if "fields" in schema.names else ()
    return _DICTIONARY + [f"fields.{f.name}" for f in fields if f.type == pa.string()]


def _by_split(tables: Iterator[pa.Table], split_of: SplitOf) -> Iterator[tuple[str, pa.Table]]:
    for table in tables:
        codes, names = split_of(table)
        for code, name in enumerate(names):
            at = np.flatnonzero(codes == code)
            if len(at):
                yield name, table if len(at) == len(codes) else table.take(pa.array(at))


def _write_block(file: _SplitFile, table: pa.Table, schema: pa.Schema, name: str) -> None:
    keys = keys_of(flat(table.column(KEY)))
    file.names.update(keys.tobytes())
    frozen = _frozen(table, keys, schema, name, file.rows)
    file.writer.write_table(frozen, row_group_size=len(frozen))
    file.profile.update(frozen)
    file.rows += len(frozen)
    file.answered += len(frozen) - frozen.column("answer").null_count


def _frozen(table: pa.Table, keys: np.ndarray, schema: pa.Schema, name: str, start: int) -> pa.Table:
    """Rows with what verl wants beside their content."""
    count = table.num_rows
    row_ids = hexadecimal(keys)
    given = flat(table.column("id"))
    ids = pc.coalesce(given, row_ids)
    messages, answer = flat(table.column("messages")), flat(table.column("answer"))
    index = pa.array(np.arange(start, start + count))
    made = {
        "row_id": row_ids,
        "id": ids,
        "prompt": without_last(messages),
        "data_source": pa.repeat(name, count),
        "reward_model": pa.StructArray.from_arrays([pa.repeat("rule", count), answer], ["style", "ground_truth"]),
        "extra_info": pa.StructArray.from_arrays([ids, index], ["id", "index"]),
    }
    return pa.table([made.get(column) if column in made else table.column(column) for column in schema.names],
                    schema=schema)  # fmt: skip


def _split_facts(file: _SplitFile) -> dict[str, Any]:
    with file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": file.path.name, "rows": file.rows, "answered": file.answered, "sha256": digest}


def _version_of(files: Mapping[str, _SplitFile]) -> str:
    """SHA-256 over the schema version and, split by split, the names of the rows in order: 64 hexadecimal digits."""
    digest = hashlib.sha256(f"ltp.dataset.{SCHEMA_VERSION}\n".encode())
    for split, file in sorted(files.items()):
        digest.update(f"{split}:{file.rows}:".encode() + file.names.digest())
    return digest.hexdigest()


@contextmanager
def staging_directory(versions_dir: Path, owner: str) -> Iterator[Path]:
    """A directory beside the versions for one piece of work. What a killed try of the same work left goes first."""
    staging: Path | None = None
    try:
        versions_dir.mkdir(parents=True, exist_ok=True)
        for stale in versions_dir.glob(f".staging-{owner}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f".staging-{owner}-", dir=versions_dir))
        staging.chmod(0o755)
        yield staging
    except OSError as error:
        raise storage_problem(error, versions_dir) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _is_whole(target: Path, splits: Mapping[str, Any]) -> bool:
    """Whether the version stands already. It appears by a rename, so an incomplete one was damaged from outside."""
    if not target.exists():
        return False
    missing = [name for name in (MANIFEST, *(f"{s}.parquet" for s in splits)) if not (target / name).is_file()]
    if missing:
        message = f"The version at {target} lacks {', '.join(missing)}."
        raise LtpError(ErrorCode.DATA_DIR_CORRUPT, message, "Remove that directory and upload the dataset again.")
    return True


def _appear(staging: Path, target: Path) -> None:
    try:
        staging.rename(target)
    except OSError as error:
        # Another process froze the same rows first; equal versions have equal files.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def storage_problem(error: OSError, directory: Path) -> LtpError:
    """What a failed write means for the person whose disk it is."""
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
