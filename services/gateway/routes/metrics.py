"""Monitoring in push mode: workers anywhere post metrics with a token; Kubeflow's trainer callback reports here unmodified."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse

from ltp.contracts.metrics import MOST_POINTS, Point, Push, Pushed, PushedRun, Reading, RunName
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.acting import ACTING
from ltp.store.clock import now
from services.gateway import store_points as store
from services.gateway.access import Engine, Serving
from services.gateway.point_lines import point_lines
from services.gateway.streams import Position, resume_point, stream_lines

router = APIRouter(tags=["metrics"])

Run = Annotated[RunName, Path(description="A job's id, or the name the workers gave it.")]
KeyFilter = Annotated[str | None, Query(max_length=200, description="Only this key.")]
WorkerFilter = Annotated[str | None, Query(max_length=100, description="Only this worker.")]


class Points(BaseModel):
    """A page of points; pass `next_after` as `after` to read on, null when there is no more."""

    points: list[Point]
    next_after: int | None


class Named(BaseModel):
    """A metric in Kubeflow's form: the value as text."""

    name: str = Field(min_length=1, max_length=200)
    value: str = Field(max_length=100)


class TrainerStatus(BaseModel):
    """What Kubeflow's trainer callback tells (KEP-2779)."""

    model_config = ConfigDict(extra="ignore")

    lastUpdatedTime: datetime | None = None  # noqa: N815 - Kubeflow's spelling
    progressPercentage: int | None = Field(default=None, ge=0, le=100)  # noqa: N815 - as above
    estimatedRemainingSeconds: int | None = Field(default=None, ge=0)  # noqa: N815 - as above
    metrics: list[Named] = Field(default_factory=list[Named], max_length=1000)


class Report(BaseModel):
    """The body of Kubeflow's call."""

    trainerStatus: TrainerStatus  # noqa: N815 - Kubeflow's spelling


@router.post("/metrics")
async def push_metrics(push: Push, runtime: Serving, request: Request) -> Pushed:
    """Push a batch of metrics. Send it again when you got no answer: what is known is not counted twice."""
    request.state.run = push.run  # The audit names it.
    count = sum(len(reading.values) for reading in push.readings)
    if count > MOST_POINTS:
        message = f"The batch has {count} points; {MOST_POINTS} is the limit."
        raise LtpError(ErrorCode.TOO_LARGE, message, "Send it in parts.")
    async with runtime.database.unit() as unit:
        accepted = await store.add(unit, acting_project(), push)
    return Pushed(accepted=accepted, known=count - accepted)


@router.get("/metrics")
async def list_runs(engine: Engine, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[PushedRun]:
    """Runs that something was pushed of, the one heard of last first."""
    rows = await store.runs(engine, acting_project(), None, limit)
    return [PushedRun.model_validate(dict(row)) for row in rows]


@router.get("/metrics/{run}")
async def read_points(
    run: Run,
    engine: Engine,
    key: KeyFilter = None,
    worker: WorkerFilter = None,
    after: Position = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_POINTS)] = 1000,
) -> Points:
    """Points of a run, in the order they came."""
    rows = await store.read(engine, acting_project(), run, after=after, limit=limit, key=key, worker=worker)
    found = [Point.model_construct(**{name: row[name] for name in Point.model_fields}) for row in rows]
    return Points(points=found, next_after=found[-1].seq if len(found) == limit else None)


@router.get("/metrics/{run}/stream", response_class=EventSourceResponse)
async def follow_points(
    run: Run,
    request: Request,
    engine: Engine,
    key: KeyFilter = None,
    worker: WorkerFilter = None,
    after: Position = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventSourceResponse:
    """Points of a run as they come (server-sent events `points`, each with those that came together)."""
    project = acting_project()
    what, read = point_lines(engine, project, run, key, worker)
    news = request.app.state.point_news.of(store.news_key(project, run))
    return stream_lines(request, what, "points", read, resume_point(last_event_id, after), news)


@router.delete("/metrics/{run}", status_code=204)
async def forget_run(run: Run, runtime: Serving) -> None:
    """Delete what was pushed of a run."""
    async with runtime.database.unit() as unit:
        if await store.forget(unit, acting_project(), run) == 0:
            raise LtpError(ErrorCode.NOT_FOUND, f"Nothing was pushed of {run}.", "GET /api/v1/metrics lists runs.")


@router.post("/kubeflow/{run}")
async def report_status(run: Run, report: Report, runtime: Serving) -> Pushed:
    """Where a Hugging Face Trainer reports: set KUBEFLOW_TRAINER_SERVER_URL to this address, and ..._TOKEN to a token's file."""
    status = report.trainerStatus
    numbers = {m.name: float(m.value) for m in status.metrics if _is_number(m.value)}
    step = int(numbers.get("current_step", 0))
    if status.progressPercentage is not None:
        numbers["progress"] = status.progressPercentage / 100
    at = status.lastUpdatedTime or now()
    async with runtime.database.unit() as unit:
        await store.report(unit, acting_project(), run, status.model_dump(mode="json"), at)
        accepted = 0
        if numbers:
            push = Push(run=run, worker="kubeflow", readings=[Reading(step=step, values=numbers, at=at)])
            accepted = await store.add(unit, acting_project(), push)
    return Pushed(accepted=accepted, known=len(numbers) - accepted)


def acting_project() -> str:
    """The project on whose behalf the request acts."""
    acting = ACTING.get()
    return (acting.project if acting else None) or "default"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
