"""Commands that the platform gives itself, on behalf of a schedule or a pipeline: put to the same door as a user's.

They travel as work of kind `admit` (`ltp.queue`), never as events; what comes of one is the event of the noun it makes,
or the refusal below.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value
from ltp.contracts.values import Problem

ADMIT = "admit"
What = Literal["job", "job-cancellation", "dataset", "operation", "operation-cancellation", "pipeline", "pruning"]


class Admission(Value):
    """The payload of such work: what a user would have sent, with the id that the noun will have."""

    what: What
    noun_id: UUID
    body: dict[str, Any]
    # Path -> digest of its content, which must still be so: the sender decided by it.
    inputs: dict[str, str] = Field(default_factory=dict[str, str])
    # On whose behalf, where the noun is not known to be anybody's yet.
    project: str | None = None


class Pruning(Value):
    """The body of a `pruning`: forget the metrics of jobs that ended longer ago than this."""

    days: float = Field(default=90, ge=1, le=3650)


class AdmissionRefused(Event, subject="ltp.admission.v1.refused", speaker="gateway"):
    """The door refused such a command: the noun with this id will never be."""

    noun_id: UUID
    what: str
    problem: Problem


class TelemetryPruned(Event, subject="ltp.telemetry.v1.pruned", speaker="gateway"):
    """Metrics of jobs that ended long ago were deleted, for the tick of a schedule that asked for it."""

    tick_id: UUID
    rows: int
    jobs: int
