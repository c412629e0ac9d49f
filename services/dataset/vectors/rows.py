"""A frozen version as search and dedup read it: rows in one fixed order, mapped from an Arrow file that can be rebuilt."""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ltp.contracts.dedup import TextPart
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.derive import Source

# Columns that verl wants and nobody filters on: they repeat others.
_LEFT_OUT = frozenset(
    {"prompt", "data_source", "reward_model", "extra_info", "messages", "chosen", "rejected", "fields"}
)
_BATCH = 16_384


@dataclass(frozen=True)
class Frozen:
    """A frozen version on the disk."""

    source: Source
    splits: dict[str, Path]
    rows: int

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.source.name

    @property
    def version(self) -> str:
        """The content hash."""
        return self.source.version


@dataclass(frozen=True)
class RowsFile:
    """All rows of a version: splits by name, rows of each in the order of its file. `table` is mapped, not read."""

    table: pa.Table

    def records(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """Some rows as dictionaries, each read from its own batch: a `take` would copy whole columns first."""
        batches, starts = self._batches
        found: list[dict[str, Any]] = []
        for place in places:
            batch = int(np.searchsorted(starts, place, side="right")) - 1
            found += batches[batch].slice(place - int(starts[batch]), 1).to_pylist()
        return found

    @cached_property
    def _batches(self) -> tuple[list[pa.RecordBatch], NDArray[np.int64]]:
        batches = self.table.to_batches()
        return batches, np.cumsum([0, *(len(batch) for batch in batches)], dtype=np.int64)

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def texts(self) -> list[str]:
        """The compared text of every row."""
        found: list[str] = self.table.column("text").to_pylist()
        return found

    @property
    def row_ids(self) -> list[str]:
        """The stable ids."""
        found: list[str] = self.table.column("row_id").to_pylist()
        return found


def open_rows(folder: Path, splits: Mapping[str, Path], part: TextPart) -> RowsFile:
    """Map the rows of a version, writing the file first when it is not there. `folder` belongs to that version.

    Raises LtpError NOT_FOUND when a split's file is gone, DATA_DIR_CORRUPT when it cannot be read.
    """
    target = folder / f"{part}.arrow"
    write_rows(folder, splits, part)
    try:
        with pa.memory_map(str(target)) as source:
            return RowsFile(pa.ipc.open_file(source).read_all())
    except (pa.ArrowException, OSError) as error:
        target.unlink(missing_ok=True)  # derived: the next call makes it again
        raise LtpError(ErrorCode.DATA_DIR_CORRUPT, f"{target} cannot be read: {error}.", "Try again.") from error


def write_rows(folder: Path, splits: Mapping[str, Path], part: TextPart) -> None:
    """Write the file of a part where it does not stand. Raises as `open_rows` does."""
    target = folder / f"{part}.arrow"
    if not target.exists():
        _write(target, splits, part)


def open_mapped(folder: Path, part: str) -> RowsFile | None:
    """The rows of a version whose file stands; None when it does not, or cannot be read."""
    try:
        with pa.memory_map(str(folder / f"{part}.arrow")) as source:
            return RowsFile(pa.ipc.open_file(source).read_all())
    except (pa.ArrowException, OSError):
        return None


def _write(target: Path, splits: Mapping[str, Path], part: TextPart) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    writer: pa.RecordBatchFileWriter | None = None
    try:
        with pa.OSFile(str(draft), "wb") as sink:
            for table in _tables(splits, part):
                writer = writer or pa.ipc.new_file(sink, table.schema)
                writer.write_table(table)
            if writer is None:
                raise LtpError(ErrorCode.DATASET_EMPTY, "The version has no rows.", "Add a dataset with rows.")
            writer.close()
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _tables(splits: Mapping[str, Path], part: TextPart) -> Iterator[pa.Table]:
    schema: pa.Schema | None = None
    for split, path in sorted(splits.items()):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH):
                    table = _shaped(pa.Table.from_batches([batch]), split, part)
                    schema = table.schema if schema is None else schema
                    assert schema is not None
                    yield table.select(schema.names).cast(schema)
        except FileNotFoundError as error:
            message = f"The file of split {split} ({path}) is no longer there."
            raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp dataset list` shows what there is.") from error
        except (pa.ArrowException, OSError) as error:
            message = f"{path} cannot be read: {str(error).splitlines()[0]}."
            raise LtpError(ErrorCode.DATA_DIR_CORRUPT, message, "Delete the version and add it again.") from error


def _shaped(table: pa.Table, split: str, part: TextPart) -> pa.Table:
    """row_id, split, text, then what the version itself has, the user's own fields as columns `fields.NAME`."""
    ids = table.column("row_id" if "row_id" in table.column_names else "id").cast(pa.string())
    columns: dict[str, Any] = {
        "row_id": ids,
        "split": pa.array([split] * len(table), pa.string()),
        "text": pa.array([text_of(row, part) for row in _contents(table)], pa.string()),
    }
    for name in table.column_names:
        if name not in _LEFT_OUT and name not in columns:
            columns[name] = table.column(name)
    if "fields" in table.column_names:
        fields = table.column("fields").combine_chunks()
        for field in fields.type:
            columns[f"fields.{field.name}"] = pc.struct_field(fields, field.name)
    return pa.table(columns)


def _contents(table: pa.Table) -> list[dict[str, Any]]:
    names = [n for n in ("messages", "answer", "chosen", "rejected", "text") if n in table.column_names]
    found: list[dict[str, Any]] = table.select(names).to_pylist()
    return found


def text_of(row: Mapping[str, Any], part: TextPart) -> str:
    """What of a row is compared: the whole conversation, all before the last answer, or the last answer."""
    turns: Sequence[Mapping[str, Any]] = row.get("messages") or row.get("chosen") or ()
    plain = row.get("text") or ""
    if not turns:
        return plain if part != "response" else plain or (row.get("answer") or "")
    answers = 1 if turns[-1].get("role") == "assistant" else 0
    chosen = {"conversation": turns, "prompt": turns[: len(turns) - answers], "response": turns[len(turns) - answers :]}
    return "\n".join(turn.get("content") or "" for turn in chosen[part] if turn.get("role") != "system")
