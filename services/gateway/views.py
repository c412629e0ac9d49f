"""What the gateway knows of each noun, folded from events. Pure: the same events in any order give the same view."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ltp.contracts.checkpoint import CheckpointWritten
from ltp.contracts.dataset import DatasetDeleted, DatasetFrozen, DatasetRejected, DatasetUploaded
from ltp.contracts.event import Event
from ltp.contracts.job import (
    JobCancelled,
    JobFailed,
    JobPaused,
    JobPlanned,
    JobQueued,
    JobStarted,
    JobSubmitted,
    JobSucceeded,
)
from ltp.contracts.plan import PlanMade
from ltp.core.lifecycle import JOB, JobState

# A job only moves on: the attempt's number, and within it these ranks, order its states whatever order events arrive in.
# Attempt 0 is the time before the first; a job may be paused in it.
_RANK = {
    JobState.SUBMITTED: 0,
    JobState.PLANNED: 1,
    JobState.QUEUED: 2,
    JobState.RUNNING: 3,
    JobState.PAUSED: 4,
}
_RANKS_PER_ATTEMPT = 5
_FINAL_RANK = 1_000_000
_STATE_OF: dict[type[Event], JobState] = {
    JobSubmitted: JobState.SUBMITTED,
    JobPlanned: JobState.PLANNED,
    JobQueued: JobState.QUEUED,
    JobStarted: JobState.RUNNING,
    JobPaused: JobState.PAUSED,
    JobSucceeded: JobState.SUCCEEDED,
    JobFailed: JobState.FAILED,
    JobCancelled: JobState.CANCELLED,
}


def job_changes(event: Event, at: datetime) -> dict[str, Any]:
    """Columns of the job's row that this event sets, beside its state."""
    changes: dict[str, Any] = {}
    if isinstance(event, PlanMade):
        changes["plan"] = event.plan.model_dump(mode="json")
    if isinstance(event, JobStarted):
        changes |= {"run_id": event.run_id, "started_at": at}
    if isinstance(event, JobQueued | JobStarted):
        changes["attempt"] = event.attempt
    if isinstance(event, CheckpointWritten):
        changes["checkpoint_step"] = event.step
    if isinstance(event, JobQueued | JobPaused):
        changes["requested"] = None
    if isinstance(event, JobPaused) and event.problem is not None:
        changes["problem"] = event.problem.model_dump()
    if isinstance(event, JobSucceeded):
        changes["problem"] = None
    if isinstance(event, JobFailed):
        changes["problem"] = event.problem.model_dump()
    if isinstance(event, JobSucceeded | JobFailed | JobCancelled):
        changes |= {"ended_at": at, "requested": None}
    return changes


def job_state(event: Event) -> tuple[JobState, int] | None:
    """The state an event tells of, with its rank: a row takes it when its own rank is lower."""
    state = _STATE_OF.get(type(event))
    if state is None:
        return None
    if JOB.is_over(state):
        return state, _FINAL_RANK
    attempt = event.attempt if isinstance(event, JobQueued | JobStarted | JobPaused) else 0
    return state, _RANK[state] + _RANKS_PER_ATTEMPT * attempt


def dataset_changes(event: Event) -> dict[str, Any] | None:
    """Columns of the dataset's row that this event sets; None for events that tell of no dataset."""
    if isinstance(event, DatasetUploaded):
        return {"name": event.name, "filename": event.filename, "size_bytes": event.size_bytes}
    if isinstance(event, DatasetFrozen):
        return {
            "name": event.name,
            "state": "frozen",
            "version": event.version,
            "rows": event.rows,
            "duplicates": event.duplicates,
            "format": event.format,
            "splits": {name: split.model_dump() for name, split in event.splits.items()},
        }
    if isinstance(event, DatasetDeleted):
        return {"name": event.name, "state": "deleted"}
    if isinstance(event, DatasetRejected):
        return {"name": event.name, "state": "rejected", "problem": event.problem.model_dump()}
    return None
