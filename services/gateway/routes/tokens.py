"""Tokens: make, list, revoke. Nobody gives away more than they have, and a token is shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from ltp.contracts.identity import MadeToken, NewToken, TokenList, TokenView
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import digest_of, excess, new_token
from ltp.store.clock import new_id, now
from services.gateway import store_tokens as store
from services.gateway.access import Engine, Serving
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.walls import Caller

router = APIRouter(tags=["tokens"])

TokenOrder = Literal[
    "-created_at", "created_at", "-name", "name", "-role", "role", "-expires_at", "expires_at", "-last_used_at",
    "last_used_at",
]  # fmt: skip

Key = Annotated[str, Path(max_length=200, description="A token's id, prefix or name.")]


class Myself(BaseModel):
    """Whom a token speaks for."""

    name: str
    role: str
    project: str | None
    scopes: list[str]


@router.get("/whoami")
async def who_am_i(caller: Caller) -> Myself:
    """Whom the token of this request speaks for, and what it may."""
    return Myself(name=caller.name, role=caller.role, project=caller.project, scopes=sorted(caller.scopes))


@router.post("/tokens", status_code=201)
async def create_token(wanted: NewToken, caller: Caller, runtime: Serving, response: Response) -> MadeToken:
    """Make a token. The answer shows it this once; only its digest is kept."""
    project = wanted.project or caller.project
    if wanted.role == "admin" and project is not None:
        raise LtpError(ErrorCode.INVALID_REQUEST, "An administrator has no project.", "Make a manager of it.")
    if (fault := excess(caller, wanted.role, project, wanted.scopes)) is not None:
        code = ErrorCode.INVALID_REQUEST if "no scope" in fault else ErrorCode.FORBIDDEN
        raise LtpError(code, f"No token was made: {fault}.", "`ltp token create --help` shows roles and scopes.")
    token, prefix = new_token()
    made_at = now()
    lasts = None if wanted.expires_in_days is None else timedelta(days=wanted.expires_in_days)
    row: dict[str, Any] = {
        "token_id": new_id(),
        "name": wanted.name,
        "prefix": prefix,
        "digest": digest_of(token),
        "role": wanted.role,
        "project": project,
        "scopes": wanted.scopes,
        "created_by": caller.name,
        "created_at": made_at,
        "expires_at": None if lasts is None else made_at + lasts,
    }
    async with runtime.database.unit() as unit:
        await store.add(unit, row)
    response.headers["Location"] = f"/api/v1/tokens/{row['token_id']}"
    return MadeToken(**row, token=token, last_used_at=None, revoked_at=None)


@router.get("/tokens")
async def list_tokens(
    caller: Caller,
    engine: Engine,
    paging: Paging,
    sort: Annotated[TokenOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> TokenList:
    """Tokens of the caller's project, or all; newest first, revoked and expired ones too."""

    async def read(page: PageQuery) -> list[TokenView]:
        return [TokenView.model_validate(dict(row)) for row in await store.listed(engine, caller.project, page)]

    page = await paging.page(read, identity="token_id", sort=sort, cursor=cursor, limit=limit)
    return TokenList(tokens=page.items, next_cursor=page.next_cursor)


@router.get("/tokens/{key}")
async def show_token(key: Key, caller: Caller, engine: Engine) -> TokenView:
    """One token, without itself."""
    found = [row for row in await store.find(engine, key) if caller.project in {None, row["project"]}]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no token {key}.", "`ltp token list` shows all.")
    if len(found) > 1:
        raise LtpError(ErrorCode.CONFLICT, f"{len(found)} tokens are called {key}.", "Name one by its id or prefix.")
    return TokenView.model_validate(dict(found[0]))


@router.delete("/tokens/{key}")
async def revoke_token(key: Key, caller: Caller, runtime: Serving) -> TokenView:
    """Revoke a token: no request with it passes from now on. A second revocation changes nothing."""
    found = await show_token(key, caller, runtime.database.engine)
    async with runtime.database.unit() as unit:
        await store.revoke(unit, found.token_id)
    return await show_token(str(found.token_id), caller, runtime.database.engine)
