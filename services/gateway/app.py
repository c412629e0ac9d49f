"""Wiring of the gateway: a FastAPI application around the same runtime that every service has."""

from __future__ import annotations

import functools
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.middleware.cors import CORSMiddleware

from ltp.contracts.admission import ADMIT
from ltp.event_catalogue import asyncapi
from ltp.queue.worker import Worker
from ltp.service.runtime import Runtime
from ltp.service.serve import in_background
from services.gateway import errors, gauges, openapi, pages
from services.gateway.access import guarded, readable
from services.gateway.bus_accounts import BusAccounts
from services.gateway.commands import obey, tell_refusal
from services.gateway.couriers import Couriers
from services.gateway.door import Door
from services.gateway.etags import Etags
from services.gateway.feed import Feed
from services.gateway.handlers import SERVICE, router
from services.gateway.hooks import Commit
from services.gateway.identity import Identities
from services.gateway.live import Tails
from services.gateway.news import NEWS_CHANNEL, News, NewsByKey
from services.gateway.observed import Observed
from services.gateway.repeats import Repeats
from services.gateway.routes import (
    alarms,
    audit,
    bus_accounts,
    checkpoints,
    dataset_uploads,
    dataset_versions,
    datasets,
    dedup,
    evaluations,
    events,
    fine_tuning,
    health,
    host_access,
    hosts,
    job_control,
    jobs,
    live,
    metrics,
    openai_files,
    openai_models,
    operations,
    pipelines,
    plans,
    results,
    rollouts,
    schedules,
    scrape,
    search,
    secrets,
    standing,
    tokens,
    usage,
    webhooks,
    work,
)
from services.gateway.routes import (
    settings as settings_route,
)
from services.gateway.settings import GatewaySettings
from services.gateway.store_points import POINTS_CHANNEL
from services.gateway.store_tokens import TOKENS_CHANNEL
from services.gateway.tunings import Tunings
from services.gateway.walls import Walls

# FastAPI names the body of each route by an alias, also where pydantic has deferred the body's model: no fault of the route.
warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)

settings = GatewaySettings()
runtime = Runtime(SERVICE, settings, [router])
runtime.exposition.readings |= gauges.readings()
news = News()
couriers, feed = Couriers(runtime, settings), Feed(runtime)
subscribers = BusAccounts(runtime, settings, feed)


def _told(_: str) -> None:
    news.tell()
    couriers.wake.set()
    feed.wake.set()


runtime.channels[NEWS_CHANNEL] = _told
runtime.loops += [("webhooks", couriers.run), ("feed", feed.run), ("subscribers", subscribers.run)]
point_news = NewsByKey()
runtime.channels[POINTS_CHANNEL] = point_news.tell
identities, walls = Identities(runtime.database, settings.gateway_token_file, settings.oidc()), Walls(runtime)
runtime.channels[TOKENS_CHANNEL] = lambda _: identities.forget()
runtime.database.before_commit = Commit(walls)
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
)
app.openapi = functools.partial(openapi.document, app)
app.state.runtime, app.state.news, app.state.walls = runtime, news, walls
app.state.couriers, app.state.bus_accounts = couriers, subscribers
app.state.tails, app.state.point_news = Tails(), point_news
app.state.identities = identities
app.add_middleware(Repeats, engine=runtime.database.engine, root=settings.root())
app.add_middleware(Etags)
app.add_middleware(Door, runtime=runtime, identities=identities, walls=walls)
if settings.gateway_cors_origins:
    app.add_middleware(
        CORSMiddleware, allow_origins=settings.gateway_cors_origins, allow_methods=["*"], allow_headers=["*"]
    )
# Outermost, so that what the door refuses is counted too.
app.add_middleware(Observed)
errors.install(app)
app.include_router(health.router)
app.include_router(scrape.router)
_PARTS = (
    # First what is asked for most: routes are tried in this order.
    metrics,
    dataset_uploads,
    dataset_versions,
    search,
    dedup,
    datasets,
    plans,
    jobs,
    job_control,
    standing,
    alarms,
    checkpoints,
    usage,
    rollouts,
    host_access,
    hosts,
    results,
    evaluations,
    schedules,
    pipelines,
    operations,
    events,
    work,
    tokens,
    secrets,
    webhooks,
    bus_accounts,
    settings_route,
    audit,
)
for part in _PARTS:
    app.include_router(part.router, prefix="/api/v1", dependencies=[Depends(guarded)])


app.state.readable = readable("/api/v1", [part.router for part in _PARTS])
# A WebSocket has no request to guard; the door let it in, and its streams are walled each.
app.include_router(live.router, prefix="/api/v1")
for part in (openai_files, fine_tuning, openai_models):
    app.include_router(part.router, prefix="/v1", dependencies=[Depends(guarded)])
runtime.loops.append(("fine-tuning jobs", Tunings(runtime, news).run))


class AsyncApiResponse(JSONResponse):
    """The registered type of AsyncAPI documents."""

    media_type = "application/vnd.aai.asyncapi+json"


@app.get("/asyncapi", tags=["events"], response_class=AsyncApiResponse)
async def asyncapi_document() -> AsyncApiResponse:
    """Every event that other systems can listen to, as AsyncAPI 3."""
    return AsyncApiResponse(_asyncapi())


_asyncapi = functools.cache(asyncapi)
# Last: what no route answers is a page of the console.
pages.install(app)
