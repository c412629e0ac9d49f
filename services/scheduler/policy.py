"""What an attempt's end means for its job: who is tried again, when, where, and who is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.core.lifecycle import JobState

_BASE_SECONDS = 5.0
_CEILING_SECONDS = 600.0


@dataclass(frozen=True)
class RetryRule:
    """How a kind of failure is tried again: how often, how soon, and what must differ.

    Sources: what each cause needs is argued in docs/jobs.md.
    """

    # Attempts that may end this way before the job does; the job's own limit stands beside it.
    limit: int
    base_seconds: float = _BASE_SECONDS
    change: Literal["nothing", "host", "plan"] = "nothing"


NEVER = RetryRule(0)
# A failure that is not here is the user's to mend: the same input would fail again.
RULES: dict[str, RetryRule] = {
    # The observer or the host is gone; another host may do. The training itself did nothing wrong.
    ErrorCode.ATTEMPT_LOST: RetryRule(5, base_seconds=0.0),
    ErrorCode.HOST_LOST: RetryRule(5, base_seconds=0.0, change="host"),
    ErrorCode.TRAINING_KILLED: RetryRule(3),
    ErrorCode.PREEMPTED: RetryRule(20, base_seconds=0.0),
    # The same plan would fail again; a smaller one keeps the effective batch.
    ErrorCode.TRAINING_OUT_OF_MEMORY: RetryRule(4, base_seconds=0.0, change="plan"),
    # Who else was on the host may be gone by then.
    ErrorCode.HOST_OUT_OF_MEMORY: RetryRule(2, base_seconds=30.0),
    # Links and peers recover, or do not.
    ErrorCode.COLLECTIVE_FAILED: RetryRule(3, base_seconds=15.0),
    ErrorCode.DEVICE_FAILED: RetryRule(3, base_seconds=15.0, change="host"),
    ErrorCode.TRAINING_STALLED: RetryRule(2, base_seconds=15.0),
    # Somebody must make room first; give them time.
    ErrorCode.DISK_FULL: RetryRule(3, base_seconds=60.0),
    ErrorCode.SERVICE_UNAVAILABLE: RetryRule(5),
    ErrorCode.INTERNAL: RetryRule(1),
}


@dataclass(frozen=True)
class Wishes:
    """What users, or the scheduler for them, asked of a job while it ran."""

    cancel: bool = False
    pause: bool = False


@dataclass(frozen=True)
class Next:
    """Where a job goes when an attempt ended. `delay` and `change` matter when it is queued again."""

    state: JobState
    delay: timedelta = timedelta()
    change: Literal["nothing", "host", "plan"] = "nothing"


def after_stop(wishes: Wishes) -> Next:
    """Where a job goes when its attempt ended on request. Without a wish it was preempted, or its host went down."""
    if wishes.cancel:
        return Next(JobState.CANCELLED)
    return Next(JobState.PAUSED if wishes.pause else JobState.QUEUED)


def after_failure(
    problem: Problem, failures_of_kind: int, failures: int, max_attempts: int, wishes: Wishes, jitter: float
) -> Next:
    """Where a job goes after its `failures`-th failed attempt (from 1), the `failures_of_kind`-th of this kind.

    `jitter` in 0..1 spreads the waiting of jobs that failed together: half to all of a doubling time.
    """
    if wishes.cancel:
        return Next(JobState.CANCELLED)
    rule = RULES.get(problem.code, NEVER)
    if failures_of_kind > rule.limit or failures >= max_attempts:
        return Next(JobState.FAILED)
    if wishes.pause:
        return Next(JobState.PAUSED, change=rule.change)
    seconds = min(_CEILING_SECONDS, rule.base_seconds * 2 ** (failures_of_kind - 1))
    return Next(JobState.QUEUED, timedelta(seconds=seconds * (0.5 + 0.5 * jitter)), rule.change)
