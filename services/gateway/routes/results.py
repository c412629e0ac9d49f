"""What a job left behind: checkpoints, scores, and the comparison of before and after."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.bus.rpc import ask
from ltp.contracts.checkpoint import CheckpointExported, CheckpointExportFailed, CheckpointWritten
from ltp.contracts.evaluation import ComparisonCompleted, EvaluationCompleted, EvaluationFailed
from ltp.contracts.event import Event
from ltp.contracts.questions import SamplePairs, SamplesRequest
from ltp.core.errors import ErrorCode, LtpError
from services.gateway import store
from services.gateway.access import Engine, Serving
from services.gateway.routes.jobs import show_job

E = TypeVar("E", bound=Event)

router = APIRouter(tags=["results"])


class Checkpoint(BaseModel):
    """A checkpoint: written by the trainer, and, once exported, usable by others."""

    written: CheckpointWritten
    exported: CheckpointExported | None = None
    failed: CheckpointExportFailed | None = None


class Evaluations(BaseModel):
    """Scores of a job's models."""

    completed: list[EvaluationCompleted]
    failed: list[EvaluationFailed]


@router.get("/jobs/{job_id}/checkpoints")
async def list_checkpoints(job_id: UUID, engine: Engine) -> list[Checkpoint]:
    """Complete checkpoints of a job, in the order they were written."""
    await show_job(job_id, engine)
    exported = {e.checkpoint_id: e for e in await _events(engine, job_id, CheckpointExported)}
    failed = {e.checkpoint_id: e for e in await _events(engine, job_id, CheckpointExportFailed)}
    return [
        Checkpoint(written=w, exported=exported.get(w.checkpoint_id), failed=failed.get(w.checkpoint_id))
        for w in await _events(engine, job_id, CheckpointWritten)
    ]


@router.get("/jobs/{job_id}/evaluations")
async def list_evaluations(job_id: UUID, engine: Engine) -> Evaluations:
    """Scores of the base and the trained model on held-out rows."""
    await show_job(job_id, engine)
    completed = await _events(engine, job_id, EvaluationCompleted)
    return Evaluations(completed=completed, failed=await _events(engine, job_id, EvaluationFailed))


@router.get("/jobs/{job_id}/comparison")
async def show_comparison(job_id: UUID, engine: Engine) -> ComparisonCompleted:
    """The paired verdict between base and trained model."""
    await show_job(job_id, engine)
    found = await _events(engine, job_id, ComparisonCompleted)
    if not found:
        raise LtpError(
            ErrorCode.NOT_FOUND,
            f"Job {job_id} has no comparison yet.",
            "It follows once both evaluations are complete; a recipe without `evaluation:` has none.",
        )
    return found[-1]


@router.get("/jobs/{job_id}/comparison/samples")
async def list_samples(
    job_id: UUID,
    runtime: Serving,
    change: Literal["improved", "regressed", "unchanged"] | None = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> SamplePairs:
    """Held-out rows with both answers side by side."""
    await show_job(job_id, runtime.database.engine)
    request = SamplesRequest(job_id=job_id, change=change, offset=offset, limit=limit)
    return await ask(runtime.client, "evaluator", "samples", request, SamplePairs)


async def _events(engine: AsyncEngine, job_id: UUID, kind: type[E]) -> list[E]:
    rows = await store.list_events(engine, job_id=job_id, subject=kind.subject, limit=1000)
    return [kind.model_validate(row["data"]) for row in rows]
