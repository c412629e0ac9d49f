"""Work as its monitor sees it: what users ask of it (events), and the questions and answers about queues, workers and dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.values import Placement, Problem

State = Literal["queued", "running", "done", "failed", "cancelled"]
# Work that is part of something with a life of its own: only that can be cancelled or tried again.
BELONGS_TO = {"train": "job"}


class LimitSet(Event, subject="ltp.limit.v1.set", speaker="gateway"):
    """A user set what a queue or a project may have running; None lifts that limit. The newest `set_at` holds."""

    scope: Literal["queue", "project"]
    name: str
    max_running: int | None = None
    max_devices: int | None = None
    paused: bool = False
    set_at: datetime


class WorkCancellationRequested(Event, subject="ltp.work.v1.cancellation-requested", speaker="gateway"):
    """A user asked that a piece of work end."""

    work_id: UUID


class WorkRetryRequested(Event, subject="ltp.work.v1.retry-requested", speaker="gateway"):
    """A user asked that dead work be tried again."""

    work_id: UUID


class WorkDied(Event, subject="ltp.work.v1.died", speaker="scheduler"):
    """A piece of work is over without its result and is kept with its evidence; it can be tried again."""

    work_id: UUID
    queue: str
    kind: str
    dedup_key: str
    problem: Problem
    failures: int
    deaths: int


class DeadLetterReplayRequested(Event, subject="ltp.letter.v1.replay-requested", speaker="gateway"):
    """A user asked that a message set aside be delivered again."""

    seq: int


class DeadLetterDropRequested(Event, subject="ltp.letter.v1.drop-requested", speaker="gateway"):
    """A user asked that a message set aside be thrown away."""

    seq: int


# What the gateway says here.
REQUESTS = (
    LimitSet,
    WorkCancellationRequested,
    WorkRetryRequested,
    DeadLetterReplayRequested,
    DeadLetterDropRequested,
)


class Nothing(Value):
    """A question without parameters."""


class QueueView(Value):
    """One queue at this moment. `delayed` waits for its time or its next try; `retrying` is what failed and will be tried again."""

    name: str
    waiting: int = 0
    delayed: int = 0
    running: int = 0
    dead: int = 0
    retrying: int = 0
    oldest_wait_seconds: float | None = None
    done_last_minute: int = 0
    limit: int | None = None
    paused: bool = False
    changed_at: datetime | None = None


class ProjectView(Value):
    """One project's quota and what it uses of it."""

    name: str
    running: int = 0
    devices: int = 0
    max_running: int | None = None
    max_devices: int | None = None
    paused: bool = False
    changed_at: datetime | None = None


class QueuesView(Value):
    """All queues, and the projects that run something or have a quota."""

    queues: list[QueueView]
    projects: list[ProjectView]


class WorkQuery(PageQuery):
    """Which work to list."""

    state: State | None = None
    queue: str | None = None
    kind: str | None = None
    project: str | None = None
    owner: str | None = None


class WorkQuestion(Value):
    """Which piece of work."""

    work_id: UUID


class WorkView(Value):
    """A piece of work. `deaths` counts the workers that fell silent with it in hand."""

    work_id: UUID
    queue: str
    kind: str
    dedup_key: str
    state: State
    priority: int
    project: str
    owner: str
    wants: dict[str, Any] | None
    placement: Placement | None
    claims: int
    failures: int
    deaths: int
    worker: str | None
    cancel_requested: bool
    problem: Problem | None
    enqueued_at: datetime
    run_at: datetime
    started_at: datetime | None
    claimed_at: datetime | None
    ended_at: datetime | None
    payload: dict[str, Any]


class WorkPage(Value):
    """A page of work. Pass `next_cursor` as `cursor` to read on; None on the last page."""

    work: list[WorkView]
    next_cursor: str | None = None


class HeldView(Value):
    """A piece of work in a worker's hands."""

    work_id: UUID
    dedup_key: str
    since: datetime | None


class WorkerView(Value):
    """A worker and what it does. Not `alive` when it was silent for longer than its leases last."""

    name: str
    kind: str
    host: str
    pid: int
    concurrency: int
    started_at: datetime
    seen_at: datetime
    alive: bool
    holds: list[HeldView]


class WorkersView(Value):
    """All workers."""

    workers: list[WorkerView]


class LettersQuery(Value):
    """Which dead letters: from a number in the stream on, oldest first."""

    after: int = Field(default=0, ge=0)
    limit: int = Field(default=50, ge=1, le=500)


class LetterView(Value):
    """A message whose listener failed for good, with the evidence. `consumer` is who could not take it in."""

    seq: int
    subject: str
    consumer: str
    event_id: str | None
    error: str
    deliveries: int
    dead_at: datetime
    data: Any


class LettersView(Value):
    """Dead letters, oldest first; `total` is how many there are in all."""

    total: int
    letters: list[LetterView]
