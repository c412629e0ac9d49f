"""Short-lived news of a run, on a stream of its own: not facts, so not events."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import ConfigDict

from ltp.contracts.event import Value


class StepMetrics(Value):
    """The metrics of one logged line, on `ltp-telemetry.run.v1.step.<run_id>`. `line` counts from 0 in its attempt.

    JSON has no number for NaN: one travels as the string "NaN".
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    attempt: int
    line: int
    step: int
    seen_at: datetime
    metrics: dict[str, float]


def step_subject(run_id: UUID) -> str:
    """The subject on which a run's metrics are said."""
    return f"ltp-telemetry.run.v1.step.{run_id}"
