"""Reads a dataset file as numbered rows, by what the file holds rather than by what it is called."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError

PARQUET_MAGIC = b"PAR1"
# One row of text; longer than any context window, short enough not to take the machine down.
MAX_LINE_BYTES = 64 * 1024**2
_JSON_HINT = "Use one JSON object a line (JSONL), one JSON array of objects, or Parquet."
_WHITESPACE = b" \t\r\n"

Numbered = tuple[int, dict[str, Any]]


def read_rows(source: Path) -> Iterator[Numbered]:
    """Rows of a JSONL, JSON array or Parquet file, numbered from 1 (for JSONL by line, so blank lines count).

    Raises LtpError: DATASET_UNREADABLE (broken, not UTF-8), DATASET_EMPTY, DATASET_ROW_INVALID (a row is no object).
    """
    try:
        with source.open("rb") as stream:
            magic = stream.read(len(PARQUET_MAGIC))
            stream.seek(0)
            if not magic:
                message = f"{source.name} is empty (0 bytes)."
                raise LtpError(ErrorCode.DATASET_EMPTY, message, "Upload a file with rows.")
            yield from _parquet(stream, source.name) if magic == PARQUET_MAGIC else _json(stream)
    except OSError as error:
        message = f"{source} cannot be read: {error.strerror or error}."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, "Check the path and its permissions.") from error


def _parquet(stream: BinaryIO, name: str) -> Iterator[Numbered]:
    try:
        batches = pq.ParquetFile(stream).iter_batches(batch_size=1024)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    # pyarrow reports a damaged file by any of these, and text that is not UTF-8 by a ValueError.
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise LtpError(
            ErrorCode.DATASET_UNREADABLE, f"{name} is no readable Parquet: {reason}.", "Write the file again."
        ) from error


def _json(stream: BinaryIO) -> Iterator[Numbered]:
    if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        stream.seek(0)
    start = stream.tell()
    head = stream.read(1)
    while head and head in _WHITESPACE:
        head = stream.read(1)
    stream.seek(start)
    yield from _array(_decoded(stream.read(), start)) if head == b"[" else _lines(stream, start)


def _lines(stream: BinaryIO, offset: int) -> Iterator[Numbered]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES):
        number += 1
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            limit = f"{MAX_LINE_BYTES // 1024**2} MiB"
            raise LtpError(ErrorCode.TOO_LARGE, f"Line {number} is longer than {limit}.", _JSON_HINT)
        text = _decoded(raw, offset, number)
        offset += len(raw)
        if text.strip():
            yield number, _object(_parsed(text, number), number)


def _array(text: str) -> Iterator[Numbered]:
    for number, row in enumerate(cast("list[object]", _parsed(text, 1)), start=1):
        yield number, _object(row, number)


def _decoded(raw: bytes, offset: int, line: int | None = None) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        where = f"byte {offset + error.start}" + (f" (line {line})" if line else "")
        message = f"The file is not UTF-8: {where} is 0x{raw[error.start]:02x}."
        hint = "Save the file as UTF-8; unpack an archive first."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, hint) from error


def _parsed(text: str, line: int) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {line + error.lineno - 1}, column {error.colno}"
        raise LtpError(ErrorCode.DATASET_UNREADABLE, f"Broken JSON at {where}: {error.msg}.", _JSON_HINT) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise LtpError(ErrorCode.DATASET_UNREADABLE, f"Broken JSON at line {line}: {reason}.", _JSON_HINT) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(value: object, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"Row {number} is {json.dumps(value)[:40]}, not an object."
        raise LtpError(ErrorCode.DATASET_ROW_INVALID, message, _JSON_HINT)
    return cast("dict[str, Any]", value)
