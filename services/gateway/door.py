"""The door every request passes before anything of it is read: who it is, what it may, how much of it, and what stays of it.

An ASGI middleware, so that a body from nobody is not even received. It sets `principal` for the routes, and the context in
which facts say who caused them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from ltp.contracts.identity import AuditRecorded
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import Principal
from ltp.service.runtime import Runtime
from ltp.store.acting import ACTING, Acting
from ltp.store.clock import new_id
from ltp.store.outage import is_outage
from services.gateway.errors import problem_response, unreachable
from services.gateway.identity import Identities
from services.gateway.limits import Rates
from services.gateway.open_streams import OpenStreams
from services.gateway.scopes import is_audited, is_push, lacking, needed
from services.gateway.settings import GatewaySettings
from services.gateway.walls import Walls
from services.gateway.welcome import stays_open, while_welcome

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_GUARDED = ("/api/v1/", "/v1/")
# These take files, and have a limit of their own.
_FILES = re.compile(r"/api/v1/(datasets(/convert|/uploads/[^/]+)?|evaluations/import)|/v1/files")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}
_STRANGERS = "strangers"
_TRY_LATER = 1013
# One audit event tells of all pushes of a token to a run for so long.
_PUSH_WINDOW_SECONDS = 600.0


class Door:
    """Wraps the application."""

    def __init__(self, app: Any, runtime: Runtime, identities: Identities, walls: Walls) -> None:
        settings = runtime.settings
        assert isinstance(settings, GatewaySettings)
        self.app, self.runtime, self.identities, self.walls = app, runtime, identities, walls
        self.settings = settings
        self.rates = Rates(settings.gateway_requests_per_second, 2 * settings.gateway_requests_per_second)
        # Who has no token is slowed much sooner, so that none can be guessed and no log be flooded.
        self.failures = Rates(20.0, 100.0)
        self.pushes = Rates(1 / _PUSH_WINDOW_SECONDS, 1)
        self.streams = OpenStreams(settings.gateway_streams_per_token, settings.gateway_streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        adorned = self._adorned(scope, send, request_id)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if not scope["path"].startswith(_GUARDED) or (scope["type"] == "http" and scope["method"] == "OPTIONS"):
                await self.app(scope, receive, adorned)
                return
            with ExitStack() as held:
                try:
                    principal = await self._let_in(scope, headers)
                    if stays_open(scope):
                        held.enter_context(self.streams.place(str(principal.token_id), scope["type"]))
                except LtpError as error:
                    await _refuse(scope, receive, adorned, error, headers)
                    return
                await self._pass(scope, receive, adorned, principal, headers)

    async def _let_in(self, scope: Scope, headers: Headers) -> Principal:
        if not self.runtime.ready:
            raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, "The gateway is still starting.", "Try again in a moment.")
        try:
            principal = await self.identities.principal(token_of(headers))
        except LtpError as error:
            if error.code is ErrorCode.UNAUTHENTICATED:
                _wait(self.failures, (scope.get("client") or (_STRANGERS,))[0])
            raise
        except (DBAPIError, OSError, PoolTimeout) as error:
            raise unreachable(error) from error
        _wait(self.rates, str(principal.token_id))
        method = scope.get("method", "GET")
        scope["state"]["principal"] = principal
        hint = "Ask an administrator for a token that has it."
        refusal = lacking(principal, needed(method, scope["path"]), hint)
        if refusal is not None:
            await self._record(scope, self._acting(scope, principal, headers), "refused")
            raise refusal
        size = headers.get("content-length", "0")
        if size.isascii() and size.isdigit() and int(size) > self._limit(scope["path"]):
            message = f"The body has {size} bytes; {self._limit(scope['path'])} is the limit here."
            raise LtpError(ErrorCode.TOO_LARGE, message, "Send less at once, or upload it as a file.")
        return principal

    async def _pass(self, scope: Scope, receive: Receive, send: Send, principal: Principal, headers: Headers) -> None:
        acting = self._acting(scope, principal, headers)
        status = 0

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        mark = ACTING.set(acting)
        try:
            bounded = self._bounded(scope["path"], receive)
            if stays_open(scope):
                run = partial(self._within_walls, scope, bounded, principal)
                await while_welcome(self.identities, token_of(headers), scope, watched, run)
            else:
                await self._within_walls(scope, bounded, principal, watched)
            if not acting.audited and 200 <= status < 400:
                await self._record(scope, acting, "done")
        except Exception as error:
            # The application answers what breaks in it; this broke in a layer around it.
            if status or scope["type"] != "http" or not is_outage(error):
                raise
            await _refuse(scope, receive, send, unreachable(error), headers)
        finally:
            ACTING.reset(mark)

    async def _within_walls(self, scope: Scope, receive: Receive, principal: Principal, send: Send) -> None:
        if principal.project is None:
            await self.app(scope, receive, send)
        else:
            await self.walls.around(self.app, scope, receive, send, principal)

    def _acting(self, scope: Scope, principal: Principal, headers: Headers) -> Acting:
        given = headers.get("x-ltp-project", "")
        asked = given if _PROJECT.fullmatch(given) else None
        return Acting(
            actor=principal.name,
            project=principal.acts_in(asked),
            everywhere=principal.project is None and asked is None,
            cause=new_id() if is_audited(scope.get("method", "GET"), scope["path"]) else None,
            method=scope.get("method", "GET"),
            path=scope["path"][:500],
            request_id=scope["state"]["request_id"],
            role=principal.role,
            token_id=principal.token_id,
        )

    async def _record(self, scope: Scope, acting: Acting, outcome: Any) -> None:
        """Write a change, or the first push of a window to a run, into the audit."""
        if is_push(acting.method, acting.path):
            run = scope["state"].get("run")
            acting = replace(acting, cause=new_id(), path=f"{acting.path}/{run}" if run else acting.path)
            who = f"{acting.token_id} {acting.actor} {acting.project} {acting.path} {outcome}"
            if self.pushes.wait(who, time.monotonic()) == 0:
                await self._audit(acting, outcome)
        elif is_audited(acting.method, acting.path):
            await self._audit(acting, outcome)

    async def _audit(self, acting: Acting, outcome: Any) -> None:
        mark = ACTING.set(acting)
        try:
            async with self.runtime.database.unit() as unit:
                unit.emit(audit_of(acting, outcome), about=acting.request_id, event_id=acting.cause)
        except (DBAPIError, OSError, PoolTimeout):
            structlog.get_logger().warning("a request was not audited", path=acting.path, actor=acting.actor)
        finally:
            ACTING.reset(mark)

    def _limit(self, path: str) -> int:
        most = self.settings.gateway_max_upload_bytes
        # A file comes in an envelope of a few hundred bytes.
        return most + (64 << 10) if _FILES.fullmatch(path) else self.settings.gateway_max_body_bytes

    def _bounded(self, path: str, receive: Receive) -> Receive:
        """Count a body whose length was not announced."""
        left = self._limit(path)

        async def counted() -> MutableMapping[str, Any]:
            nonlocal left
            message = await receive()
            left -= len(message.get("body") or b"")
            if left < 0:
                raise HTTPException(413, "the body is larger than what is allowed here")
            return message

        return counted

    def _adorned(self, scope: Scope, send: Send, request_id: str) -> Send:
        async def adorned(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(_GUARDED):
                    headers.setdefault("Cache-Control", "no-store")
                if scope.get("scheme") == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        return adorned


def audit_of(acting: Acting, outcome: Any) -> AuditRecorded:
    """The audit event of a request."""
    return AuditRecorded(
        actor=acting.actor,
        role=acting.role,
        project=acting.project,
        token_id=acting.token_id,
        method=acting.method,
        path=acting.path,
        request_id=acting.request_id,
        outcome=outcome,
    )


async def _refuse(scope: Scope, receive: Receive, send: Send, error: LtpError, headers: Headers) -> None:
    if scope["type"] == "websocket":
        await receive()
        if error.code is ErrorCode.RATE_LIMITED:
            # Who is welcome later has to be let in to be told so: a browser's page sees a code of closed connections alone.
            offered = headers.get("sec-websocket-protocol", "").startswith("bearer")
            await send({"type": "websocket.accept", "subprotocol": "bearer" if offered else None})
            await send({"type": "websocket.close", "code": _TRY_LATER, "reason": error.message[:120]})
            return
        # Before it is accepted, closing answers the handshake with 403.
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    await problem_response(error, path=scope["path"])(scope, receive, send)


def token_of(headers: Headers) -> str:
    """From the header, or, for a WebSocket of a browser, which can set no header, from the subprotocols `bearer, TOKEN`."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    return offered[1] if len(offered) == 2 and offered[0] == "bearer" else ""


def _wait(rates: Rates, caller: str) -> None:
    seconds = rates.wait(caller, time.monotonic())
    if seconds:
        hint = f"Wait {seconds:.1f} s, or send less often."
        raise LtpError(ErrorCode.RATE_LIMITED, "Too many requests.", hint)
