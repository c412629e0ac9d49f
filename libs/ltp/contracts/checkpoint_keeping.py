"""Which checkpoints stay on the disk: what users ask for, what the runner did, and the account of each."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value


class CheckpointPinRequested(Event, subject="ltp.checkpoint.v1.pin-requested", speaker="gateway"):
    """A user asked that a checkpoint stay whatever the recipe says, or no longer."""

    checkpoint_id: UUID
    job_id: UUID
    pinned: bool


class CheckpointRemovalRequested(Event, subject="ltp.checkpoint.v1.removal-requested", speaker="gateway"):
    """A user asked that a checkpoint be deleted. It goes once nothing uses it."""

    checkpoint_id: UUID
    job_id: UUID


class CheckpointPinned(Event, subject="ltp.checkpoint.v1.pinned", speaker="runner"):
    """The checkpoint stays until it is unpinned."""

    checkpoint_id: UUID
    job_id: UUID
    step: int


class CheckpointUnpinned(Event, subject="ltp.checkpoint.v1.unpinned", speaker="runner"):
    """The recipe's rule holds for the checkpoint again."""

    checkpoint_id: UUID
    job_id: UUID
    step: int


class CheckpointRemoved(Event, subject="ltp.checkpoint.v1.removed", speaker="runner"):
    """The training state of a step is gone from the disk. Its exported model, where there is one, stays."""

    checkpoint_id: UUID
    job_id: UUID
    step: int
    path: str
    size_bytes: int
    reason: Literal["rule", "user"]


class CheckpointsRequest(Value):
    """Checkpoints of a job, or one by its id, or all."""

    job_id: UUID | None = None
    checkpoint_id: UUID | None = None


class KeptCheckpoint(Value):
    """A checkpoint, and why it is still there."""

    checkpoint_id: UUID
    job_id: UUID
    attempt: int
    step: int
    path: str
    size_bytes: int
    written_at: datetime
    pinned: bool
    # The metric that its job keeps the best by, at this step.
    value: float | None = None
    removal_wanted: bool = False
    removed_at: datetime | None = None
    removed_for: str | None = None
    # Why it stays; empty for one that is gone or goes next.
    kept_because: list[str] = Field(default_factory=list[str])


class CheckpointList(Value):
    """The answer, oldest first."""

    checkpoints: list[KeptCheckpoint]
