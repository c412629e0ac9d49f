"""Questions that services answer over request/reply (`ltp.bus.rpc`), and their answers."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from ltp.contracts.event import Value


class LogRequest(Value):
    """A part of a job's training log. A negative offset counts from the end."""

    job_id: UUID
    attempt: int | None = None
    offset: int = -65_536
    limit: int = 65_536


class LogPart(Value):
    """Text of the log from `offset`; `next_offset` is where to read on. `is_over` when the attempt ended and all is read."""

    attempt: int
    offset: int
    next_offset: int
    text: str
    is_over: bool


class SamplesRequest(Value):
    """Rows of a comparison, side by side."""

    job_id: UUID
    change: Literal["improved", "regressed", "unchanged"] | None = None
    limit: int = 50
    offset: int = 0


class SamplePair(Value):
    """One held-out row with both answers."""

    row_id: str
    prompt: str
    reference: str
    base_response: str
    trained_response: str
    base_correct: bool
    trained_correct: bool
    change: Literal["improved", "regressed", "unchanged"]


class SamplePairs(Value):
    """A page of a comparison."""

    total: int
    samples: list[SamplePair]
