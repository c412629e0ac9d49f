"""What happens to an attempt: one try of a run on leased devices."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from ltp.contracts.event import Event, Value
from ltp.contracts.values import Placement, Plan, Problem


class Measured(Value):
    """What a run was seen to need, from its own metrics: peak of torch's allocator on the fullest device, time of a step."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    step_seconds: float | None = None
    # Lines of metrics that carried them.
    lines: int = 0


class AttemptStarted(Event, subject="ltp.attempt.v1.started", speaker="runner"):
    """The training process lives on its host."""

    attempt_id: UUID
    run_id: UUID
    job_id: UUID
    number: int
    placement: Placement
    started_at: datetime


class AttemptStopRequested(Event, subject="ltp.attempt.v1.stop-requested", speaker="scheduler"):
    """The attempt is to finish its step, save a checkpoint and leave: its job is paused, or must make room."""

    job_id: UUID
    run_id: UUID
    number: int
    reason: Literal["paused", "preempted"]


class AttemptSucceeded(Event, subject="ltp.attempt.v1.succeeded", speaker="runner"):
    """The training process ended by itself, all steps done."""

    attempt_id: UUID
    run_id: UUID
    job_id: UUID
    steps: int
    ended_at: datetime
    # How many lines of metrics were said of it in all, so that a listener knows when it has heard the last.
    metrics_lines: int = 0
    measured: Measured | None = None
    # The plan that ran, which after an out-of-memory error is no longer the first one made.
    plan: Plan | None = None


class AttemptFailed(Event, subject="ltp.attempt.v1.failed", speaker="runner"):
    """The training process ended with an error, or could not start."""

    attempt_id: UUID
    run_id: UUID
    job_id: UUID
    problem: Problem
    exit_code: int | None
    ended_at: datetime
    # Where it ran.
    host_id: str | None = None
    # How many lines of metrics were said of it in all, so that a listener knows when it has heard the last.
    metrics_lines: int = 0
    measured: Measured | None = None
    # The plan that ran, which after an out-of-memory error is no longer the first one made.
    plan: Plan | None = None


class AttemptStopped(Event, subject="ltp.attempt.v1.stopped", speaker="runner"):
    """The training process ended because it was asked to, or left by itself for the reason that `problem` names."""

    attempt_id: UUID
    run_id: UUID
    job_id: UUID
    ended_at: datetime
    # How many lines of metrics were said of it in all, so that a listener knows when it has heard the last.
    metrics_lines: int = 0
    measured: Measured | None = None
    # The plan that ran, which after an out-of-memory error is no longer the first one made.
    plan: Plan | None = None
    # Why it saved and left without being asked, as for a disk that was nearly full: its job waits, paused.
    problem: Problem | None = None


class AttemptLost(Event, subject="ltp.attempt.v1.lost", speaker="runner"):
    """The training process is gone without a word: its host restarted or it was killed together with its launcher."""

    attempt_id: UUID
    run_id: UUID
    job_id: UUID
    problem: Problem
    ended_at: datetime
    # Where it ran.
    host_id: str | None = None
    # How many lines of metrics were said of it in all, so that a listener knows when it has heard the last.
    metrics_lines: int = 0
