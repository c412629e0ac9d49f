"""What of an attempt goes into its job's trace: the attempt and its checkpoints as spans, and the way for its process to join."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from opentelemetry import trace

from ltp.telemetry.setup import exporter_of
from ltp.telemetry.spans import record, traceparent_of, within
from ltp.verl_recipe import LaunchSpec
from services.runner.facts import AttemptFacts
from services.runner.policy import Verdict
from services.runner.traces import FoundCheckpoint

# Told to a process on this machine. Never OTEL_EXPORTER_OTLP_HEADERS: launch.json lies readable on the host, and they
# hold the receiver's password.
_TOLD = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
_tracer = trace.get_tracer("ltp.runner")
_RESULTS: Mapping[str, str] = {"succeeded": "success", "stopped": "cancellation"}


def traced(spec: LaunchSpec, attempt_id: UUID, *, own_host: bool) -> LaunchSpec:
    """The spec with TRACEPARENT, and, on this machine, where to send spans; unchanged outside of a recorded trace."""
    parent = traceparent_of(attempt_id)
    if parent is None:
        return spec
    told = {name: os.environ[name] for name in _TOLD if own_host and os.environ.get(name)}
    if exporter_of(os.environ) != "otlp":
        told = {}
    return replace(spec, env={**spec.env, **told, "TRACEPARENT": parent})


def checkpoint_found(attempt_id: UUID, found: FoundCheckpoint, is_final: bool) -> None:
    """A checkpoint, at the moment it was seen to be complete."""
    attributes = {"ltp.step": found.step, "ltp.checkpoint.size_bytes": found.size_bytes, "ltp.is_final": is_final}
    _tracer.start_span("checkpoint", within(attempt_id), attributes=attributes).end()


def attempt_over(facts: AttemptFacts, verdict: Verdict, started_at: datetime, ended_at: datetime) -> None:
    """The whole attempt, by whoever watched its end."""
    placement = facts.placement
    attributes: dict[str, str | int] = {
        "cicd.pipeline.task.name": "train",
        "cicd.pipeline.task.run.id": str(facts.attempt_id),
        "cicd.pipeline.task.run.result": _RESULTS.get(verdict.outcome, "failure"),
        "cicd.pipeline.run.id": str(facts.job_id),
        "ltp.attempt.number": facts.number,
        "host.name": placement.host_id,
        "hw.type": placement.device_kind,
        "ltp.devices": sum(len(share.device_indexes) for share in placement.shares()),
    }
    code = None if verdict.problem is None else verdict.problem.code
    record("attempt", started_at, ended_at, attributes, thing=facts.attempt_id, error=code)
