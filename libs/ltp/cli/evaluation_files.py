"""Reads what lm-evaluation-harness logged, for `ltp eval import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError


def read_harness(path: Path, model: str | None, metric: str | None) -> list[dict[str, Any]]:
    """One upload a task: {"model", "task", "metric", "samples"}. Raises LtpError NOT_FOUND or INVALID_REQUEST."""
    return [_harness(file, model, metric) for file in _sample_files(path)]


def _sample_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.rglob("samples_*.jsonl"))
    if not files:
        hint = "Run lm_eval with --log_samples --output_path DIR, and give DIR."
        raise LtpError(ErrorCode.NOT_FOUND, f"There are no samples_*.jsonl in {path}.", hint)
    return files


def _harness(file: Path, model: str | None, metric: str | None) -> dict[str, Any]:
    try:
        lines = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        first = lines[0]
        known = ("exact_match", "acc", "acc_norm", "pass@1", "pass_at_1", "f1", "bleu")
        chosen = metric or next(name for name in known if isinstance(first.get(name), int | float))
        if chosen not in first:
            raise KeyError(chosen)
    except (OSError, ValueError, LookupError, StopIteration, AttributeError) as error:
        hint = "Give a samples_*.jsonl of lm_eval, and --metric where it has none of the usual ones."
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{file} has no metric to import: {error!r}", hint) from error
    # samples_<task>_<date>.jsonl
    task = file.stem.removeprefix("samples_").rpartition("_")[0] or file.stem
    return {"model": model or file.parent.name, "task": task, "metric": chosen, "samples": lines}
