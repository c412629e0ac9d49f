"""What an attempt has left in its run directory since it was last looked at: metrics and complete checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltp.core.algorithms import Algorithm
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
    # Whether something in it was no finite number; such values are left out.
    not_finite: bool = False


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
    if len(data) == _CHUNK and b"\n" not in data:
        # A line longer than any metrics: passed over piece by piece, so that what follows it is read.
        return [MetricsLine(-1, {}, offset + len(data))]
    for raw in complete_lines(data):
        offset += len(raw)
        parsed = parse_metrics_line(raw)
        # As Python's json writes them.
        odd = b"NaN" in raw or b"Infinity" in raw
        lines.append(MetricsLine(parsed[0], parsed[1], offset, odd) if parsed else MetricsLine(-1, {}, offset))
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
    backend: Backend, run_dir: Path, known: set[int], world_size: int, algorithm: Algorithm
) -> list[FoundCheckpoint]:
    """Checkpoints that are complete: the trainer's tracker has reached the step and every file of it is there."""
    try:
        newest = int(await backend.read(run_dir, _TRACKER, 0, 64))
    except ValueError:
        return []  # None written yet, or the tracker is being written this moment.
    if newest in known:
        return []
    found: list[FoundCheckpoint] = []
    for name in await backend.names(run_dir, "checkpoints"):
        suffix = name.removeprefix("global_step_")
        if suffix == name or not suffix.isdigit() or int(suffix) in known or int(suffix) > newest:
            continue
        files = await backend.tree(run_dir, f"checkpoints/{name}")
        needed = (file.partition("/")[2] for file in checkpoint_files(int(suffix), world_size, algorithm))
        if all(file in files for file in needed):
            found.append(FoundCheckpoint(int(suffix), run_dir / "checkpoints" / name, sum(files.values())))
    return sorted(found, key=lambda checkpoint: checkpoint.step)
