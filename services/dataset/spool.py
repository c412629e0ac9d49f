"""Puts the rows of a dataset of any size into the order of their names, in bounded memory.

Rows go to one file per block, each cut into the same ranges of names; reading one range from all files and sorting it
gives the next part of the whole. The order is by hash, so it is the same whatever the source's order was, and already
shuffled for readers that do not shuffle.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from services.dataset.schema import KEY, POSITION, ROW_ID_BYTES, SPLIT, conform, core_schema, merged_fields, merged_turn

# Rows per range that are sorted in memory at once; with a few kilobytes a row, some tens of megabytes.
RANGE_BYTES = 24 * 1024**2
MAX_RANGES = 1024
KEY_TYPE = pa.binary(ROW_ID_BYTES)


@dataclass(frozen=True)
class Part:
    """One file of a spool. Its record batches are the ranges, in order."""

    path: Path
    schema: pa.Schema
    rows: int


def write_part(path: Path, table: pa.Table, keys: np.ndarray, positions: np.ndarray, ranges: int) -> Part:
    """Write rows sorted by name, one record batch per range. `positions` (n,) float64 say where a split's border cuts."""
    order = name_order(keys)
    keys, table = keys[order], table.take(pa.array(order))
    table = table.append_column(KEY, key_array(keys)).append_column(POSITION, pa.array(positions[order]))
    cuts = np.searchsorted(range_of(keys, ranges), np.arange(ranges + 1))
    table = table.combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for low, high in itertools.pairwise(cuts.tolist()):
            batches = table.slice(low, high - low).to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))
    return Part(path, table.schema, len(order))


def name_order(keys: np.ndarray) -> np.ndarray:
    """The order of (n, 16) names; equal names keep their order, so that the first of two copies stays the first."""
    words = np.ascontiguousarray(keys).view(">u8")
    return np.lexsort((words[:, 1], words[:, 0]))


def range_of(keys: np.ndarray, ranges: int) -> np.ndarray:
    """The range of each name: names are hashes, so ranges of equal width hold about as many rows."""
    first = np.ascontiguousarray(keys[:, :4]).view(">u4").reshape(-1).astype(np.uint64)
    return (first * np.uint64(ranges)) >> np.uint64(32)


def key_array(keys: np.ndarray) -> pa.Array:
    """(n, 16) uint8 -> names as Arrow."""
    return pa.FixedSizeBinaryArray.from_buffers(KEY_TYPE, len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))])


def keys_of(array: pa.Array) -> np.ndarray:
    """Names as Arrow -> (n, 16) uint8."""
    start = array.offset * ROW_ID_BYTES
    raw = np.frombuffer(array.buffers()[1], dtype=np.uint8)[start : start + len(array) * ROW_ID_BYTES]
    return raw.reshape(-1, ROW_ID_BYTES)


def ranges_for(size_bytes: int) -> int:
    """How many ranges a source of this size is cut into."""
    return max(1, min(MAX_RANGES, -(-size_bytes // RANGE_BYTES)))


@dataclass
class Spool:
    """The parts written so far, and the way to read them back in order."""

    ranges: int
    parts: list[Part] = field(default_factory=list[Part])
    duplicates: int = 0

    @property
    def rows(self) -> int:
        """Rows put in, copies included."""
        return sum(part.rows for part in self.parts)

    def schema(self) -> pa.Schema:
        """The schema in which every part can be read."""
        schemas = [part.schema for part in self.parts]
        core = core_schema(merged_turn(schemas), merged_fields(schemas))
        split = [schemas[0].field(SPLIT)] if SPLIT in schemas[0].names else []
        return pa.schema([*core, *split, pa.field(KEY, KEY_TYPE), pa.field(POSITION, pa.float64())])

    def read(self) -> Iterator[pa.Table]:
        """Tables in the order of names, each name once; copies are counted and left out."""
        schema = self.schema()
        for number in range(self.ranges):
            found = [conform(table, schema) for part in self.parts if (table := _range(part, number)).num_rows]
            if not found:
                continue
            # Fewer, larger chunks: everything after works on one array a column.
            table = pa.concat_tables(found).combine_chunks()
            keys = keys_of(_one(table.column(KEY)))
            order = name_order(keys)
            words = keys[order].view(">u8")
            first = np.ones(len(order), dtype=bool)
            first[1:] = (words[1:] != words[:-1]).any(axis=1)
            self.duplicates += int(len(order) - first.sum())
            yield table.take(pa.array(order[first]))


def _range(part: Part, number: int) -> pa.Table:
    with pa.OSFile(str(part.path), "rb") as source, pa.ipc.open_file(source) as reader:
        return pa.Table.from_batches([reader.get_batch(number)])


def _one(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
