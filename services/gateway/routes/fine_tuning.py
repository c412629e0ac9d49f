"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning API on our jobs, with pause and resume."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.checkpoint import CheckpointExported, CheckpointExportFailed, CheckpointWritten
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.acting import ACTING, acting_project
from ltp.store.clock import new_id, now
from services.gateway import store
from services.gateway import store_openai as table
from services.gateway.access import Engine, Serving
from services.gateway.openai_shapes import (
    TuningRequest,
    id_of,
    job_object,
    model_name,
    page,
    recipe_of,
    refuse_unsupported,
    seconds,
)
from services.gateway.routes import job_control
from services.gateway.routes.openai_files import find_file
from services.gateway.routes.openai_models import model_path
from services.gateway.walls import Caller

router = APIRouter(tags=["openai"], prefix="/fine_tuning")

After = Annotated[str | None, Query(max_length=200)]
_MESSAGES = {
    "ltp.job.v1.submitted": "The job was accepted.",
    "ltp.job.v1.planned": "A configuration that fits was found.",
    "ltp.job.v1.queued": "The job waits for devices.",
    "ltp.job.v1.started": "Training has started.",
    "ltp.job.v1.paused": "The job is paused; its checkpoint is saved.",
    "ltp.job.v1.succeeded": "The job has succeeded.",
    "ltp.job.v1.failed": "The job has failed.",
    "ltp.job.v1.cancelled": "The job was cancelled.",
    "ltp.checkpoint.v1.written": "A checkpoint was written.",
    "ltp.checkpoint.v1.exported": "A checkpoint can be used as a model.",
}


@router.post("/jobs")
async def create_tuning(request: TuningRequest, runtime: Serving, caller: Caller) -> dict[str, Any]:
    """Train a model on a file. What cannot be done is refused here; the file is checked in the background."""
    refuse_unsupported(request)
    file = await find_file(runtime.database.engine, caller.project, request.training_file)
    if file["purpose"] != "fine-tune":
        message = f"The file {request.training_file} was uploaded for {file['purpose']!r}, not for 'fine-tune'."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Upload it again with purpose='fine-tune'.")
    job_id = new_id()
    path = await model_path(runtime, caller.project, request.model)
    # As far as can be told without the rows: a method that no recipe knows is refused now.
    recipe_of(request, job_id, f"file-{file['file_id'].hex}", str(path), file["rows"] or 8)
    acting = ACTING.get()
    body = request.model_dump(mode="json", exclude_none=True)
    body |= {"_file_id": str(file["file_id"]), "_actor": acting.actor if acting else "openai"}
    row = {
        "job_id": job_id,
        "project": acting_project(),
        "body": body,
        "recipe": {"path": str(path), "positions": await asyncio.to_thread(_positions, path)},
    }
    async with runtime.database.unit() as unit:
        await table.add_tuning(unit, {**row, "created_at": now()})
        await unit.notify("ltp_gateway_news")
    return await retrieve_tuning(f"ftjob-{job_id.hex}", runtime.database.engine, caller)


@router.get("/jobs")
async def list_tunings(
    engine: Engine, caller: Caller, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """Fine-tuning jobs, newest first."""
    before = None if after is None else id_of(after, "ftjob-")
    rows = await table.find_tunings(engine, caller.project, before=before, limit=limit + 1)
    return page([await _shown(engine, row) for row in rows[:limit]], len(rows) > limit)


@router.get("/jobs/{tuning_id}")
async def retrieve_tuning(tuning_id: str, engine: Engine, caller: Caller) -> dict[str, Any]:
    """One fine-tuning job. It has succeeded once its model can be used."""
    return await _shown(engine, await _find(engine, caller.project, tuning_id))


@router.post("/jobs/{tuning_id}/cancel")
async def cancel_tuning(tuning_id: str, runtime: Serving, caller: Caller) -> dict[str, Any]:
    """Cancel a job, whatever it is doing."""
    row = await _find(runtime.database.engine, caller.project, tuning_id)
    async with runtime.database.unit() as unit:
        early = await table.settle_tuning(unit, row["job_id"], "cancelled")
    if not early:
        await job_control.cancel_job(_submitted(row), runtime)
    found = await retrieve_tuning(tuning_id, runtime.database.engine, caller)
    # OpenAI's clients read the wish in the answer; here it takes until the processes are gone.
    return {**found, "status": "cancelled"}


@router.post("/jobs/{tuning_id}/pause")
async def pause_tuning(tuning_id: str, runtime: Serving, caller: Caller) -> dict[str, Any]:
    """Save a checkpoint, give the devices up, keep the place."""
    row = await _find(runtime.database.engine, caller.project, tuning_id)
    await job_control.pause_job(_submitted(row), runtime)
    return await retrieve_tuning(tuning_id, runtime.database.engine, caller)


@router.post("/jobs/{tuning_id}/resume")
async def resume_tuning(tuning_id: str, runtime: Serving, caller: Caller) -> dict[str, Any]:
    """Go on from the checkpoint."""
    row = await _find(runtime.database.engine, caller.project, tuning_id)
    await job_control.resume_job(_submitted(row), runtime)
    return await retrieve_tuning(tuning_id, runtime.database.engine, caller)


@router.get("/jobs/{tuning_id}/events")
async def tuning_events(
    tuning_id: str,
    engine: Engine,
    caller: Caller,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> dict[str, Any]:
    """What happened to a job, newest first, metrics among it."""
    row = await _find(engine, caller.project, tuning_id)
    facts = await store.list_events(engine, job_id=row["job_id"], limit=1000)
    lines = await store.list_steps(engine, row["job_id"], limit=10_000)
    items = [_fact(fact) for fact in facts if fact["subject"] in _MESSAGES] + [_metrics(line) for line in lines]
    items.sort(key=lambda item: (item["created_at"], item["id"]), reverse=True)
    return _after(items, after, limit)


@router.get("/jobs/{tuning_id}/checkpoints")
async def tuning_checkpoints(
    tuning_id: str, engine: Engine, caller: Caller, after: After = None, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> dict[str, Any]:
    """Checkpoints that can be used as models, newest first."""
    row = await _find(engine, caller.project, tuning_id)
    written = {e["data"]["checkpoint_id"]: e for e in await _events(engine, row["job_id"], CheckpointWritten.subject)}
    lines = {line["step"]: line["metrics"] for line in await store.list_steps(engine, row["job_id"], limit=10_000)}
    items: list[dict[str, Any]] = []
    for event in reversed(await _events(engine, row["job_id"], CheckpointExported.subject)):
        checkpoint = written.get(event["data"]["checkpoint_id"])
        if checkpoint is None:
            continue
        step = checkpoint["data"]["step"]
        loss = lines.get(step, {}).get("train/loss")
        items.append(
            {
                "id": f"ftckpt-{UUID(event['data']['checkpoint_id']).hex}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": seconds(event["at"]),
                "fine_tuned_model_checkpoint": model_name(row["body"], row["job_id"], step),
                "fine_tuning_job_id": tuning_id,
                "metrics": {"step": step, "train_loss": None if isinstance(loss, str) else loss},
                "step_number": step,
            }
        )
    return _after(items, after, limit)


def _positions(path: Path) -> int | None:
    """How many tokens a model sees at once, where its configuration says so."""
    try:
        found = json.loads((path / "config.json").read_text()).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) and found > 0 else None


async def _find(engine: AsyncEngine, project: str | None, tuning_id: str) -> table.Row:
    found = await table.find_tunings(engine, project, job_id=id_of(tuning_id, "ftjob-"))
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no fine-tuning job {tuning_id}.", "GET /v1/fine_tuning/jobs.")
    return found[0]


async def _shown(engine: AsyncEngine, row: table.Row) -> dict[str, Any]:
    over = False
    if row["job_state"] == "succeeded":
        ends = (CheckpointExported.subject, CheckpointExportFailed.subject)
        ended = [event for subject in ends for event in await _events(engine, row["job_id"], subject)]
        written = await _events(engine, row["job_id"], CheckpointWritten.subject)
        last = max(written, key=lambda event: event["data"]["step"], default=None)
        over = last is None or any(e["data"]["checkpoint_id"] == last["data"]["checkpoint_id"] for e in ended)
    return job_object(row, model_name(row["body"], row["job_id"]), over)


def _submitted(row: table.Row) -> UUID:
    if row["state"] != "submitted":
        message = f"The job is {'still checking its file' if row['state'] == 'validating' else row['state']}."
        raise LtpError(ErrorCode.CONFLICT, message, "Ask again once it is queued.")
    job_id: UUID = row["job_id"]
    return job_id


async def _events(engine: AsyncEngine, job_id: UUID, subject: str) -> Sequence[store.Row]:
    return await store.list_events(engine, job_id=job_id, subject=subject, limit=1000)


def _fact(event: store.Row) -> dict[str, Any]:
    subject = event["subject"]
    problem = event["data"].get("problem") or {}
    message = " ".join(filter(None, [_MESSAGES[subject], problem.get("message"), problem.get("hint")]))
    level = "error" if subject.endswith(".failed") else "info"
    data = {key: event["data"][key] for key in ("step", "attempt", "path") if key in event["data"]}
    shown = {"step": data["step"]} if "step" in data else {}
    return _event(f"ftevent-{event['event_id'].hex}", event["at"], level, message, "message", shown)


def _metrics(line: store.Row) -> dict[str, Any]:
    # Their clients know numbers only; one that is not finite is a string here.
    metrics = {name: None if isinstance(value, str) else value for name, value in line["metrics"].items()}
    loss = metrics.get("train/loss")
    message = f"Step {line['step']}" + ("" if loss is None else f": training loss={loss:.4f}")
    data = {"step": line["step"], "train_loss": loss, **metrics}
    return _event(f"ftevent-step-{line['seq']:012d}", line["at"], "info", message, "metrics", data)


def _event(key: str, at: Any, level: str, message: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": key,
        "object": "fine_tuning.job.event",
        "created_at": seconds(at),
        "level": level,
        "message": message,
        "type": kind,
        "data": data,
    }


def _after(items: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    if after is not None:
        at = next((index for index, item in enumerate(items) if item["id"] == after), len(items))
        items = items[at + 1 :]
    return page(items[:limit], len(items) > limit)
