"""What a job uses of its host: memory of its processes, and utilization and memory of its GPUs, over time."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from ltp.bus.rpc import ask
from ltp.contracts.usage import RunUsage, UsageRequest
from services.gateway.access import Serving
from services.gateway.routes.jobs import show_job

router = APIRouter(tags=["jobs"])


@router.get("/jobs/{job_id}/usage")
async def read_usage(
    job_id: UUID,
    runtime: Serving,
    attempt: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    most: Annotated[int, Query(ge=2, le=5000)] = 1000,
) -> RunUsage:
    """What an attempt of a job used, sampled every ten seconds; at most so many samples, no peak lost."""
    await show_job(job_id, runtime.database.engine)
    request = UsageRequest(job_id=job_id, attempt=attempt, most=most)
    return await ask(runtime.client, "runner", "usage", request, RunUsage)
