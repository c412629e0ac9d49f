"""The same streams over a WebSocket, for browsers and for those who want several things at once over one connection.

A client sends `{"id": "a", "topic": "events", "subject": "ltp.job.v1.*", "after": 17}` as often as it likes, and
`{"id": "a", "stop": true}`; it gets `{"id": "a", "seq": 18, "data": {...}}`, the data as the stream of server-sent events has it.
After a break it asks on after the last `seq`; of a log, whose `seq` is a place in an attempt, with that `attempt` too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import structlog
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketState

from ltp.contracts.faults import faults_of
from ltp.contracts.questions import LogRequest
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import DEFAULT_PROJECT, Principal
from ltp.store.acting import ACTING
from services.gateway import store, store_points
from services.gateway.live import Line, Read, Tails
from services.gateway.log_stream import LOG_BYTES, followed
from services.gateway.news import News
from services.gateway.point_lines import point_lines
from services.gateway.routes.models import EventLine, StepLine
from services.gateway.scopes import lacking
from services.gateway.settings import GatewaySettings
from services.gateway.walls import Walls

router = APIRouter(tags=["live"])

_MOST_SUBSCRIPTIONS = 50
# As the streams of server-sent events need them.
_SCOPES = {"events": "events:read", "metrics": "jobs:read", "points": "metrics:read", "logs": "jobs:read"}
_TRY_LATER, _DEFECT = 1013, 1011


class Wish(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=100)
    topic: Literal["events", "metrics", "points", "logs"] = "events"
    stop: bool = False
    subject: str | None = Field(default=None, max_length=200)
    about: str | None = Field(default=None, max_length=200)
    job_id: UUID | None = None
    run: str | None = Field(default=None, max_length=200)
    attempt: int | None = Field(default=None, ge=1, le=1_000_000)
    after: int = Field(default=0, ge=0, lt=2**63)


@dataclass
class _Session:
    """One connection."""

    socket: WebSocket
    principal: Principal
    # Seconds for which a client may take nothing.
    patience: float
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, "asyncio.Task[None]"])
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """Until the client leaves."""
        try:
            while True:
                await self._obey(await self.socket.receive_text())
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _obey(self, text: str) -> None:
        try:
            wish = Wish.model_validate_json(text)
        except ValidationError as error:
            await self._send({"error": "invalid_request", "detail": faults_of(error)})
            return
        old = self._tasks.pop(wish.id, None)
        if old is not None:
            old.cancel()
        if wish.stop:
            return
        if len(self._tasks) >= _MOST_SUBSCRIPTIONS:
            await self._send({"id": wish.id, "error": "too_large", "detail": "Too many streams on one connection."})
            return
        try:
            await self._check(wish)
            messages = self._log(wish) if wish.topic == "logs" else self._lines(wish, *self._source(wish))
        except LtpError as error:
            await self._send({"id": wish.id, "error": error.code, "detail": str(error)})
            return
        self._tasks[wish.id] = asyncio.create_task(self._follow(wish, messages))

    async def _check(self, wish: Wish) -> None:
        """Raise FORBIDDEN or NOT_FOUND for what is not the caller's to follow."""
        scope = _SCOPES[wish.topic]
        if (refusal := lacking(self.principal, scope, "Ask an administrator for a token that has it.")) is not None:
            raise refusal
        state, project = self.socket.app.state, self.principal.project
        walls: Walls = state.walls
        if project is not None and wish.job_id is not None:
            await walls.refuse_foreign(project, {str(wish.job_id)}, ())
        if wish.topic == "logs" and (
            wish.job_id is None or await store.job(state.runtime.database.engine, wish.job_id) is None
        ):
            raise LtpError(ErrorCode.NOT_FOUND, f"There is no job {wish.job_id}.", "`ltp job list` shows all.")

    def _source(self, wish: Wish) -> tuple[Hashable, Read, News]:
        state = self.socket.app.state
        engine, project = state.runtime.database.engine, self.principal.project
        if wish.topic == "points":
            acting = ACTING.get()
            owner = project or (acting.project if acting else None) or DEFAULT_PROJECT
            run = wish.run or ""
            return *point_lines(engine, owner, run), state.point_news.of(store_points.news_key(owner, run))
        if wish.topic == "metrics":

            async def read_steps(position: int) -> Sequence[Line]:
                rows = await store.list_steps(engine, wish.job_id or UUID(int=0), after=position)
                return [(row["seq"], StepLine.model_validate(dict(row)).model_dump_json()) for row in rows]

            return ("ws-steps", wish.job_id), read_steps, state.news

        async def read_events(position: int) -> Sequence[Line]:
            rows = await store.list_events(
                engine, job_id=wish.job_id, subject=wish.subject, about=wish.about, after=position, project=project
            )
            return [(row["seq"], EventLine.model_validate(dict(row)).model_dump_json()) for row in rows]

        return ("ws-events", project, wish.job_id, wish.subject, wish.about), read_events, state.news

    async def _lines(self, wish: Wish, key: Hashable, read: Read, news: News) -> AsyncIterator[Line]:
        tails: Tails = self.socket.app.state.tails
        async for batch in tails.lines(key, read, news, wish.after):
            for line in batch:
                yield line

    async def _log(self, wish: Wish) -> AsyncIterator[Line]:
        assert wish.job_id is not None
        start = LogRequest(job_id=wish.job_id, attempt=wish.attempt, offset=wish.after, limit=LOG_BYTES)
        async for part in followed(self.socket.app.state.runtime, start, only=False):
            said = {"text": part.text, "attempt": part.attempt, "offset": part.offset}
            yield part.next_offset, json.dumps(said)

    async def _follow(self, wish: Wish, messages: AsyncIterator[Line]) -> None:
        name = json.dumps(wish.id)
        try:
            async for seq, text in messages:
                await self._send_text(f'{{"id":{name},"seq":{seq},"data":{text}}}')
            # A log ends with its job; nothing else does.
            await self._send({"id": wish.id, "end": True})
        except WebSocketDisconnect:
            raise
        except Exception:
            if self.socket.application_state is WebSocketState.DISCONNECTED:
                return  # Closed by another of its streams, or by the end of the gateway.
            # One that says nothing any more would look as if nothing happened: the client comes back where it was.
            structlog.get_logger().exception("a stream broke", topic=wish.topic)
            await self.socket.close(_DEFECT)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(json.dumps(message))

    async def _send_text(self, text: str) -> None:
        """Who takes nothing for a while is dropped; it comes back and asks on where it was."""
        async with self._sending:
            try:
                async with asyncio.timeout(self.patience):
                    await self.socket.send_text(text)
            except TimeoutError:
                structlog.get_logger().info("a slow follower is dropped", actor=self.principal.name)
                await self.socket.close(_TRY_LATER)
                raise WebSocketDisconnect(_TRY_LATER) from None


@router.websocket("/events/ws")
async def follow(socket: WebSocket) -> None:
    """Events, metrics and points, as many streams as wanted over one connection."""
    principal: Principal = socket.state.principal
    settings: GatewaySettings = socket.app.state.runtime.settings
    offered = socket.headers.get("sec-websocket-protocol", "")
    await socket.accept(subprotocol="bearer" if offered.startswith("bearer") else None)
    try:
        await _Session(socket, principal, settings.gateway_slow_seconds).run()
    except (WebSocketDisconnect, KeyError):
        return  # The client left, or sent something that is no text.
