"""Wiring of the gateway: a FastAPI application around the same runtime that every service has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from ltp.contracts.admission import ADMIT
from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from ltp.service.serve import in_background
from services.gateway import errors
from services.gateway.access import authenticate
from services.gateway.commands import obey, tell_refusal
from services.gateway.handlers import SERVICE, router
from services.gateway.news import NEWS_CHANNEL, News
from services.gateway.routes import (
    dataset_uploads,
    dataset_versions,
    datasets,
    dedup,
    evaluations,
    events,
    health,
    host_access,
    hosts,
    job_control,
    jobs,
    operations,
    pipelines,
    plans,
    results,
    schedules,
    search,
    work,
)
from services.gateway.settings import GatewaySettings

settings = GatewaySettings()
runtime = Runtime(SERVICE, settings, [router])
news = News()
runtime.channels[NEWS_CHANNEL] = news.tell
runtime.workers.append(
    Worker(
        runtime.database,
        kind=ADMIT,
        name=SERVICE,
        handler=lambda held: obey(held, runtime),
        on_failed=tell_refusal,
        concurrency=4,
    )
)


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with in_background(runtime):
        yield


# The documentation page must not need the internet to draw itself.
app = FastAPIOffline(
    title="ltp",
    version="1",
    summary="Plan, run, watch and evaluate LLM training with verl.",
    lifespan=_lifespan,
    responses={"default": {"model": errors.ProblemDocument, "description": "A problem (RFC 9457)."}},
)
app.state.runtime, app.state.news = runtime, news
errors.install(app)
app.include_router(health.router)
for part in (
    dataset_uploads,
    dataset_versions,
    search,
    dedup,
    datasets,
    plans,
    jobs,
    job_control,
    host_access,
    hosts,
    results,
    evaluations,
    schedules,
    pipelines,
    operations,
    events,
    work,
):
    app.include_router(part.router, prefix="/api/v1", dependencies=[Depends(authenticate)])


@app.get("/", include_in_schema=False)
async def documentation() -> RedirectResponse:
    """The front door until the console is built: the API's documentation."""
    return RedirectResponse("/docs")
