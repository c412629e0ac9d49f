"""JSON as people write it: one value a line or one array of any size, with the place of whatever is wrong."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn, cast

from ltp.core.errors import ErrorCode, LtpError

# One row of text; longer than any context window, short enough not to take the machine down.
MAX_LINE_BYTES = 64 * 1024**2
JSON_HINT = "Use one JSON object a line (JSONL), one JSON array of objects, CSV with a header, or Parquet."

Numbered = tuple[int, dict[str, Any]]


def array_elements(stream: BinaryIO, offset: int) -> Iterator[Numbered]:
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
        yield number, as_object(buffer.value(), number)
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
                    raise too_long(self._line) from error
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


def decoded(raw: bytes, offset: int, line: int) -> str:
    """The text of some bytes that start at `offset`. Raises DATASET_UNREADABLE with the place of the first that is no UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(offset + error.start, error, line) from error


def _not_utf8(at: int, error: UnicodeDecodeError, line: int | None) -> LtpError:
    where = f"byte {at}" + (f" (line {line})" if line else "")
    message = f"The file is not UTF-8: {where} is 0x{error.object[error.start]:02x}."
    return LtpError(ErrorCode.DATASET_UNREADABLE, message, "Save the file as UTF-8; give an archive its own ending.")


def parsed(text: str, line: int) -> object:
    """The value of one line. Raises DATASET_UNREADABLE with line and column."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _broken(line + error.lineno - 1, error.colno, error.msg) from error
    except (ValueError, RecursionError) as error:
        raise _unparsable(error, line) from error


def _unparsable(error: Exception, line: int) -> LtpError:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return LtpError(ErrorCode.DATASET_UNREADABLE, f"Broken JSON at line {line}: {reason}.", JSON_HINT)


def _broken(line: int, column: int, reason: str) -> LtpError:
    message = f"Broken JSON at line {line}, column {column}: {reason}."
    return LtpError(ErrorCode.DATASET_UNREADABLE, message, JSON_HINT)


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


def too_long(number: int) -> LtpError:
    """The error of a line or element past the limit."""
    limit = f"{MAX_LINE_BYTES // 1024**2} MiB"
    return LtpError(ErrorCode.TOO_LARGE, f"Line {number} is longer than {limit}.", JSON_HINT)


def as_object(value: object, number: int) -> dict[str, Any]:
    """The row. Raises DATASET_ROW_INVALID when it is anything but an object."""
    if not isinstance(value, dict):
        message = f"Row {number} is {json.dumps(value)[:40]}, not an object."
        raise LtpError(ErrorCode.DATASET_ROW_INVALID, message, JSON_HINT)
    return cast("dict[str, Any]", value)
