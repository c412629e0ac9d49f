"""The held-out rows of a split, as the dataset service wrote them. Needs pyarrow, which the evaluator extra must name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ltp.core.errors import ErrorCode, LtpError
from services.evaluator.inference import Message


@dataclass(frozen=True)
class HeldOutRow:
    """A question with its reference answer."""

    row_id: str
    prompt: tuple[Message, ...]
    answer: str


def read_rows(path: Path, max_rows: int) -> list[HeldOutRow]:
    """The first `max_rows` answered rows by id, so that every model is asked the same ones.

    Columns: id str, prompt list<struct<role, content>>, answer str or null. Raises LtpError: DATASET_UNREADABLE when
    the file is not such a table, EVALUATION_EMPTY when no row has an answer.
    """
    try:
        table = pq.read_table(path, columns=["id", "prompt", "answer"])
        answered = table.filter(pc.field("answer").is_valid()).sort_by("id").slice(0, max_rows)
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
    return rows


def _row(record: dict[str, Any]) -> HeldOutRow:
    prompt = tuple(Message(role=turn["role"], content=turn["content"]) for turn in record["prompt"])
    return HeldOutRow(record["id"], prompt, record["answer"])
