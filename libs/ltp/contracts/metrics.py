"""Metrics that workers anywhere push: values of keys at steps of a run."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]
Worker = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f]*$")]
MOST_POINTS = 50_000


class Reading(BaseModel):
    """The values of one step."""

    model_config = ConfigDict(extra="forbid")

    step: int = Field(ge=0, lt=2**63)
    values: dict[Key, float] = Field(min_length=1, max_length=1000)
    at: datetime | None = Field(default=None, description="When it was measured; left out, when it arrived.")


class Push(BaseModel):
    """A batch. Sent twice it counts once: a point is known by its run, worker, step and key, and the first value holds."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"run": "exp-7", "readings": [{"step": 1, "values": {"loss": 2.31}}]}]},
    )

    run: RunName = Field(description="A job's id, or any name of your own.")
    worker: Worker = Field(default="", description="Which of several processes of the run measured it, as `rank-3`.")
    readings: list[Reading] = Field(min_length=1, max_length=10_000)


class Pushed(BaseModel):
    """How many points were new, and how many were known."""

    accepted: int
    known: int


class Point(BaseModel):
    """One value. `seq` orders them and is what `after` and Last-Event-ID take."""

    seq: int
    worker: str
    step: int
    key: str
    value: float
    at: datetime


class PushedRun(BaseModel):
    """A run that something was pushed of."""

    run: str
    points: int
    last_step: int
    last_at: datetime
    report: dict[str, object] | None = None
