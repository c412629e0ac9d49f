"""Reads a dataset file as blocks of numbered rows, by what the file holds rather than by what it is called."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.json_text import (
    MAX_LINE_BYTES,
    Numbered,
    array_elements,
    as_object,
    decoded,
    parsed,
    too_long,
)

PARQUET_MAGIC = b"PAR1"
BLOCK_BYTES = 12 * 1024**2
BLOCK_ROWS = 8192
_WHITESPACE = b" \t\r\n"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_TEXT_SUFFIXES = (".txt", ".text")


@dataclass(frozen=True)
class Lines:
    """Whole lines of JSONL, undecoded. `line` is the number of the first, `offset` where it starts in the file."""

    data: bytes
    line: int
    offset: int

    def rows(self) -> Iterator[Numbered]:
        """Each line decoded and parsed by itself, so that an error names it. Raises LtpError: DATASET_UNREADABLE."""
        offset = self.offset
        for number, raw in enumerate(self.data.split(b"\n"), start=self.line):
            if len(raw) > MAX_LINE_BYTES:
                raise too_long(number)
            text = decoded(raw, offset, number)
            offset += len(raw) + 1
            if text.strip():
                yield number, as_object(parsed(text, number), number)


@dataclass(frozen=True)
class Parsed:
    """Rows of any other kind of file."""

    found: list[Numbered]

    def rows(self) -> Iterator[Numbered]:
        """The rows."""
        yield from self.found


Block = Lines | Parsed


def read_blocks(source: Path, name: str | None = None) -> Iterator[Block]:
    """The blocks of a JSONL, JSON array, CSV, text or Parquet file, whose rows are numbered from 1.

    JSONL and CSV are numbered by line, so blank lines count. `name` is what the user calls the file, since its ending
    tells CSV (`.csv`, `.tsv`) and text (`.txt`) apart; JSON and Parquet are known by their content.
    Raises LtpError: DATASET_UNREADABLE (broken, not UTF-8), DATASET_EMPTY, DATASET_ROW_INVALID (a row is no object).
    """
    called = Path(name or source.name)
    try:
        with source.open("rb") as stream:
            magic = stream.read(len(PARQUET_MAGIC))
            stream.seek(0)
            if not magic:
                message = f"{called.name} is empty (0 bytes)."
                raise LtpError(ErrorCode.DATASET_EMPTY, message, "Upload a file with rows.")
            if magic == PARQUET_MAGIC:
                yield from _grouped(_parquet(stream, called.name))
            else:
                yield from _text(stream, called)
    except OSError as error:
        message = f"{source} cannot be read: {error.strerror or error}."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, "Check the path and its permissions.") from error


def read_rows(source: Path, name: str | None = None) -> Iterator[Numbered]:
    """The rows of `read_blocks`, one by one."""
    for block in read_blocks(source, name):
        yield from block.rows()


def _grouped(rows: Iterator[Numbered]) -> Iterator[Parsed]:
    group: list[Numbered] = []
    for row in rows:
        group.append(row)
        if len(group) == BLOCK_ROWS:
            yield Parsed(group)
            group = []
    if group:
        yield Parsed(group)


def _parquet(stream: BinaryIO, name: str) -> Iterator[Numbered]:
    try:
        batches = pq.ParquetFile(stream).iter_batches(batch_size=1024)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    # pyarrow reports a damaged file by any of these, and text that is not UTF-8 by a ValueError.
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise LtpError(
            ErrorCode.DATASET_UNREADABLE, f"{name} is no readable Parquet: {reason}.", "Write the file again."
        ) from error


def _text(stream: BinaryIO, called: Path) -> Iterator[Block]:
    if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        stream.seek(0)
    start = stream.tell()
    suffix = called.suffix.lower()
    if suffix in _SEPARATORS:
        yield from _grouped(_csv(stream, start, _SEPARATORS[suffix]))
        return
    head = stream.read(1)
    while head and head in _WHITESPACE:
        head = stream.read(1)
    if head == b"[":
        yield from _grouped(array_elements(stream, stream.tell()))
        return
    stream.seek(start)
    if suffix in _TEXT_SUFFIXES and head and head != b"{":
        yield from _grouped(_plain(stream, start))
    else:
        yield from _lines(stream, start)


def _lines(stream: BinaryIO, offset: int) -> Iterator[Lines]:
    line = 1
    while data := stream.read(BLOCK_BYTES):
        tail = stream.readline(MAX_LINE_BYTES + 1)
        if len(tail) > MAX_LINE_BYTES:
            raise too_long(line + data.count(b"\n"))
        data += tail
        yield Lines(data, line, offset)
        line += data.count(b"\n")
        offset += len(data)


def _plain(stream: BinaryIO, offset: int) -> Iterator[Numbered]:
    for number, raw in enumerate(stream, start=1):
        text = decoded(raw, offset, number)
        offset += len(raw)
        if text.strip():
            yield number, {"text": text.rstrip("\r\n")}


def _csv(stream: BinaryIO, offset: int, separator: str) -> Iterator[Numbered]:
    def lines() -> Iterator[str]:
        at = offset
        for number, raw in enumerate(stream, start=1):
            yield decoded(raw, at, number)
            at += len(raw)

    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(lines(), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if repeated := {name for name in header if header.count(name) > 1}:
            message = f"Line 1: the header names the column {min(repeated)!r} twice."
            raise LtpError(ErrorCode.DATASET_UNREADABLE, message, "Give every column a name of its own.")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                message = f"Line {line} has {len(cells)} columns, and the header has {len(header)}."
                hint = "Quote cells that hold the separator, a quote or a line break."
                raise LtpError(ErrorCode.DATASET_UNREADABLE, message, hint)
            if cells:
                # An empty cell is the only way CSV has to say null.
                yield line, {name: cell or None for name, cell in zip(header, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        message = f"Broken CSV at line {reader.line_num}: {error}."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, "Quote cells as RFC 4180 says.") from error
