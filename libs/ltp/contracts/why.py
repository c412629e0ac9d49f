"""Why a job stands where it stands: the question to the scheduler, and its answer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from ltp.contracts.event import Value
from ltp.contracts.values import Problem
from ltp.core.lifecycle import JobState

Cause = Literal[
    "over", "planning", "replanning", "paused", "pausing", "cancelling", "running", "starting", "backing_off", "limit",
    "turn", "no_host", "cordoned", "silent", "labels", "avoided", "too_few_devices", "too_small", "busy", "reserved", "remote",
    "no_room",
]  # fmt: skip


class WhyRequest(Value):
    """Which job."""

    job_id: UUID


class Reason(Value):
    """One thing the job waits for, in words, with what would end the waiting."""

    cause: Cause
    message: str
    # What would free it; empty when nothing need be done.
    remedy: str = ""
    host_id: str | None = None


class Why(Value):
    """The scheduler's account of a job."""

    job_id: UUID
    state: JobState
    attempt: int
    reasons: list[Reason]
    # Its turn in the queue of work that waits for devices, from 1; null when it does not wait.
    turn: int | None = None
    not_before: datetime | None = None
    checkpoint_step: int | None = None
    # How the last attempt failed, if one did.
    problem: Problem | None = None
