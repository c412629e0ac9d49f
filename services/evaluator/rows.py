"""The held-out rows of a split, as the dataset service wrote them. Needs pyarrow, which the evaluator extra must name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError
from services.evaluator.samples import Message, Row

# A field with longer values is text, not a label.
_LONGEST_LABEL = 100


def read_rows(path: Path, max_rows: int) -> list[Row]:
    """The first `max_rows` answered rows by id, so that every model is asked the same ones.

    Columns: id str, prompt list<struct<role, content>>, answer str or null, and `fields`, the user's own, if there are
    any: their short values are labels. Raises LtpError: DATASET_UNREADABLE when the file is not such a table,
    EVALUATION_EMPTY when no row has an answer.
    """
    return read_with_missing(path, max_rows)[0]


def read_with_missing(path: Path, max_rows: int) -> tuple[list[Row], int]:
    """As `read_rows`, and how many rows have no reference answer. Raises as that, and EVALUATION_FAILED on an id twice."""
    try:
        have = pq.read_schema(path).names
        table = pq.read_table(path, columns=["id", "prompt", "answer", *(["fields"] if "fields" in have else [])])
        answered = table.filter(table["answer"].is_valid()).sort_by("id").slice(0, max_rows)
        missing = table["answer"].null_count
        rows = [_row(record) for record in answered.to_pylist()]
    except (OSError, pa.ArrowException, LookupError, TypeError) as error:
        raise LtpError(
            ErrorCode.DATASET_UNREADABLE, f"The split {path} cannot be read: {error}", "Upload the dataset again."
        ) from error
    if not rows:
        raise LtpError(
            ErrorCode.EVALUATION_EMPTY,
            f"No row of {path.name} has a reference answer, so nothing can be scored.",
            "Upload the dataset with a column 'answer', or choose another split.",
        )
    if len({row.row_id for row in rows}) < len(rows):
        message = f"An id comes twice in {path.name}; a row's answers could not be told apart."
        raise LtpError(ErrorCode.EVALUATION_FAILED, message, "Give every row an id of its own and upload again.")
    return rows, missing


def _row(record: dict[str, Any]) -> Row:
    prompt = tuple(Message(role=turn["role"], content=turn["content"]) for turn in record["prompt"])
    return Row(record["id"], prompt, record["answer"], _labels(record.get("fields") or {}))


def _labels(fields: dict[str, Any]) -> dict[str, str]:
    kept = {name: str(value) for name, value in fields.items() if isinstance(value, str | bool | int)}
    return {name: value for name, value in kept.items() if 0 < len(value) <= _LONGEST_LABEL}
