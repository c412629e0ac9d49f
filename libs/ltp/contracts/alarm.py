"""Alarms of a running job: what its metrics, its silence, its disk or its memory say is wrong, with the evidence."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value

Severity = Literal["warning", "critical"]


class Alarm(Value):
    """One alarm of an attempt. `rule` is stable; docs/training-operations.md lists them all."""

    alarm_id: UUID
    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    attempt: int
    rule: str
    severity: Severity
    message: str
    hint: str
    # The figures and lines that prove it.
    evidence: list[str] = Field(default_factory=list[str])
    # The last step that was logged when it was raised.
    step: int | None = None
    raised_at: datetime
    # Null while it holds; an attempt's end clears its alarms.
    cleared_at: datetime | None = None


class AlarmRaised(Event, subject="ltp.alarm.v1.raised", speaker="runner"):
    """A rule of health is broken. Said once, however long it stays so."""

    alarm_id: UUID
    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    attempt: int
    rule: str
    severity: Severity
    message: str
    hint: str
    evidence: list[str] = Field(default_factory=list[str])
    step: int | None = None
    raised_at: datetime


class AlarmCleared(Event, subject="ltp.alarm.v1.cleared", speaker="runner"):
    """What an alarm was raised for is over, or its attempt is."""

    alarm_id: UUID
    job_id: UUID
    run_id: UUID
    attempt_id: UUID
    rule: str
    cleared_at: datetime


class AlarmsRequest(Value):
    """The alarms of a job, newest first; with `active` only those that hold."""

    job_id: UUID
    active: bool = False


class AlarmList(Value):
    """The answer."""

    alarms: list[Alarm]


class ProgressRequest(Value):
    """How far a job is."""

    job_id: UUID


class Rollout(Value):
    """Prompts of the step under way, as verl's replay buffer counted them at `at`."""

    pending: int
    running: int
    finished: int
    failed: int
    at: datetime


class Progress(Value):
    """How far the newest attempt of a job is, and what is left. What is not known yet is null."""

    attempt: int
    state: str
    step: int
    steps: int
    # Median of the last steps.
    step_seconds: float | None = None
    # Over all devices.
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    rollout: Rollout | None = None
    # When the launcher found that no metrics come; null while they do.
    stalled_since: datetime | None = None
    # ok, warn, alarm or pause, and the free bytes of the run's disk.
    disk_level: str | None = None
    disk_free_bytes: int | None = None
