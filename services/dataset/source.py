"""Reads a dataset file as blocks of numbered rows, by what the file holds rather than by what it is called."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError

PARQUET_MAGIC = b"PAR1"
# One row of text; longer than any context window, short enough not to take the machine down.
MAX_LINE_BYTES = 64 * 1024**2
BLOCK_BYTES = 12 * 1024**2
BLOCK_ROWS = 8192
_JSON_HINT = "Use one JSON object a line (JSONL), one JSON array of objects, CSV with a header, or Parquet."
_WHITESPACE = b" \t\r\n"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_TEXT_SUFFIXES = (".txt", ".text")

Numbered = tuple[int, dict[str, Any]]


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
                raise _too_long(number)
            text = _decoded(raw, offset, number)
            offset += len(raw) + 1
            if text.strip():
                yield number, _object(_parsed(text, number), number)


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
        reason = str(error).splitlines()[0]
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
        yield from _grouped(_array(stream, stream.tell()))
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
            raise _too_long(line + data.count(b"\n"))
        data += tail
        yield Lines(data, line, offset)
        line += data.count(b"\n")
        offset += len(data)


def _too_long(number: int) -> LtpError:
    limit = f"{MAX_LINE_BYTES // 1024**2} MiB"
    return LtpError(ErrorCode.TOO_LARGE, f"Line {number} is longer than {limit}.", _JSON_HINT)


def _plain(stream: BinaryIO, offset: int) -> Iterator[Numbered]:
    for number, raw in enumerate(stream, start=1):
        text = _decoded(raw, offset, number)
        offset += len(raw)
        if text.strip():
            yield number, {"text": text.rstrip("\r\n")}


def _csv(stream: BinaryIO, offset: int, separator: str) -> Iterator[Numbered]:
    def decoded() -> Iterator[str]:
        at = offset
        for number, raw in enumerate(stream, start=1):
            yield _decoded(raw, at, number)
            at += len(raw)

    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(decoded(), delimiter=separator, strict=True)
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


# -- JSON ------------------------------------------------------------------------------------------------------------


def _array(stream: BinaryIO, offset: int) -> Iterator[Numbered]:
    """The elements of one JSON array, decoded as they come: no more than one of them is held beside a buffer."""
    buffer = _Buffer(stream, offset)
    number = 0
    while (mark := buffer.mark()) != "]":
        if number:
            buffer.expect(",")
            mark = buffer.mark()
        if not mark or mark == "]":
            raise buffer.broken("Expecting value" if not mark else "Illegal trailing comma before end of array")
        number += 1
        yield number, _object(buffer.value(), number)
        if buffer.mark() not in {",", "]"}:
            raise buffer.broken("Expecting ',' delimiter")
    buffer.expect("]")
    if buffer.mark():
        raise buffer.broken("Extra data")


class _Buffer:
    """Text of a stream from a moving place on, with the line and column of that place."""

    _CHUNK = 1 << 20

    def __init__(self, stream: BinaryIO, offset: int) -> None:
        stream.seek(0)
        # What precedes the first element is read again for the sake of lines and columns.
        head = stream.read(offset).removeprefix(codecs.BOM_UTF8).decode()
        self._stream, self._offset = stream, offset
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._is_over = "", 0, False
        self._line, self._column = 1, 1
        self._advance(head)

    def mark(self) -> str:
        """The next character that is no white space, without passing it; empty at the end."""
        while True:
            rest = self._text[self._at :].lstrip(" \t\r\n")
            if rest or self._is_over:
                self._skip(len(self._text) - self._at - len(rest))
                return rest[:1]
            self._skip(len(self._text) - self._at)
            self._more(self._CHUNK)

    def expect(self, character: str) -> None:
        """Pass one character. Raises DATASET_UNREADABLE when it is another."""
        if self.mark() != character:
            raise self.broken(f"Expecting '{character}' delimiter")
        self._skip(1)

    def value(self) -> object:
        """Pass one JSON value and return it."""
        size = self._CHUNK
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 10
                if not cut_off or self._is_over:
                    raise self._broken_at(error) from error
                if len(self._text) - self._at > MAX_LINE_BYTES:
                    raise _too_long(self._line) from error
                self._more(size := 2 * size)
            except (ValueError, RecursionError) as error:
                raise _unparsable(error, self._line) from error
            else:
                if end == len(self._text) and not self._is_over:
                    # A number at the very end of the buffer may go on.
                    self._more(self._CHUNK)
                    continue
                self._skip(end - self._at)
                return found

    def broken(self, reason: str) -> LtpError:
        """What is wrong at this place."""
        return _broken(self._line, self._column, reason)

    def _broken_at(self, error: json.JSONDecodeError) -> LtpError:
        before = self._text[self._at : error.pos]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") if lines else self._column + len(before)
        return _broken(self._line + lines, column, error.msg)

    def _skip(self, count: int) -> None:
        self._advance(self._text[self._at : self._at + count])
        self._at += count

    def _advance(self, passed: str) -> None:
        if newlines := passed.count("\n"):
            self._line += newlines
            self._column = len(passed) - passed.rfind("\n")
        else:
            self._column += len(passed)

    def _more(self, size: int) -> None:
        raw = self._stream.read(size)
        self._is_over = not raw
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            raise _not_utf8(self._offset - (len(error.object) - len(raw)) + error.start, error, None) from error
        self._offset += len(raw)
        self._text, self._at = self._text[self._at :] + text, 0


def _decoded(raw: bytes, offset: int, line: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(offset + error.start, error, line) from error


def _not_utf8(at: int, error: UnicodeDecodeError, line: int | None) -> LtpError:
    where = f"byte {at}" + (f" (line {line})" if line else "")
    message = f"The file is not UTF-8: {where} is 0x{error.object[error.start]:02x}."
    return LtpError(ErrorCode.DATASET_UNREADABLE, message, "Save the file as UTF-8; give an archive its own ending.")


def _parsed(text: str, line: int) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _broken(line + error.lineno - 1, error.colno, error.msg) from error
    except (ValueError, RecursionError) as error:
        raise _unparsable(error, line) from error


def _unparsable(error: Exception, line: int) -> LtpError:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return LtpError(ErrorCode.DATASET_UNREADABLE, f"Broken JSON at line {line}: {reason}.", _JSON_HINT)


def _broken(line: int, column: int, reason: str) -> LtpError:
    message = f"Broken JSON at line {line}, column {column}: {reason}."
    return LtpError(ErrorCode.DATASET_UNREADABLE, message, _JSON_HINT)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _object(value: object, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"Row {number} is {json.dumps(value)[:40]}, not an object."
        raise LtpError(ErrorCode.DATASET_ROW_INVALID, message, _JSON_HINT)
    return cast("dict[str, Any]", value)
