"""`ltp plan check`: the planner's predictions held against what a device measured."""

from __future__ import annotations

import json as json_text
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ltp.cli.output import JsonOption, reported, rows_table, show
from ltp.core.accuracy import check as check_rows
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.memory import Precision, Step, training_peak
from ltp.core.model_config import read_architecture
from ltp.core.replay.step import replay, replays

MeasuredFile = Annotated[
    Path, typer.Argument(help="Measured steps, one JSON object a line, as in tests/data/gpu_memory_h200.jsonl.")
]


def check(file: MeasuredFile, json: JsonOption = False) -> None:
    """Hold predicted memory and time against measured steps: each row's error, and their median, 95 % and maximum."""
    with reported():
        found = check_rows(_rows(file), _trace_unknown)
        show(found, json, lambda: _table(found))


def _trace_unknown(config: Mapping[str, Any], step: Mapping[str, Any]) -> tuple[int, int] | None:
    """A trace for an architecture that nobody wrote down; None without torch, or where the model's code refuses."""
    try:
        traced = run_trace({"config": dict(config), "step": dict(step)})
    except LtpError:
        return None
    return traced["allocated"], traced["reserved"]


def trace(config: Path, micro_batch: int, sequence: int, checkpointing: bool, lora_rank: int, json: bool) -> None:
    """The replay and the closed form beside a trace of the model's own code, for one device in bf16."""
    with reported():
        settings = read_settings(config)
        step = Step(Precision.BF16, micro_batch, sequence, checkpointing, lora_rank)
        asked = {
            "micro_batch": micro_batch, "sequence": sequence, "checkpointing": checkpointing, "lora_rank": lora_rank
        }  # fmt: skip
        found: dict[str, Any] = {"traced": run_trace({"config": settings, "step": asked}), "predicted": None}
        try:
            arch = read_architecture(settings)
            found["predicted"] = {"closed_form": training_peak(arch, step).allocated}
            if replays(arch, step):
                exact = replay(arch, step)
                found["predicted"] |= {"allocated": exact.allocated, "reserved": exact.reserved}
        except LtpError as error:
            # The trace alone answers for an architecture that nobody wrote down.
            found["reason"] = error.message
        show(found, json, lambda: rows_table(("", "BYTES"), _flat(found)))


def _flat(found: dict[str, Any]) -> list[tuple[str, Any]]:
    parts = [("traced", found["traced"]), ("predicted", found["predicted"] or {})]
    return [(f"{name} {key}", value) for name, part in parts for key, value in part.items() if key != "stages"]


def read_settings(file: Path) -> dict[str, Any]:
    """A model's config.json. Raises INVALID_REQUEST."""
    try:
        settings: object = json_text.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file} cannot be read: {error}.", "Name a config.json.") from error
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file} has no model_type.", "Name a model's config.json.")
    return settings  # pyright: ignore[reportUnknownVariableType]


def run_trace(asked: dict[str, Any]) -> dict[str, Any]:
    """The model's own code in a process of its own, which may load torch. Raises DEPENDENCY_MISSING, MODEL_UNREADABLE."""
    command = [sys.executable, "-m", "ltp.tensors.trace_memory"]
    ran = subprocess.run(command, input=json_text.dumps(asked), capture_output=True, text=True, check=False)
    last = (ran.stdout.strip().splitlines() or [""])[-1]
    answer = _parsed(last)
    if not isinstance(answer, dict):
        hint = "Install the training extra, which brings torch and transformers."
        raise LtpError(ErrorCode.DEPENDENCY_MISSING, f"The trace did not run: {ran.stderr.strip()[-300:]}", hint)
    if "error" in answer:
        hint = "The model's own code refused this config; its words are above."
        raise LtpError(ErrorCode.MODEL_UNREADABLE, f"The trace failed: {answer['error']}", hint)
    return answer  # pyright: ignore[reportUnknownVariableType]


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
        if shown[ours] is None:
            cells += ["", "", ""]
            continue
        cells.append(f"{shown[ours] / unit:.{digits}f}")
        part = row.get(key)
        cells += [f"{part['measured'] / unit:.{digits}f}", f"{part['error_pct']:+.2f}"] if part else ["", ""]
    said = "ran out" if row["ran_out"] else ""
    return (*cells, " ".join(part for part in (said, row["verdict"] if row["verdict"] != "right" else "") if part))
