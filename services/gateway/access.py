"""What a request needs: the runtime behind the gateway, and the guard that its caller may do what it asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
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


async def guarded(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None) -> None:
    """What every route rests on: the door let the caller in (`door.py`), and the walls hold (`walls.py`)."""
    await request.app.state.walls.check(request)


Serving = Annotated[Runtime, Depends(_runtime)]
Engine = Annotated[AsyncEngine, Depends(_engine)]
Headlines = Annotated[News, Depends(_news)]
