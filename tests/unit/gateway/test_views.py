"""The gateway's read model: whatever order events arrive in, a job's state only moves on."""

from __future__ import annotations

import itertools
from uuid import UUID

from ltp.contracts.event import Event
from ltp.contracts.job import JobCancelled, JobPlanned, JobQueued, JobStarted, JobSucceeded
from ltp.core.lifecycle import JobState
from services.gateway.views import job_state

J = UUID(int=1)
STARTED = JobStarted(job_id=J, run_id=J, attempt_id=J, attempt=1)


def fold(events: tuple[Event, ...]) -> JobState:
    state, rank = JobState.SUBMITTED, 0
    for event in events:
        told = job_state(event)
        if told is not None and told[1] > rank:
            state, rank = told
    return state


def test_any_order_gives_the_same_state() -> None:
    life = (JobPlanned(job_id=J, plan_id=J), JobQueued(job_id=J, attempt=1), STARTED)
    assert {fold(order) for order in itertools.permutations(life)} == {JobState.RUNNING}


def test_a_second_attempt_is_queued_and_runs_after_the_first() -> None:
    again = JobQueued(job_id=J, attempt=2)
    assert fold((JobQueued(job_id=J, attempt=1), STARTED, again)) is JobState.QUEUED
    assert fold((STARTED, again, STARTED.model_copy(update={"attempt": 2}))) is JobState.RUNNING


def test_an_end_is_final() -> None:
    assert fold((JobSucceeded(job_id=J, steps=1), STARTED, JobQueued(job_id=J, attempt=3))) is JobState.SUCCEEDED
    assert fold((STARTED, JobCancelled(job_id=J))) is JobState.CANCELLED
