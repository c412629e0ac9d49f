"""How far an attempt is: its step, its pace and what is left, read from the traces on its host whenever somebody asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ltp.contracts.alarm import Progress, Rollout
from services.runner import store
from services.runner.backends import Backend
from services.runner.traces import MetricsLine, read_metrics

_BYTES = 65_536
# A step of verl's own, and tokens a second and device.
_STEP, _TOKENS = "perf/time_per_step", "perf/throughput"
_NEWEST = 20


async def progress_of(backend: Backend, row: store.Row) -> Progress:
    """The progress of the attempt in a row of the runner's. Raises LinkDownError while its host cannot be reached."""
    run_dir = Path(row["run_dir"])
    status = await backend.status(run_dir)
    size = await backend.size(run_dir, "metrics.jsonl")
    lines = await read_metrics(backend, run_dir, max(0, size - _BYTES))
    known = None if status is None else status.progress
    disk = (None if status is None else status.disk) or {}
    stalled = (None if status is None else status.stalled) or {}
    return Progress(
        attempt=row["number"],
        state=row["state"],
        rollout=None if known is None or row["ended_at"] is not None else Rollout.model_validate(known),
        stalled_since=stalled.get("since") if row["ended_at"] is None else None,
        disk_level=disk.get("level"),
        disk_free_bytes=disk.get("free_bytes"),
        steps=row["steps"],
        **pace(lines, row["last_step"], row["steps"], devices_of(row["placement"]), row["ended_at"] is None),
    )


def devices_of(placement: dict[str, Any]) -> int:
    """How many devices a placement takes in all."""
    shares = [placement, *placement.get("others", [])]
    return sum(len(share["device_indexes"]) for share in shares)


def pace(lines: Sequence[MetricsLine], last_step: int, steps: int, devices: int, runs: bool) -> dict[str, Any]:
    """Step, seconds of a step, tokens a second over all devices, and seconds left; pure."""
    newest = [line for line in lines if line.step >= 0][-_NEWEST:]
    seconds, tokens = _median(newest, _STEP), _median(newest, _TOKENS)
    step = max([last_step, *(line.step for line in newest)])
    return {
        "step": step,
        "step_seconds": seconds,
        "tokens_per_second": None if tokens is None else tokens * devices,
        "eta_seconds": None if seconds is None or not runs else seconds * max(0, steps - step),
    }


def _median(lines: Sequence[MetricsLine], name: str) -> float | None:
    values = [line.values[name] for line in lines if math.isfinite(line.values.get(name, math.nan))]
    return median(values) if values else None
