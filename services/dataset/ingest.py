"""Reads files of any size into a frozen version: blocks in parallel, each row checked, nothing kept when one is wrong."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.fast import columns_of, raw_schema
from services.dataset.files import FrozenVersion, staging_directory, write_version
from services.dataset.json_text import Numbered
from services.dataset.mapping import Mapping as Columns
from services.dataset.mapping import detect
from services.dataset.policy import HOLDOUT_SPLITS, holdout_codes, id_hashes, positions
from services.dataset.rows import normalise, table_of
from services.dataset.schema import hexadecimal, row_keys
from services.dataset.source import Block, Lines, read_blocks
from services.dataset.spool import POSITION, Part, Spool, ranges_for, write_part

_THREADS = 2
# Enough to see which columns there are; a column that comes later makes its block go the long way once.
_SAMPLE_ROWS = 256
# A survey of a mixed file stops here: the first rows of each format are what a person needs.
_SURVEY_ROWS = 1_000_000


@dataclass(frozen=True)
class SourceFile:
    """A file to read, and what its user calls it."""

    path: Path
    name: str


@dataclass(frozen=True)
class _Done:
    """One block, put away."""

    part: Part
    low: float
    high: float
    # Of rows that the user named: hash of the id (n, 16) and the row's number (n,).
    ids: np.ndarray
    lines: np.ndarray


@dataclass
class _Reader:
    """What the blocks of one source share: how rows are read, and the columns seen so far."""

    columns: Columns
    is_told: bool
    schema: pa.Schema | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def table(self, block: Block) -> tuple[pa.Table, np.ndarray]:
        """The block in the core schema, and the number of each row."""
        if isinstance(block, Lines) and self.schema is not None:
            table = columns_of(block, self.schema, self.columns)
            if table is not None:
                return table, np.arange(block.line, block.line + table.num_rows)
        rows: list[dict[str, Any]] = []
        lines: list[int] = []
        raws: list[Mapping[str, Any]] = []
        for line, raw in block.rows():
            columns = self.columns if self.is_told else self._detected(raw, line)
            rows.append(normalise(raw, columns, line))
            lines.append(line)
            if len(raws) < _SAMPLE_ROWS:
                raws.append(raw)
        with self.lock:
            self.schema = self.schema or raw_schema(raws)
        return table_of(rows), np.array(lines, dtype=np.int64)

    def _detected(self, raw: Mapping[str, Any], line: int) -> Columns:
        found = detect(raw, line)
        if found.format is not self.columns.format:
            raise _MixedError
        return found


class _MixedError(Exception):
    """Two formats in one source; the survey says where."""


def freeze(
    sources: Sequence[SourceFile],
    *,
    name: str,
    holdout: float,
    versions_dir: Path,
    owner: str,
    columns: Columns | None = None,
    facts: Mapping[str, Any] | None = None,
) -> FrozenVersion:
    """Read the sources as one dataset, hold rows out by the hash of their ids, and write the version.

    `columns` is the mapping where a user told it; otherwise the first row gives the format away and every row must be
    of it. Memory is bounded by blocks of some ten megabytes, and 24 bytes for every row that has an id of its own.
    Raises LtpError: DATASET_EMPTY, DATASET_FORMAT_UNKNOWN, DATASET_UNREADABLE, DATASET_ROW_INVALID (mixed formats, an
    id twice), DATASET_ROW_WITHOUT_ANSWER, TOO_LARGE, and what `write_version` raises.
    """
    reader = _Reader(columns or _first(sources), is_told=columns is not None)
    # A line of JSON is about as large as its rows in memory; Parquet and compressed sources are a few times larger.
    size = sum(source.path.stat().st_size for source in sources)
    spool = Spool(ranges_for(size))
    with staging_directory(versions_dir, f"{owner}.spool") as staging:
        try:
            done = list(_spooled(sources, reader, spool, staging))
        except _MixedError:
            raise _mixed(sources) from None
        if not spool.rows:
            raise LtpError(ErrorCode.DATASET_EMPTY, "The dataset has no rows.", "Upload a file with at least one row.")
        _check_ids(done)
        low, high = min(part.low for part in done), max(part.high for part in done)

        def split_of(table: pa.Table) -> tuple[np.ndarray, list[str]]:
            places = table.column(POSITION).to_numpy()
            return holdout_codes(places, holdout, low, high), list(HOLDOUT_SPLITS)

        read = {"format": reader.columns.format.value, "evidence": reader.columns.evidence, **(facts or {})}
        return write_version(spool, split_of, name=name, facts=read, versions_dir=versions_dir, owner=owner)


def _spooled(sources: Sequence[SourceFile], reader: _Reader, spool: Spool, staging: Path) -> Iterator[_Done]:
    """Blocks in the order of the sources, read ahead by as many as there are threads."""
    pending: list[Future[_Done | None]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for number, (source, block) in enumerate(_blocks(sources)):
                path = staging / f"{number:06}.arrow"
                where = source.name if len(sources) > 1 else ""
                pending.append(pool.submit(_put_away, reader, block, path, spool.ranges, where))
                # The first block teaches the reader the columns that the others have.
                if len(pending) > _THREADS or number == 0:
                    yield from _taken(pending.pop(0), spool)
            while pending:
                yield from _taken(pending.pop(0), spool)
        finally:
            for future in pending:
                future.cancel()


def _taken(future: Future[_Done | None], spool: Spool) -> Iterator[_Done]:
    done = future.result()
    if done is not None:
        spool.parts.append(done.part)
        yield done


def _blocks(sources: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, Block]]:
    for source in sources:
        for block in read_blocks(source.path, source.name):
            yield source, block


def _put_away(reader: _Reader, block: Block, path: Path, ranges: int, where: str) -> _Done | None:
    try:
        table, lines = reader.table(block)
    except LtpError as error:
        raise LtpError(error.code, f"{where}: {error.message}" if where else error.message, error.hint) from error
    if not table.num_rows:
        return None
    keys, given = row_keys(table)
    names = hexadecimal(keys).to_pylist()
    ids: list[str] = table.column("id").to_pylist() if given.any() else names
    hashes = id_hashes(i if g else n for i, g, n in zip(ids, given.tolist(), names, strict=True))
    places = positions(hashes)
    if not given.all():
        # An id that is the content's own name is none.
        own = pa.array([i if g else None for i, g in zip(ids, given.tolist(), strict=True)], pa.string())
        table = table.set_column(table.column_names.index("id"), "id", own)
    part = write_part(path, table, keys, places, ranges)
    return _Done(part, float(places.min()), float(places.max()), hashes[given, :16].copy(), lines[given])


def _first(sources: Sequence[SourceFile]) -> Columns:
    for _, block in _blocks(sources):
        for line, raw in block.rows():
            return detect(raw, line)
    raise LtpError(ErrorCode.DATASET_EMPTY, "The dataset has no rows.", "Upload a file with at least one row.")


def _check_ids(done: Sequence[_Done]) -> None:
    """No id twice. Raises DATASET_ROW_INVALID, naming both rows."""
    hashes = np.concatenate([part.ids for part in done])
    if not len(hashes):
        return
    lines = np.concatenate([part.lines for part in done])
    words = np.ascontiguousarray(hashes).view(">u8")
    order = np.lexsort((words[:, 1], words[:, 0]))
    same = np.flatnonzero((words[order][1:] == words[order][:-1]).all(axis=1))
    if len(same):
        first, second = min((int(lines[order[at]]), int(lines[order[at + 1]])) for at in same.tolist())
        more = f" {len(same)} rows repeat an id." if len(same) > 1 else ""
        message = f"Row {second} repeats the id of row {first}.{more}"
        raise LtpError(ErrorCode.DATASET_ROW_INVALID, message, "Give every row an id of its own, or none.")


def _mixed(sources: Sequence[SourceFile]) -> LtpError:
    """Counts and the first row of each format."""
    counts: Counter[str] = Counter()
    firsts: dict[str, str] = {}
    for source, line, raw in _surveyed(sources):
        try:
            found = detect(raw, line)
            name, evidence = found.format.value, found.evidence
        except LtpError:
            name, evidence = "unknown", "keys " + ", ".join(f"'{key}'" for key in sorted(raw)[:8])
        counts[name] += 1
        where = f"{source.name}, " if len(sources) > 1 else ""
        firsts.setdefault(name, f"{where}row {line} ({evidence})")
    said = "; ".join(f"{count} of format {name}, first {firsts[name]}" for name, count in counts.most_common())
    hint = "Upload each format as a dataset of its own; `ltp dataset mix` joins them."
    return LtpError(ErrorCode.DATASET_ROW_INVALID, f"Mixed formats: {said}.", hint)


def _surveyed(sources: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, int, Mapping[str, Any]]]:
    count = 0
    for source, block in _blocks(sources):
        rows: Iterator[Numbered] = block.rows()
        try:
            for line, raw in rows:
                yield source, line, raw
                count += 1
                if count == _SURVEY_ROWS:
                    return
        except LtpError:
            # A broken line further on does not hide what was found before it.
            return


def tables_of(sources: Sequence[SourceFile], columns: Columns | None) -> tuple[Columns, Iterator[pa.Table]]:
    """How the sources are read, and their rows in the core schema, block by block: for a conversion without a version."""
    reader = _Reader(columns or _first(sources), is_told=columns is not None)

    def tables() -> Iterator[pa.Table]:
        try:
            for _, block in _blocks(sources):
                table, _ = reader.table(block)
                if table.num_rows:
                    yield table
        except _MixedError:
            raise _mixed(sources) from None

    return reader.columns, tables()


def first_rows(
    sources: Sequence[SourceFile], columns: Columns | None, count: int
) -> tuple[Columns, list[dict[str, Any]]]:
    """How the sources would be read, and the first rows in the normal form."""
    found = columns or _first(sources)
    rows = [row for _, block in itertools.islice(_blocks(sources), 1) for row in itertools.islice(block.rows(), count)]
    return found, [normalise(raw, found, line) for line, raw in rows]
