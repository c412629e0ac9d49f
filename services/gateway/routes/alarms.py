"""The health of a job: its alarms with their evidence, and how far it is. The runner knows both."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from ltp.bus.rpc import ask
from ltp.contracts.alarm import Alarm, AlarmList, AlarmsRequest, Progress, ProgressRequest
from services.gateway.access import Serving
from services.gateway.routes.jobs import show_job

router = APIRouter(tags=["jobs"])


@router.get("/jobs/{job_id}/alarms")
async def list_alarms(job_id: UUID, runtime: Serving, active: bool = False) -> list[Alarm]:
    """A job's alarms, newest first; with `active` only those that hold now."""
    await show_job(job_id, runtime.database.engine)
    request = AlarmsRequest(job_id=job_id, active=active)
    return (await ask(runtime.client, "runner", "alarms", request, AlarmList)).alarms


@router.get("/jobs/{job_id}/progress")
async def show_progress(job_id: UUID, runtime: Serving) -> Progress:
    """How far the newest attempt is, its pace, what is left, and the rollout of the step under way."""
    await show_job(job_id, runtime.database.engine)
    return await ask(runtime.client, "runner", "progress", ProgressRequest(job_id=job_id), Progress)
