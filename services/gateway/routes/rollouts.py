"""What a model under reinforcement learning answered as it learnt, with the reward of each answer."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from ltp.bus.rpc import ask
from ltp.contracts.rollouts import RolloutKind, RolloutsRequest, RunRollouts
from services.gateway.access import Serving
from services.gateway.routes.jobs import show_job

router = APIRouter(tags=["jobs"])


@router.get("/jobs/{job_id}/rollouts")
async def read_rollouts(
    job_id: UUID,
    runtime: Serving,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    kind: RolloutKind = "training",
    step: Annotated[int | None, Query(ge=0, le=1_000_000_000)] = None,
) -> RunRollouts:
    """A few responses of a step (the newest, or a certain one) with their scores, and the steps that there are."""
    await show_job(job_id, runtime.database.engine)
    request = RolloutsRequest(job_id=job_id, attempt=attempt, kind=kind, step=step)
    return await ask(runtime.client, "runner", "rollouts", request, RunRollouts)
