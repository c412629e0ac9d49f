"""`ltp plan check`: the planner's predictions held against what a device measured."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ltp.cli.output import JsonOption, reported, rows_table, show
from ltp.core.accuracy import check as check_rows
from ltp.core.errors import ErrorCode, LtpError

MeasuredFile = Annotated[
    Path, typer.Argument(help="Measured steps, one JSON object a line, as in tests/data/gpu_memory_h200.jsonl.")
]


def check(file: MeasuredFile, json: JsonOption = False) -> None:
    """Hold predicted memory and time against measured steps: each row's error, and their median, 95 % and maximum."""
    with reported():
        found = check_rows(_rows(file))
        show(found, json, lambda: _table(found))


def _rows(file: Path) -> list[object]:
    """The file's rows; one that is no JSON is a row that says so. A file that is one JSON list is its items."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{file} cannot be read: {error}.", "Name a JSON-lines file."
        ) from error
    if not text.strip():
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file} has no rows.", "Each line is the measurement of one step.")
    if text.lstrip().startswith("["):
        whole = _parsed(text)
        if isinstance(whole, list):
            return list(whole)  # pyright: ignore[reportUnknownArgumentType]
    return [_parsed(line) for line in text.splitlines() if line.strip()]


def _parsed(text: str) -> object:
    try:
        return json_text.loads(text)
    except (ValueError, RecursionError):
        return None


def _table(found: dict[str, Any]) -> Table | str:
    rows = [_line(row) for row in found["rows"]]
    columns = (
        "CASE",
        "ALLOCATED GiB",
        "SEEN",
        "ERROR %",
        "DEVICE MiB",
        "SEEN",
        "ERROR %",
        "STEP s",
        "SEEN",
        "ERROR %",
        "",
    )
    for name, part in found["summary"].items():
        if "median_pct" in part:
            numbers = [part["median_pct"], part["p95_pct"], part["max_pct"]]
            shown = " / ".join("-" if number is None else f"{number:.2f}" for number in numbers)
            rows.append((f"{name}: median / 95 % / max of {part['n']}", shown, *[""] * 9))
    rows.append(("verdicts", ", ".join(f"{k} {v}" for k, v in found["summary"]["verdicts"].items()), *[""] * 9))
    return rows_table(columns, rows)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    case = str(row.get("case") or row.get("model") or "?")
    if row["status"] != "checked":
        return (case, *[""] * 9, f"{row['status']}: {row['reason']}")
    cells: list[str] = [case]
    shown = row["predicted"]
    sizes = (
        ("alloc_peak", 2**30, "allocated_bytes"),
        ("nvidia_smi_mib", 1, "device_mib"),
        ("step_s", 1, "step_seconds"),
    )
    for key, unit, ours in sizes:
        digits = 0 if key == "nvidia_smi_mib" else 3
        cells.append(f"{shown[ours] / unit:.{digits}f}")
        part = row.get(key)
        cells += [f"{part['measured'] / unit:.{digits}f}", f"{part['error_pct']:+.2f}"] if part else ["", ""]
    said = "ran out" if row["ran_out"] else ""
    return (*cells, " ".join(part for part in (said, row["verdict"] if row["verdict"] != "right" else "") if part))
