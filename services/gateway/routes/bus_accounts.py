"""Accounts of other systems on the bus: issued, listed, set back, revoked."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response

from ltp.bus.permissions import FEED, apart, feed_patterns, inbox_prefix
from ltp.bus.users_file import digest_of
from ltp.contracts.bus_account import (
    MOST_ACCOUNTS,
    BusAccountList,
    BusAccountView,
    MadeBusAccount,
    NewBusAccount,
    StartingPoint,
)
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import Principal
from ltp.store.clock import new_id, now
from services.gateway import store_bus as store
from services.gateway import store_owners, store_webhooks
from services.gateway.access import Engine, Serving
from services.gateway.bus_accounts import BusAccounts, unmanaged
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.walls import Caller

router = APIRouter(tags=["bus accounts"])

AccountOrder = Literal["-created_at", "created_at", "-name", "name", "-expires_at", "expires_at"]
Key = Annotated[str, Path(max_length=200, description="An account's id, user or name.")]


@router.post("/bus-accounts", status_code=201)
async def create_account(
    wanted: NewBusAccount, caller: Caller, runtime: Serving, request: Request, response: Response
) -> MadeBusAccount:
    """Let another system listen over NATS. The answer shows the password this once."""
    accounts = _accounts(request)
    if not accounts.managed:
        raise unmanaged()
    engine, project = runtime.database.engine, caller.project or wanted.project
    good = await store.good(engine)
    if len(good) >= MOST_ACCOUNTS or wanted.name in {row["name"] for row in good if row["project"] == project}:
        message = f"The name {wanted.name} is taken, or there are {MOST_ACCOUNTS} accounts already."
        raise LtpError(ErrorCode.CONFLICT, message, "Revoke one, or choose another name.")
    try:
        subjects = apart(wanted.subjects)
    except ValueError as error:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"The subjects {error}.", "Name what holds both, as `ltp.>`."
        ) from error
    position = await _position(engine, wanted)
    account_id, password = new_id(), secrets.token_urlsafe(32)
    lasts = None if wanted.expires_in_days is None else timedelta(days=wanted.expires_in_days)
    row: dict[str, Any] = {
        "account_id": account_id,
        "name": wanted.name,
        # Names are a project's own; users are known to all of NATS.
        "user": f"{wanted.name}-{secrets.token_hex(4)}",
        "project": project,
        "subjects": subjects,
        "digest": digest_of(password),
        "position": position,
        "created_by": caller.name,
        "expires_at": None if lasts is None else now() + lasts,
    }
    async with runtime.database.unit() as unit:
        await store.add(unit, row)
        if project is not None:
            await store_owners.claim(unit, [str(account_id)], project)
    await accounts.give_from(row, position)
    await accounts.apply()
    response.headers["Location"] = f"/api/v1/bus-accounts/{account_id}"
    made = await show_account(str(account_id), caller, engine)
    return MadeBusAccount(**made.model_dump(), password=password)


@router.get("/bus-accounts")
async def list_accounts(
    caller: Caller,
    engine: Engine,
    paging: Paging,
    sort: Annotated[AccountOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> BusAccountList:
    """Accounts of the caller's project, or all; newest first, revoked and expired ones too."""

    async def read(page: PageQuery) -> list[BusAccountView]:
        return [_view(row) for row in await store.listed(engine, caller.project, page)]

    page = await paging.page(read, identity="account_id", sort=sort, cursor=cursor, limit=limit)
    return BusAccountList(accounts=page.items, next_cursor=page.next_cursor)


@router.get("/bus-accounts/{account}")
async def show_account(account: Key, caller: Caller, engine: Engine) -> BusAccountView:
    """One account, with all that its owner needs to connect but the password."""
    return _view(await _find(engine, account, caller))


@router.post("/bus-accounts/{account}/replay", status_code=202)
async def replay(
    account: Key, wanted: StartingPoint, caller: Caller, runtime: Serving, request: Request
) -> BusAccountView:
    """Give an account events again, from a sequence number or a time on; without either, only what comes from now on."""
    engine = runtime.database.engine
    row, position = await _find(engine, account, caller), await _position(engine, wanted)
    if row["revoked_at"] is not None:
        raise LtpError(ErrorCode.CONFLICT, f"{row['name']} is revoked.", "Make a new account.")
    async with runtime.database.unit() as unit:
        await store.move(unit, row["account_id"], position)
    await _accounts(request).give_from(row, position)
    return _view(row)


@router.delete("/bus-accounts/{account}")
async def revoke_account(account: Key, caller: Caller, runtime: Serving, request: Request) -> BusAccountView:
    """Revoke an account: NATS hangs up on it at once. A second revocation changes nothing."""
    engine = runtime.database.engine
    row = await _find(engine, account, caller)
    async with runtime.database.unit() as unit:
        await store.revoke(unit, row["account_id"])
    accounts = _accounts(request)
    await accounts.apply()
    await accounts.forget(row["user"])
    return await show_account(str(row["account_id"]), caller, engine)


async def _find(engine: Any, key: str, caller: Principal) -> Any:
    found = await store.find(engine, key, caller.project)
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no account {key}.", "`ltp bus list` shows all.")
    if len(found) > 1:
        raise LtpError(ErrorCode.CONFLICT, f"{len(found)} accounts are called {key}.", "Name one by its id or user.")
    return found[0]


async def _position(engine: Any, wanted: StartingPoint) -> int:
    if wanted.after is not None and wanted.since is not None:
        message = "An account starts after a sequence number or at a time, not both."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Leave one out.")
    if wanted.since is not None:
        return await store_webhooks.seq_before(engine, wanted.since)
    return wanted.after if wanted.after is not None else await store_webhooks.last_seq(engine)


def _view(row: Any) -> BusAccountView:
    told = {
        "stream": FEED,
        "consumer": row["user"],
        "live_subjects": feed_patterns(row["project"], row["subjects"]),
        "inbox_prefix": inbox_prefix(row["user"]),
    }
    return BusAccountView.model_validate({**row, **told})


def _accounts(request: Request) -> BusAccounts:
    accounts: BusAccounts = request.app.state.bus_accounts
    return accounts
