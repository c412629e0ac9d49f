"""What an attempt's traces on its host mean. Pure: status, log tail and steps in; a verdict out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from services.runner.backends import LaunchStatus

Outcome = Literal["running", "succeeded", "failed", "stopped", "lost"]

_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|OutOfMemoryError|can't allocate memory|DefaultCPUAllocator|Cannot allocate"
)
_FULL_DISK = re.compile(r"No space left on device|Disk quota exceeded")
# The last line that names an error, as Python's tracebacks end.
_ERROR_LINE = re.compile(r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b.*|Error executing job.*)$", re.MULTILINE)
_SIGKILL = 9


@dataclass(frozen=True)
class Verdict:
    """How an attempt stands."""

    outcome: Outcome
    problem: Problem | None = None
    exit_code: int | None = None


def judge(status: LaunchStatus, *, stop_asked: bool, final_step_saved: bool, log_tail: str) -> Verdict:
    """How an attempt stands. Success is proven by the last checkpoint, not by an exit code."""
    if status.state == "running":
        return Verdict("running") if status.alive else Verdict("lost", _lost())
    if final_step_saved and status.exit_code == 0:
        return Verdict("succeeded", exit_code=0)
    if stop_asked:
        return Verdict("stopped", exit_code=status.exit_code)
    if status.reason == "time_limit":
        problem = Problem(
            code=ErrorCode.TIME_LIMIT,
            message="The attempt reached its time limit.",
            hint="Raise resources.time_limit_seconds, or train fewer steps.",
        )
        return Verdict("failed", problem, status.exit_code)
    return Verdict("failed", diagnose(log_tail, status.exit_code, status.signal), status.exit_code)


def diagnose(log_tail: str, exit_code: int | None, signal: int | None) -> Problem:
    """The most likely cause of a failure, from the end of the training log."""
    found = _ERROR_LINE.findall(log_tail)
    said = found[-1].strip()[:500] if found else "it printed no error"
    ended = f"signal {signal}" if signal else f"exit code {exit_code}"
    if _OUT_OF_MEMORY.search(log_tail) or (signal == _SIGKILL and not found):
        return Problem(
            code=ErrorCode.TRAINING_OUT_OF_MEMORY,
            message=f"Training ran out of memory ({ended}): {said}.",
            hint="Lower training.max_length or resources.micro_batch_size, or use training.lora_rank.",
        )
    if _FULL_DISK.search(log_tail):
        return Problem(
            code=ErrorCode.DISK_FULL,
            message=f"The disk filled up during training ({ended}).",
            hint="Free space under the data directory; a checkpoint takes 12 bytes per parameter.",
        )
    return Problem(
        code=ErrorCode.TRAINING_FAILED,
        message=f"Training ended with {ended}: {said}.",
        hint="`ltp job logs JOB` shows the whole log.",
    )


def _lost() -> Problem:
    return Problem(
        code=ErrorCode.ATTEMPT_LOST,
        message="The launcher that watched the training process is gone, without a record of the end.",
        hint="The host was restarted, or the launcher was killed. The job is tried again from its last checkpoint.",
    )


def complete_lines(data: bytes) -> list[bytes]:
    """Whole lines of a file that is still being written; the rest is read again later."""
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(keepends=True)
