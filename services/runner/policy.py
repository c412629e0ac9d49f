"""What an attempt's traces on its host mean. Pure: status, log tail and steps in; a verdict out."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from services.runner.backends import LaunchStatus
from services.runner.causes import Exit, diagnose

# What was asked of an attempt: to save and leave at its next step, or to be gone.
Stop = Literal["leave", "kill"]
Outcome = Literal["running", "succeeded", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class Verdict:
    """How an attempt stands."""

    outcome: Outcome
    problem: Problem | None = None
    exit_code: int | None = None


def judge(
    status: LaunchStatus,
    *,
    stop: Stop | None,
    final_step_saved: bool,
    log_tail: str,
    host_available_share: float | None = None,
) -> Verdict:
    """How an attempt stands, given what was asked of it. Success is proven by the last checkpoint, not by an exit code."""
    if status.state == "running":
        if status.alive:
            return Verdict("running")
        # Nobody saw it end, but all that it was to do is on the disk.
        return Verdict("succeeded") if final_step_saved else Verdict("lost", _lost())
    if final_step_saved and status.exit_code == 0:
        return Verdict("succeeded", exit_code=0)
    # Killed on request, it may end as it likes; asked to save and leave, it must have done so, also for its host's shutdown.
    left_in_peace = status.exit_code == 0 and (stop == "leave" or status.reason == "stopped")
    if stop == "kill" or left_in_peace:
        return Verdict("stopped", exit_code=status.exit_code)
    if status.reason == "time_limit":
        problem = Problem(
            code=ErrorCode.TIME_LIMIT,
            message="The attempt reached its time limit.",
            hint="Raise resources.time_limit_seconds, or train fewer steps.",
        )
        return Verdict("failed", problem, status.exit_code)
    end = Exit(status.exit_code, status.signal, host_available_share)
    return Verdict("failed", diagnose(log_tail, end), status.exit_code)


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


def last_available_share(samples: bytes) -> float | None:
    """The share of its memory that the host had left at the last whole sample; None where no sample tells."""
    for line in reversed(complete_lines(samples)):
        with suppress(ValueError, KeyError, ZeroDivisionError):
            sample = json.loads(line)
            return float(sample["host_available_bytes"]) / float(sample["host_total_bytes"])
    return None


def step_of(checkpoint: str | None) -> int:
    """The step that a checkpoint's directory names (`global_step_40`); 0 for none."""
    suffix = (checkpoint or "").rstrip("/").rpartition("global_step_")[2]
    return int(suffix) if suffix.isdigit() else 0
