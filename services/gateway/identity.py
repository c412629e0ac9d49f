"""Whose token a request carries: looked up by its digest, remembered for a moment, and forgotten when one is revoked."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast
from uuid import UUID

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import Principal, Role, digest_of, effective, prefix_of
from ltp.security.oidc import Oidc
from ltp.security.tokens import read_token
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from services.gateway import store_tokens as store
from services.gateway.news import News

_REMEMBER_SECONDS = 5.0
_MOST_REMEMBERED = 10_000
# How often it is noted that a token was used.
_NOTE_SECONDS = 30.0


@dataclass
class Identities:
    """One per process."""

    database: Database
    # Where `ltp up` keeps the first administrator's token.
    token_file: Path | None = None
    # Somebody else whose tokens count.
    oidc: Oidc | None = None
    # Wakes the open streams when a token was revoked.
    revoked: News = field(default_factory=News)
    _known: dict[str, tuple[float, Principal]] = field(default_factory=dict[str, tuple[float, Principal]])
    _looking: dict[str, asyncio.Task[Principal]] = field(default_factory=dict[str, "asyncio.Task[Principal]"])
    _used: dict[UUID, datetime] = field(default_factory=dict[UUID, datetime])
    _noted_at: float = 0.0

    async def principal(self, token: str) -> Principal:
        """Who sent a token. Raises UNAUTHENTICATED."""
        digest, at = digest_of(token), time.monotonic()
        known = self._known.get(digest)
        if (known is None or known[0] < at) and self.oidc is not None and Oidc.concerns(token):
            found, ends_at = await asyncio.to_thread(self.oidc.principal, token)
            # What is remembered must not outlive the token.
            known = (at + min(_REMEMBER_SECONDS, ends_at - time.time()), found)
            self._remember(digest, known)
            return found
        if known is None or known[0] < at:
            # Of many requests with one token at a time, one looks it up.
            looking = self._looking.get(digest)
            if looking is None:
                looking = self._looking[digest] = asyncio.create_task(self._look_up(token, digest))
                looking.add_done_callback(lambda _: self._looking.pop(digest, None))
            known = (at + _REMEMBER_SECONDS, await asyncio.shield(looking))
            self._remember(digest, known)
        found = known[1]
        if found.token_id is not None:
            self._used[found.token_id] = now()
        if at - self._noted_at > _NOTE_SECONDS:
            self._noted_at = at
            await self._note()
        return found

    async def _look_up(self, token: str, digest: str) -> Principal:
        row = await store.by_digest(self.database.engine, digest) or await self._first(token, digest)
        if row is None:
            raise _unknown()
        return _principal(row)

    def _remember(self, digest: str, known: tuple[float, Principal]) -> None:
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[digest] = known

    def forget(self) -> None:
        """A token was revoked: every one is looked up again."""
        self._known.clear()
        self.revoked.tell()

    async def _first(self, token: str, digest: str) -> store.Row | None:
        """The first administrator's token comes in a file, and is kept when it is first used. One that was revoked stays so."""
        if self.token_file is None or not self.token_file.exists() or digest_of(read_token(self.token_file)) != digest:
            return None
        row = {"token_id": new_id(), "name": "first-admin", "prefix": prefix_of(token), "digest": digest}
        row |= {"role": "admin", "project": None, "scopes": None, "created_by": "ltp up"}
        async with self.database.unit() as unit:
            await store.add(unit, row)
        return await store.by_digest(self.database.engine, digest)

    async def _note(self) -> None:
        used, self._used = self._used, {}
        await store.used(self.database.engine, used)


def _principal(row: store.Row) -> Principal:
    role = cast("Role", row["role"])
    return Principal(row["token_id"], row["name"], role, row["project"], effective(role, row["scopes"]))


def _unknown() -> LtpError:
    hint = "Send `Authorization: Bearer TOKEN`; `ltp token create` makes one, `ltp up` keeps the first in DATA/secrets/token."
    return LtpError(ErrorCode.UNAUTHENTICATED, "The request carries no valid token.", hint)
