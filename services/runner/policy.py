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
    left_in_peace = status.exit_code == 0 and (stop == "leave" or status.reason in {"stopped", "preempted"})
    if stop == "kill" or left_in_peace:
        return Verdict("stopped", exit_code=status.exit_code)
    if status.reason == "time_limit":
        problem = Problem(
            code=ErrorCode.TIME_LIMIT,
            message="The attempt reached its time limit.",
            hint="Raise resources.time_limit_seconds, or train fewer steps.",
        )
        return Verdict("failed", problem, status.exit_code)
    if status.reason == "hung":
        return Verdict("failed", _hung(status), status.exit_code)
    if status.reason == "preempted":
        return Verdict("failed", _preempted(status, log_tail), status.exit_code)
    if status.reason == "disk_full" and status.exit_code == 0:
        return Verdict("stopped", _no_room(status), 0)
    end = Exit(status.exit_code, status.signal, host_available_share, status.oom_kills or 0)
    return Verdict("failed", diagnose(log_tail, end), status.exit_code)


def _hung(status: LaunchStatus) -> Problem:
    stalled = status.stalled or {}
    return Problem(
        code=ErrorCode.TRAINING_STALLED,
        message=f"No metrics came since step {str(stalled.get('last_step') or 0)[:20]}, and the attempt was ended for it.",
        hint="The stacks of its processes are in stacks/ of the run's directory.",
        # The file lies where training can write: what it says is quoted, and not at any length.
        evidence=[str(line)[:400] for line in stalled.get("evidence", [])[:24]],
    )


def _preempted(status: LaunchStatus, log_tail: str) -> Problem:
    last = [line.strip()[:400] for line in log_tail.splitlines() if line.strip()][-3:]
    how = f"signal {status.signal}" if status.signal else f"exit code {status.exit_code}"
    return Problem(
        code=ErrorCode.PREEMPTED,
        message=f"The host shut down or took its devices back (its launcher got SIGTERM); training ended with {how}.",
        hint="The job goes on from its last checkpoint; `training.save_every` says how much such an end costs.",
        evidence=["the launcher got SIGTERM", how, *last],
    )


def _no_room(status: LaunchStatus) -> Problem:
    disk = status.disk or {}
    free, need = disk.get("free_bytes") or 0, disk.get("checkpoint_bytes") or 0
    return Problem(
        code=ErrorCode.DISK_FULL,
        message=f"The run saved and paused before its disk was full: {free / 2**30:.2f} GiB are free there, and a "
        f"checkpoint takes about {need / 2**30:.2f}.",
        hint="Free space there, then `ltp job resume JOB`; `checkpoints:` in the recipe keeps fewer of them.",
        evidence=[f"{name} = {value}"[:400] for name, value in sorted(disk.items())[:24]],
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


def last_available_share(samples: bytes) -> float | None:
    """The share of its memory that the host had left at the last whole sample; None where no sample tells."""
    found = host_memory_of(samples)
    return found[0] / found[1] if found and found[1] else None


def host_memory_of(samples: bytes) -> tuple[int, int] | None:
    """Bytes of the host's memory that were available at the last whole sample, and all; None where no sample tells."""
    for line in reversed(complete_lines(samples)):
        with suppress(ValueError, KeyError, TypeError):
            sample = json.loads(line)
            return int(sample["host_available_bytes"]), int(sample["host_total_bytes"])
    return None


def step_of(checkpoint: str | None) -> int:
    """The step that a checkpoint's directory names (`global_step_40`); 0 for none."""
    suffix = (checkpoint or "").rstrip("/").rpartition("global_step_")[2]
    return int(suffix) if suffix.isdigit() else 0
