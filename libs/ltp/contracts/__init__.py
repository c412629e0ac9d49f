"""Every event and value that crosses a service border, one noun a file. Imports pydantic and the core, nothing else."""

from ltp.contracts import attempt, checkpoint, dataset, evaluation, host, job, lease, plan, telemetry, work
from ltp.contracts.event import REGISTRY, SERVICES, Event, Value

__all__ = [
    "REGISTRY",
    "SERVICES",
    "Event",
    "Value",
    "attempt",
    "checkpoint",
    "dataset",
    "evaluation",
    "host",
    "job",
    "lease",
    "plan",
    "telemetry",
    "work",
]
