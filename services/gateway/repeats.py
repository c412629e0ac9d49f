"""`Idempotency-Key` on every POST: a request sent again under its key changes nothing, and is answered as the first was.

The key is noted in the transaction of the request's effect, so that two at once, or a crash before the answer, do the work
once. Jobs and pipeline runs keep their keys themselves, for good; all others are kept for a day.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import Headers
from starlette.responses import Response

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import DEFAULT_PROJECT
from ltp.security.keyring import Keyring
from ltp.store.acting import ACTING
from ltp.store.clock import new_id
from ltp.store.database import Unit
from services.gateway import store_repeats as store
from services.gateway.errors import problem_response

Message = MutableMapping[str, Any]
# These keep their keys with what was made; answers to the others come piece by piece, or are questions.
_APART = re.compile(r"/api/v1/(jobs|pipeline-runs)|/v1/chat/.*")
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_MOST_BYTES = 1 << 20


@dataclass
class _Keyed:
    """A request under a key, while it is worked on."""

    project: str
    key: str
    cause: UUID
    asked: str
    claimed: bool = False
    body: Any = field(default_factory=hashlib.sha256)
    start: Message = field(default_factory=dict[str, Any])
    answer: bytearray = field(default_factory=bytearray)


_NOW: ContextVar[_Keyed | None] = ContextVar("ltp_keyed", default=None)


async def claim(unit: Unit) -> None:
    """Before a unit commits: its request takes effect under its key, or another did. Raises CONFLICT."""
    keyed = _NOW.get()
    if keyed is None or keyed.claimed:
        return
    if not await store.claim(unit, keyed.project, keyed.key, keyed.cause, keyed.asked):
        message = f"A request with Idempotency-Key {keyed.key!r} is being worked on."
        raise LtpError(ErrorCode.CONFLICT, message, "Send it again in a moment, to get its answer.")
    keyed.claimed = True


def own_key(project: str | None, key: str) -> str:
    """A key as jobs and pipeline runs keep it: each project has keys of its own, and none can spell another's."""
    project = project or DEFAULT_PROJECT
    return key if project == DEFAULT_PROJECT and ":" not in key else f"{project}:{key}"


class Repeats:
    """Wraps the application, behind the door."""

    def __init__(self, app: Any, engine: AsyncEngine, root: Path) -> None:
        self.app, self.engine, self.keyring = app, engine, root / "secrets" / "keyring"

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        acting = ACTING.get()
        key = Headers(scope=scope).get("idempotency-key") if scope["type"] == "http" else None
        if key is None or scope["method"] != "POST" or acting is None or _APART.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        if not _KEY.fullmatch(key):
            message = "An Idempotency-Key has 1 to 200 visible ASCII characters."
            fault = LtpError(ErrorCode.INVALID_REQUEST, message, "A UUID will do.")
            await problem_response(fault, path=scope["path"])(scope, receive, send)
            return
        # An answer may hold a secret that was made for its caller alone.
        who = acting.token_id or acting.actor
        asked = f"{scope['path']}?{scope['query_string'].decode('latin-1')} {who}"
        keyed = _Keyed(acting.project or DEFAULT_PROJECT, key, acting.cause or new_id(), asked)
        known = await store.find(self.engine, keyed.project, key)
        if known is not None:
            answer = await self._again(scope, receive, keyed, known)
            await answer(scope, receive, send)
        else:
            await self._first(scope, receive, send, keyed)

    async def _again(self, scope: Message, receive: Any, keyed: _Keyed, known: Any) -> Response:
        """What the first was answered, or why it is not told."""
        hashed = _hashing(scope, receive, keyed)
        while (await hashed()).get("more_body"):
            pass
        if known["asked"] != keyed.asked or known["digest"] not in {None, keyed.body.hexdigest()}:
            message = f"Idempotency-Key {keyed.key!r} was used for another request."
            return problem_response(LtpError(ErrorCode.CONFLICT, message, "Use a new key."), path=scope["path"])
        if known["answer"] is None:
            message = f"The request with Idempotency-Key {keyed.key!r} took effect, and its answer is not known (yet)."
            hint = f"Send it again in a moment, or see what it caused: GET /api/v1/audit, event {known['cause']}."
            return problem_response(LtpError(ErrorCode.CONFLICT, message, hint), path=scope["path"])
        said = json.loads(Keyring.load(self.keyring).decrypt(known["answer"]))
        return Response(said["body"], known["status"], {**said["headers"], "Idempotency-Replayed": "true"})

    async def _first(self, scope: Message, receive: Any, send: Any, keyed: _Keyed) -> None:
        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                keyed.start = message
            elif len(keyed.answer) < _MOST_BYTES:
                keyed.answer += message.get("body", b"")
            # The answer is kept before its end is sent: who has it can ask for it again.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await self._settle(keyed)
            await send(message)

        mark = _NOW.set(keyed)
        try:
            await self.app(scope, _hashing(scope, receive, keyed), kept)
        finally:
            _NOW.reset(mark)

    async def _settle(self, keyed: _Keyed) -> None:
        status = keyed.start["status"]
        if status >= 500:
            return
        if status >= 400:
            await store.release(self.engine, keyed.project, keyed.key, keyed.cause)
            return
        told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in keyed.start["headers"]}
        headers = {name: told[name] for name in ("content-type", "location") if name in told}
        said = json.dumps({"headers": headers, "body": keyed.answer.decode()})
        answer = Keyring.load(self.keyring).encrypt(said)
        mine = (keyed.project, keyed.key, keyed.cause)
        answered = {"digest": keyed.body.hexdigest(), "status": status, "answer": answer}
        await store.settle(self.engine, *mine, asked=keyed.asked, **answered)


def _hashing(scope: Message, receive: Any, keyed: _Keyed) -> Any:
    """Receive, and take the digest of what comes. A form is told by its size alone: its boundary is another each time."""
    kind = Headers(scope=scope).get("content-type", "")
    is_form = kind.lower().startswith("multipart/")

    async def hashed() -> Message:
        message: Message = await receive()
        part = message.get("body") or b""
        keyed.body.update(b"." * len(part) if is_form else part)
        return message

    return hashed
