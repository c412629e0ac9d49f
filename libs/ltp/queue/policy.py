"""Which work comes first and when it is tried again: pure arithmetic of instants passed in."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

WorkState = Literal["queued", "running", "done", "failed", "cancelled"]

MAX_FAILURES = 5
_RETRY_BASE_SECONDS = 2.0
_RETRY_CEILING_SECONDS = 300.0


class Queue(StrEnum):
    """The five queues."""

    TRAINING = "training"
    EVALUATION = "evaluation"
    DEFAULT = "default"
    PREPROCESSING = "preprocessing"
    MAINTENANCE = "maintenance"


# Seconds by which a queue's work may be overtaken by training work enqueued later. Work is taken in the order of
# enqueue time + head start, so nothing starves: a maintenance job older than 300 s goes before every fresh training job.
HEAD_START_SECONDS = {
    Queue.TRAINING: 0.0,
    Queue.EVALUATION: 15.0,
    Queue.DEFAULT: 30.0,
    Queue.PREPROCESSING: 120.0,
    Queue.MAINTENANCE: 300.0,
}


def sort_at(queue: Queue, run_at: datetime) -> datetime:
    """The instant that orders work over all queues."""
    return run_at + timedelta(seconds=HEAD_START_SECONDS[queue])


def retry_after(failures: int, jitter: float) -> timedelta | None:
    """How long to wait after the `failures`-th failure (from 1); None when it was the last. `jitter` lies in 0..1."""
    if failures >= MAX_FAILURES:
        return None
    seconds = min(_RETRY_CEILING_SECONDS, _RETRY_BASE_SECONDS * 2 ** (failures - 1))
    return timedelta(seconds=seconds * (0.5 + 0.5 * jitter))
