"""Weights at a step, as they are written and as they become usable."""

from __future__ import annotations

from uuid import UUID

from ltp.contracts.event import Event
from ltp.contracts.values import Problem, Sha256


class CheckpointWritten(Event, subject="ltp.checkpoint.v1.written", speaker="runner"):
    """All shards of a step are on the disk and the trainer's tracker file names the step."""

    checkpoint_id: UUID
    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    step: int
    is_final: bool
    path: str
    size_bytes: int


class CheckpointExported(Event, subject="ltp.checkpoint.v1.exported", speaker="surgery"):
    """The checkpoint exists in Hugging Face format, checked against its shards."""

    checkpoint_id: UUID
    job_id: UUID
    step: int
    is_final: bool
    path: str
    size_bytes: int
    weights_sha256: Sha256


class CheckpointExportFailed(Event, subject="ltp.checkpoint.v1.export-failed", speaker="surgery"):
    """The checkpoint could not be exported; its shards are untouched."""

    checkpoint_id: UUID
    job_id: UUID
    step: int
    problem: Problem
