"""A whole comparison as a file: CSV, Markdown, or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltp.cli.client import Gateway
from ltp.comparison_text import COLUMNS, csv_lines, render, report, row_of
from ltp.contracts.evaluation_questions import ComparisonRecord, PairRecord
from ltp.core.errors import ErrorCode, LtpError


def write_export(path: Path, verdict: ComparisonRecord, gateway: Gateway, filters: dict[str, Any]) -> int:
    """Write every row that matches; returns how many. Raises INVALID_REQUEST, DEPENDENCY_MISSING, DATA_DIR_UNWRITABLE."""
    kind = path.suffix.lower()
    if kind not in {".csv", ".parquet", ".md"}:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{path.name}: no such format.", "End in .csv, .parquet or .md.")
    pairs = list(_pairs(gateway, filters))
    try:
        if kind == ".parquet":
            _parquet(path, [row_of(pair) for pair in pairs])
        elif kind == ".csv":
            path.write_text(csv_lines([list(COLUMNS)]) + "".join(render("csv", pairs)))
        else:
            path.write_text("".join(report(verdict)) + "".join(render("markdown", pairs)))
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror})."
        raise LtpError(ErrorCode.DATA_DIR_UNWRITABLE, message, "Choose another place.") from error
    return len(pairs)


def _pairs(gateway: Gateway, filters: dict[str, Any]) -> Iterator[PairRecord]:
    offset = 0
    while True:
        page = gateway.get("/comparisons/samples", **filters, offset=offset, limit=200)
        yield from (PairRecord.model_validate(pair) for pair in page["pairs"])
        offset += len(page["pairs"])
        if offset >= page["total"] or not page["pairs"]:
            return


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        # Only this format needs it, and the CLI must start without.
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        hint = "Install the extra `evaluator`, or write .csv."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, "Parquet needs pyarrow.", hint) from error
    values = {"before_value", "after_value"}
    schema = pa.schema([(name, pa.float64() if name in values else pa.string()) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
