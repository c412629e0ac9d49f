"""Every event and value that crosses a service border, one noun a file. Imports pydantic and the core, nothing else."""

from ltp.contracts import (
    admission,
    attempt,
    calibration,
    checkpoint,
    dataset,
    evaluation,
    host,
    job,
    lease,
    pipeline,
    plan,
    schedule,
    telemetry,
    work,
)
from ltp.contracts.event import REGISTRY, SERVICES, Event, Value

__all__ = [
    "REGISTRY",
    "SERVICES",
    "Event",
    "Value",
    "admission",
    "attempt",
    "calibration",
    "checkpoint",
    "dataset",
    "evaluation",
    "host",
    "job",
    "lease",
    "pipeline",
    "plan",
    "schedule",
    "telemetry",
    "work",
]
