"""What the runner says of an attempt: its events and its telemetry, made from what was seen. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ltp.contracts.attempt import AttemptFailed, AttemptLost, AttemptStarted, AttemptStopped, AttemptSucceeded, Measured
from ltp.contracts.event import Event
from ltp.contracts.telemetry import StepMetrics, step_subject
from ltp.contracts.values import Placement, Plan
from ltp.store.envelope import Message
from services.runner.policy import Verdict
from services.runner.traces import MetricsLine


@dataclass(frozen=True)
class AttemptFacts:
    """Who an attempt is; `steps` is how many it should train."""

    attempt_id: UUID
    run_id: UUID
    job_id: UUID
    number: int
    placement: Placement
    steps: int
    plan: Plan | None = None

    def started(self, started_at: datetime) -> AttemptStarted:
        """The training process lives."""
        return AttemptStarted(**self._known(), number=self.number, placement=self.placement, started_at=started_at)

    def ended(
        self, verdict: Verdict, ended_at: datetime, metrics_lines: int, measured: Measured | None = None
    ) -> Event:
        """The event that a verdict amounts to."""
        known = {**self._known(), "ended_at": ended_at, "metrics_lines": metrics_lines}
        if verdict.outcome == "lost" and verdict.problem is not None:
            return AttemptLost(**known, problem=verdict.problem, host_id=self.placement.host_id)
        known |= {"measured": measured, "plan": self.plan}
        if verdict.outcome == "succeeded":
            return AttemptSucceeded(**known, steps=self.steps)
        if verdict.outcome == "stopped" or verdict.problem is None:
            return AttemptStopped(**known, problem=verdict.problem)
        host_id = self.placement.host_id
        return AttemptFailed(**known, problem=verdict.problem, exit_code=verdict.exit_code, host_id=host_id)

    def step(self, number: int, line: MetricsLine, seen_at: datetime) -> Message:
        """The `number`-th line of metrics, as telemetry: read twice, it is one message."""
        body = StepMetrics(
            **self._known(), attempt=self.number, line=number, step=line.step, seen_at=seen_at, metrics=line.values
        )
        message_id = f"step-{self.attempt_id}-{number}"
        headers = {"Nats-Msg-Id": message_id, "content-type": "application/json"}
        return Message(message_id, step_subject(self.run_id), headers, body.model_dump_json().encode(), keep=False)

    def _known(self) -> dict[str, Any]:
        return {"attempt_id": self.attempt_id, "run_id": self.run_id, "job_id": self.job_id}
