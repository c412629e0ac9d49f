"""ETags on whatever is read as JSON, and changes that happen only if the thing is still what the caller has seen.

The tag is a digest of the answer, so it needs no knowledge of any noun. A change with `If-Match` first reads the thing anew, as
the caller would; between that look and the change lie some milliseconds, in which another's change is not seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from ltp.core.errors import ErrorCode, LtpError
from services.gateway.errors import problem_response

Message = MutableMapping[str, Any]
_PREFIX = "/api/v1/"
_CHANGES = frozenset({"PUT", "PATCH", "DELETE", "POST"})


@dataclass
class _Answer:
    """An answer that was held back."""

    start: Message = field(default_factory=dict[str, Any])
    body: bytearray = field(default_factory=bytearray)


class Etags:
    """Wraps the application, behind the door."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] in _CHANGES and (wanted := headers.get("if-match")) is not None:
            fault = await self._stale(scope, wanted)
            if fault is not None:
                await problem_response(fault, path=scope["path"])(scope, receive, send)
                return
        if scope["method"] in {"GET", "HEAD"}:
            await self._tagged(scope, receive, send, headers.get("if-none-match"))
        else:
            await self.app(scope, receive, send)

    async def _tagged(self, scope: Message, receive: Any, send: Any, known: str | None) -> None:
        answer = _Answer()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_json(message):
                answer.start = message
            elif not answer.start:
                await send(message)
            else:
                answer.body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await _send_tagged(answer, send, known)

        await self.app(scope, receive, watched)

    async def _stale(self, scope: Message, wanted: str) -> LtpError | None:
        answer, tag = _Answer(), None

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.start = message
            else:
                answer.body.extend(message.get("body", b""))

        path = scope["path"]
        if scope["method"] == "POST":
            # What is done to a thing is posted below it: /jobs/ID/pause.
            path = path.rpartition("/")[0]
        headers = [(name, value) for name, value in scope["headers"] if name not in {b"if-match", b"content-length"}]
        inner = {
            **scope,
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "headers": headers,
            "query_string": b"",
        }
        await self.app({**inner, "state": dict(scope["state"])}, _nothing, keep)
        if answer.start.get("status") == 200:
            tag = _tag(bytes(answer.body))
        if tag is None or not _matches(wanted, tag):
            message = f"{path[:200]} is not what If-Match names{'' if tag is None else f'; it is {tag} now'}."
            return LtpError(ErrorCode.PRECONDITION_FAILED, message, "Read it again, and decide anew.")
        return None


async def _send_tagged(answer: _Answer, send: Callable[[Message], Awaitable[None]], known: str | None) -> None:
    body, headers = bytes(answer.body), MutableHeaders(scope=answer.start)
    tag = _tag(body)
    headers["ETag"] = tag
    if known is not None and _matches(known, tag):
        answer.start["status"], body = 304, b""
        for name in ("content-length", "content-type"):
            del headers[name]
    await send(answer.start)
    await send({"type": "http.response.body", "body": body})


def _tag(body: bytes) -> str:
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def _matches(given: str, tag: str) -> bool:
    return any(one.strip().removeprefix("W/") in {"*", tag} for one in given.split(","))


def _is_json(message: Message) -> bool:
    headers = Headers(raw=message["headers"])
    return message["status"] == 200 and headers.get("content-type", "").startswith("application/json")


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
