"""What an attempt has left in its run directory since it was last looked at: metrics and complete checkpoints."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ltp.verl_recipe.verl_0_9 import checkpoint_files, parse_metrics_line
from services.runner.backends import Backend
from services.runner.policy import complete_lines

_CHUNK = 1 << 20
_TRACKER = "checkpoints/latest_checkpointed_iteration.txt"


@dataclass(frozen=True)
class MetricsLine:
    """One parsed line, with the byte after it."""

    step: int
    values: dict[str, float]
    end: int


@dataclass(frozen=True)
class FoundCheckpoint:
    """A complete checkpoint on the disk."""

    step: int
    path: Path
    size_bytes: int


async def read_metrics(backend: Backend, run_dir: Path, offset: int) -> list[MetricsLine]:
    """Lines completed since `offset`. A line that is no metrics is passed over with its bytes."""
    data = await backend.read(run_dir, "metrics.jsonl", offset, _CHUNK)
    lines: list[MetricsLine] = []
    for raw in complete_lines(data):
        offset += len(raw)
        parsed = parse_metrics_line(raw)
        lines.append(MetricsLine(parsed[0], parsed[1], offset) if parsed else MetricsLine(-1, {}, offset))
    return lines


async def read_all_metrics(backend: Backend, run_dir: Path) -> list[MetricsLine]:
    """Every line of an attempt that is over; none where it never wrote any."""
    lines: list[MetricsLine] = []
    try:
        while more := await read_metrics(backend, run_dir, lines[-1].end if lines else 0):
            lines += more
    except OSError:
        return lines
    return lines


async def find_checkpoints(
    run_dir: Path, known: set[int], world_size: int, algorithm: Literal["sft", "grpo"]
) -> list[FoundCheckpoint]:
    """Checkpoints that are complete: the trainer's tracker has reached the step and every file of it is there."""
    return await asyncio.to_thread(_find, run_dir, known, world_size, algorithm)


def _find(run_dir: Path, known: set[int], world_size: int, algorithm: Literal["sft", "grpo"]) -> list[FoundCheckpoint]:
    try:
        newest = int((run_dir / _TRACKER).read_text())
    except (OSError, ValueError):
        return []  # None written yet, or the tracker is being written this moment.
    found: list[FoundCheckpoint] = []
    for folder in (run_dir / "checkpoints").glob("global_step_*"):
        suffix = folder.name.removeprefix("global_step_")
        if not suffix.isdigit() or int(suffix) in known or int(suffix) > newest:
            continue
        step = int(suffix)
        files = [run_dir / "checkpoints" / name for name in checkpoint_files(step, world_size, algorithm)]
        if all(file.is_file() for file in files):
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            found.append(FoundCheckpoint(step, folder, size))
    return sorted(found, key=lambda checkpoint: checkpoint.step)
