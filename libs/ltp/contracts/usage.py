"""What a run's processes were seen to use of their host, as the launcher samples it: the question, and its answer."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Value


class UsageRequest(Value):
    """The newest attempt of a job, or a certain one. At most `most` samples, spread over its life."""

    job_id: UUID
    attempt: int | None = None
    most: int = Field(default=1000, ge=2, le=5000)


class GpuUsage(Value):
    """One GPU of the host; what its driver does not report is null."""

    index: int
    # 0 to 1.
    utilization: float | None
    memory_bytes: float | None


class UsageSample(Value):
    """One moment. Of several that were joined, the highest figures and the lowest `host_available_bytes`."""

    at: datetime
    # Of the whole process tree; shared pages count once.
    memory_bytes: int
    processes: int
    host_available_bytes: int
    host_total_bytes: int
    gpus: list[GpuUsage]


class RunUsage(Value):
    """The samples of an attempt, in order, and the devices that it leased, whose indexes are those of `gpus`."""

    attempt: int
    device_kind: str
    device_indexes: list[int]
    samples: list[UsageSample]
