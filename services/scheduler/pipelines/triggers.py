"""Starts a run of each armed pipeline that waits for an event: once an event, and never on what the pipeline itself made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from ltp.contracts.admission import ADMIT, Admission
from ltp.contracts.checkpoint import CheckpointExported, CheckpointWritten
from ltp.contracts.dataset import DEFAULT_PROJECT, DatasetFrozen
from ltp.contracts.pipeline import Origin, PipelineSpec, Trigger
from ltp.contracts.stages import TriggerEvent
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue
from ltp.store.clock import new_id
from ltp.store.database import Unit
from services.scheduler.pipelines import store
from services.scheduler.store import read_job

# Pipelines that feed each other end here rather than never.
_MAX_DEPTH = 5

TriggeringEvent = DatasetFrozen | CheckpointWritten | CheckpointExported


async def start_triggered(unit: Unit, event: TriggeringEvent) -> None:
    """Ask the door for a run of every pipeline that was armed before this event and waits for it."""
    armed = await store.all_armed(unit)
    if not armed:
        return
    noun_id = event.dataset_id if isinstance(event, DatasetFrozen) else event.job_id
    owner = await store.owner_of(unit, noun_id)
    depth = 0 if owner is None else owner["origin"]["depth"] + 1
    project = await _project_of(unit, event)
    for row in armed:
        if row["project"] != project:
            continue
        spec = PipelineSpec.model_validate(row["spec"])
        own = owner is not None and owner["name"] == spec.name
        if own or said_at(unit.cause) < row["armed_at"] or not any(waits_for(t, event) for t in spec.triggers):
            continue
        if depth > _MAX_DEPTH:
            structlog.get_logger().warning("not triggered: too long a chain of pipelines", name=spec.name)
            continue
        origin = Origin(kind="trigger", id=unit.cause, depth=depth)
        body = {"spec": row["spec"], "origin": origin.model_dump(mode="json"), "trigger": values_of(event)}
        admission = Admission(what="pipeline", noun_id=new_id(), body=body, project=project)
        key = f"trigger:{row['pipeline_id']}:{unit.cause}"
        enqueue(unit, Queue.DEFAULT, ADMIT, admission.model_dump(mode="json"), dedup_key=key)


async def _project_of(unit: Unit, event: TriggeringEvent) -> str:
    if isinstance(event, DatasetFrozen):
        return event.project
    job = await read_job(unit, event.job_id)
    return DEFAULT_PROJECT if job is None else job.options.project


def waits_for(trigger: Trigger, event: TriggeringEvent) -> bool:
    """Whether a trigger and its filters fit an event."""
    if trigger.event != _name(event):
        return False
    if isinstance(event, DatasetFrozen):
        return trigger.dataset is None or trigger.dataset == event.name
    return (trigger.job is None or trigger.job == event.job_id) and (event.is_final or not trigger.final_only)


def values_of(event: TriggeringEvent) -> dict[str, Any]:
    """What `{from: trigger.…}` gives (`ltp.contracts.stages.TRIGGER_OUTPUTS`)."""
    if isinstance(event, DatasetFrozen):
        return {"name": event.name, "version": event.version, "rows": event.rows}
    values: dict[str, Any] = {
        "job_id": str(event.job_id),
        "checkpoint_id": str(event.checkpoint_id),
        "step": event.step,
        "path": event.path,
    }
    return values | ({"digest": event.weights_sha256} if isinstance(event, CheckpointExported) else {})


def said_at(event_id: UUID | None) -> datetime:
    """When an event was said: its id is a UUIDv7. One of another system, without such an id, counts as long ago."""
    if event_id is None or event_id.version != 7:
        return datetime.fromtimestamp(0, UTC)
    return datetime.fromtimestamp((event_id.int >> 80) / 1000, UTC)


def _name(event: TriggeringEvent) -> TriggerEvent:
    if isinstance(event, DatasetFrozen):
        return "dataset.frozen"
    return "checkpoint.exported" if isinstance(event, CheckpointExported) else "checkpoint.written"
