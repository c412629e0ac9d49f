"""What a model under reinforcement learning answered while it learnt, and what that was worth: the question, and its answer."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Value

RolloutKind = Literal["training", "validation"]


class RolloutsRequest(Value):
    """Samples of the newest attempt of a job, or of a certain one; of its newest step, or of a certain one."""

    job_id: UUID
    attempt: int | None = None
    kind: RolloutKind = "training"
    step: int | None = None


class RolloutSample(Value):
    """One response. Those of one prompt share `group`. A text that was cut ends with an ellipsis."""

    step: int
    group: str
    prompt: str
    response: str
    reference: str | None
    score: float | None


class RunRollouts(Value):
    """Samples of one step, and the steps of which there are any, newest first; none where the run is no reinforcement learning."""

    attempt: int
    kind: RolloutKind
    steps: list[int]
    step: int | None
    samples: list[RolloutSample] = Field(max_length=1000)
