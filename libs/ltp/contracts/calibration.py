"""How the planner's predictions compare with what runs really needed."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from ltp.contracts.event import Event

Quantity = Literal["memory", "step"]


class CalibrationUpdated(Event, subject="ltp.calibration.v1.updated", speaker="planner"):
    """A run's measured peak (or step time) joined the evidence of its kind of device, and moved the interval."""

    attempt_id: UUID
    job_id: UUID
    quantity: Quantity
    # Model of device and algorithm: predictions of one such group share an interval.
    group: str
    predicted: float
    measured: float
    # measured / predicted - 1
    error: float
    # Factors on a prediction of this group from now on, over so many pairs.
    lower: float
    upper: float
    pairs: int
    median_error: float


class CalibrationDrifted(Event, subject="ltp.calibration.v1.drifted", speaker="planner"):
    """Predictions of a group have left the measurements for good; the alarm is raised once, until they are back."""

    quantity: Quantity
    group: str
    direction: Literal["too-low", "too-high"]
    # The test's statistic and its limit (CUSUM of log ratios), and the newest pairs' median error.
    statistic: float
    limit: float
    median_error: float
