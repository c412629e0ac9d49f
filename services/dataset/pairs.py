"""Rows of preference pairs at the door of a DPO job: whether all are pairs, and both answers as conversations."""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.derive import Source


def demand_pairs(source: Source, split: str) -> None:
    """Raise DATASET_ROW_INVALID unless every row of the split has a chosen and a rejected answer."""
    rows = missing = 0
    first: str | None = None
    for name, table in source.tables(["row_id", "id", "chosen", "rejected"]):
        if name != split:
            continue
        rows += table.num_rows
        for row in table.filter(_lacking(table)).column("id").to_pylist():
            first, missing = first or str(row), missing + 1
    if missing:
        message = f"{missing} of {rows} rows of {source.name} lack a chosen or a rejected answer, first {first}."
        hint = "DPO learns from pairs: use a dataset with prompt, chosen and rejected, or leave such rows out."
        raise LtpError(ErrorCode.DATASET_ROW_INVALID, message, hint)


def both_answers(source: Source, split: str, count: int) -> pa.Table:
    """Up to `count` conversations (row_id, id, messages): of each pair first the chosen one, then the rejected."""
    talks: list[dict[str, Any]] = []
    for name, table in source.tables(["row_id", "id", "messages", "chosen", "rejected"], rows=min(count, 4096)):
        if name != split:
            continue
        for row in table.to_pylist():
            prompt = row["messages"][: -len(row["chosen"])]
            talks += [
                {"row_id": row["row_id"], "id": row["id"], "messages": prompt + row[kind]}
                for kind in ("chosen", "rejected")
            ]
            if len(talks) >= count:
                return pa.Table.from_pylist(talks)
    return pa.Table.from_pylist(talks)


def _lacking(table: pa.Table) -> Any:
    return pc.or_(pc.is_null(table.column("chosen")), pc.is_null(table.column("rejected")))
