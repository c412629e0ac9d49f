"""An open stream ends with the token that opened it: when it is revoked, at once in every process; when it expires, soon after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ltp.core.errors import ErrorCode, LtpError
from ltp.store.patience import wait_at_most
from services.gateway.identity import Identities

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# How often it is looked whether a token has expired.
_LOOK_SECONDS = 15.0
_POLICY_VIOLATION = 1008


def stays_open(scope: Scope) -> bool:
    """Whether a request may last as long as its caller likes."""
    return bool(scope["type"] == "websocket" or scope["path"].endswith("/stream"))


async def while_welcome(
    identities: Identities, token: str, scope: Scope, send: Send, run: Callable[[Send], Any]
) -> None:
    """Run a stream until it ends, its reader leaves, or its token is good no more: then it is hung up on."""
    begun = False

    async def noted(message: MutableMapping[str, Any]) -> None:
        nonlocal begun
        begun = True
        await send(message)

    stream, end = asyncio.ensure_future(run(noted)), asyncio.ensure_future(_until_unwelcome(identities, token))
    try:
        await asyncio.wait({stream, end}, return_when=asyncio.FIRST_COMPLETED)
        if stream.done():
            stream.result()
            return
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        structlog.get_logger().info("a stream ends with its token", path=scope["path"])
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ErrorCode.UNAUTHENTICATED})
        elif begun:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        for task in (stream, end):
            task.cancel()
        await asyncio.gather(stream, end, return_exceptions=True)


async def _until_unwelcome(identities: Identities, token: str) -> None:
    while True:
        revoked = identities.revoked.ticket()
        try:
            await identities.principal(token)
        except LtpError as error:
            if error.code is ErrorCode.UNAUTHENTICATED:
                return
        except (DBAPIError, OSError, PoolTimeout):
            pass  # An outage says nothing of the token; streams outlive it.
        await wait_at_most(revoked, _LOOK_SECONDS)
