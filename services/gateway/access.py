"""What a request needs: the runtime behind the gateway, and the proof that the caller may use it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.tokens import matches, read_token
from ltp.service.runtime import Runtime
from services.gateway.news import News
from services.gateway.settings import GatewaySettings

_bearer = HTTPBearer(auto_error=False, description="The token in DATA/secrets/token, or the one given to the gateway.")


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


def authenticate(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Refuse a request without the token. Without a configured token there is no way in."""
    settings: GatewaySettings = request.app.state.runtime.settings
    if settings.gateway_token_file is None:
        raise LtpError(
            ErrorCode.UNAUTHENTICATED,
            "The gateway has no token configured, so it lets nobody in.",
            "Set LTP_GATEWAY_TOKEN_FILE to a file that holds one, or start with `ltp up`.",
        )
    if credentials is None or not matches(credentials.credentials, read_token(settings.gateway_token_file)):
        raise LtpError(
            ErrorCode.UNAUTHENTICATED,
            "The request carries no valid token.",
            "Send `Authorization: Bearer TOKEN`; `ltp up` keeps the token in DATA/secrets/token.",
        )


Serving = Annotated[Runtime, Depends(_runtime)]
Engine = Annotated[AsyncEngine, Depends(_engine)]
Headlines = Annotated[News, Depends(_news)]
