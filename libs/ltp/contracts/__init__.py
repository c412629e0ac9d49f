"""Every event and value that crosses a service border, one noun a file. Imports pydantic and the core, nothing else.

The nouns are loaded when the first of them, or the registry, is asked for here: a command that needs one noun, such as
`ltp plan`, imports that file alone and does not wait for the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ltp.contracts.event import SERVICES, Event, Value

if TYPE_CHECKING:
    from ltp.contracts import (
        admission,
        attempt,
        calibration,
        checkpoint,
        dataset,
        dedup,
        evaluation,
        host,
        host_access,
        job,
        lease,
        operation,
        pipeline,
        plan,
        schedule,
        search,
        telemetry,
        work,
    )
    from ltp.contracts.event import REGISTRY

_NOUNS = (
    "admission",
    "attempt",
    "calibration",
    "checkpoint",
    "dataset",
    "dedup",
    "evaluation",
    "host",
    "host_access",
    "job",
    "lease",
    "operation",
    "pipeline",
    "plan",
    "schedule",
    "search",
    "telemetry",
    "work",
)

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
    "dedup",
    "evaluation",
    "host",
    "host_access",
    "job",
    "lease",
    "operation",
    "pipeline",
    "plan",
    "schedule",
    "search",
    "telemetry",
    "work",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for noun in _NOUNS:
        import_module(f"{__name__}.{noun}")
    return import_module(f"{__name__}.event").REGISTRY if name == "REGISTRY" else globals()[name]
