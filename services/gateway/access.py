"""What a request needs: the runtime behind the gateway, and the guard that its caller may do what it asks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway.news import News

_bearer = HTTPBearer(
    auto_error=False, description="A token of `ltp token create`, or the first one in DATA/secrets/token."
)


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    if not runtime.ready:
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, "The gateway is still starting.", "Try again in a moment.")
    return runtime


def _engine(runtime: Annotated[Runtime, Depends(_runtime)]) -> AsyncEngine:
    return runtime.database.engine


def _news(request: Request) -> News:
    news: News = request.app.state.news
    return news


async def guarded(
    request: Request,
    response: Response,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
) -> None:
    """What every route rests on: the door let the caller in (`door.py`), and the walls hold (`walls.py`)."""
    await request.app.state.walls.check(request)
    if request.scope["route"].status_code == 202:
        # Where to look; a route that makes something new says where that is.
        response.headers["Location"] = quote(_watched(request))


def _watched(request: Request) -> str:
    """What a command is about: the longest part of its path that can be read."""
    path = request.url.path
    while path.count("/") > 3 and not request.app.state.readable.fullmatch(path):
        path = path.rpartition("/")[0]
    return path


def readable(prefix: str, routers: Iterable[APIRouter]) -> re.Pattern[str]:
    """Which paths answer a GET."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    paths = [re.split(r"\{[^}]*\}", prefix + route.path) for route in routes if "GET" in (route.methods or ())]
    return re.compile("|".join("[^/]+".join(map(re.escape, parts)) for parts in paths))


Serving = Annotated[Runtime, Depends(_runtime)]
Engine = Annotated[AsyncEngine, Depends(_engine)]
Headlines = Annotated[News, Depends(_news)]
