"""How far every unfinished job is, in one answer: what a list of jobs shows beside each name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from ltp.contracts.values import Name
from services.gateway import store_standing as store
from services.gateway.access import Engine
from services.gateway.walls import Caller

router = APIRouter(tags=["jobs"])


class StandingAlarm(BaseModel):
    """An alarm that holds now."""

    rule: str
    severity: str
    message: str


class Standing(BaseModel):
    """Where a running or paused job is. `eta_seconds` is null while no two steps of an attempt tell a pace, and while it is paused."""

    job_id: UUID
    step: int
    steps: int
    eta_seconds: float | None
    alarms: list[StandingAlarm]


@router.get("/standings")
async def list_standings(
    engine: Engine, caller: Caller, project: Name | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 200
) -> list[Standing]:
    """Running and paused jobs with their step, what is left at the pace of the newest steps, and the alarms that hold."""
    rows = await store.unfinished(engine, caller.project or project, limit)
    jobs = {job_id: list(lines) for job_id, lines in groupby(rows, key=lambda row: row["job_id"])}
    alarms = await store.open_alarms(engine, list(jobs))
    return [
        standing(lines, [StandingAlarm.model_validate(one["data"]) for one in alarms if one["job_id"] == job_id])
        for job_id, lines in jobs.items()
    ]


def standing(rows: Sequence[store.Row], alarms: list[StandingAlarm]) -> Standing:
    """Where the job of these rows is, one row a line of metrics; pure."""
    job = rows[0]
    lines = [(row["attempt"], row["step"], float(row["seconds"])) for row in rows if row["step"] is not None]
    return Standing(
        job_id=job["job_id"],
        step=max((step for _, step, _ in lines), default=0),
        steps=job["steps"],
        eta_seconds=eta(lines, job["steps"]) if job["state"] == "running" else None,
        alarms=alarms,
    )


def eta(lines: Sequence[tuple[int, int, float]], steps: int) -> float | None:
    """Seconds left by the newest lines (attempt, step, when) of the newest attempt; pure."""
    newest = max((attempt for attempt, _, _ in lines), default=0)
    mine = sorted((step, at) for attempt, step, at in lines if attempt == newest)
    if not mine or mine[0][0] == mine[-1][0]:
        return None
    (first, began), (last, ended) = mine[0], mine[-1]
    return max(0.0, (ended - began) / (last - first) * (steps - last))
