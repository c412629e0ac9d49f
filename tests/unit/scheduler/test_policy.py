"""What an attempt's end means for its job."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.core.lifecycle import JobState
from services.scheduler.policy import RULES, Next, Wishes, after_failure, after_stop


def after(code: str, kind: int = 1, total: int | None = None, wishes: Wishes = Wishes(), most: int = 10) -> Next:
    problem = Problem(code=code, message="")
    return after_failure(problem, kind, total or kind, most, wishes, jitter=1.0)


def test_a_stop_means_what_was_asked_for() -> None:
    assert after_stop(Wishes(cancel=True, pause=True)).state is JobState.CANCELLED
    assert after_stop(Wishes(pause=True)).state is JobState.PAUSED
    # Preempted, or its host was shut down: it waits for devices again.
    assert after_stop(Wishes()) == Next(JobState.QUEUED)


@pytest.mark.parametrize("code", sorted(set(ErrorCode) - set(RULES)))
def test_what_the_user_must_mend_is_not_tried_again(code: str) -> None:
    assert after(code).state is JobState.FAILED


@pytest.mark.parametrize("code", sorted(RULES))
def test_each_cause_is_tried_again_up_to_its_limit(code: str) -> None:
    limit = RULES[code].limit
    assert after(code, limit, most=100).state is JobState.QUEUED
    assert after(code, limit + 1, most=100).state is JobState.FAILED


def test_a_jobs_own_limit_counts_failures_of_all_kinds() -> None:
    assert after(ErrorCode.ATTEMPT_LOST, 1, total=2, most=3).state is JobState.QUEUED
    assert after(ErrorCode.ATTEMPT_LOST, 1, total=3, most=3).state is JobState.FAILED


def test_waiting_doubles_with_each_failure_of_the_kind() -> None:
    waits = [after(ErrorCode.COLLECTIVE_FAILED, n).delay for n in (1, 2, 3)]
    assert waits == [timedelta(seconds=s) for s in (15, 30, 60)]
    problem = Problem(code=ErrorCode.COLLECTIVE_FAILED, message="")
    assert after_failure(problem, 1, 1, 3, Wishes(), jitter=0.0).delay == timedelta(seconds=7.5)


def test_what_must_differ_is_said() -> None:
    assert after(ErrorCode.TRAINING_OUT_OF_MEMORY).change == "plan"
    assert after(ErrorCode.HOST_LOST).change == "host"
    assert after(ErrorCode.ATTEMPT_LOST).change == "nothing"


def test_wishes_come_before_retries() -> None:
    assert after(ErrorCode.ATTEMPT_LOST, wishes=Wishes(cancel=True)).state is JobState.CANCELLED
    assert after(ErrorCode.ATTEMPT_LOST, wishes=Wishes(pause=True)).state is JobState.PAUSED
    assert after(ErrorCode.TRAINING_FAILED, wishes=Wishes(pause=True)).state is JobState.FAILED
