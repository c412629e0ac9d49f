"""Webhooks: made, changed, tried, looked after. Secrets are shown once; nobody sees what is another project's."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.webhook import (
    MOST_WEBHOOKS,
    DeliveryPage,
    DeliveryState,
    DeliveryView,
    MadeWebhook,
    NewWebhook,
    ReplayAnswer,
    ReplayWish,
    TrialAnswer,
    WebhookChange,
    WebhookList,
    WebhookView,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.identity import DEFAULT_PROJECT
from ltp.security.secrets import Secrets
from ltp.security.signatures import new_signing_secret
from ltp.store.clock import new_id, now
from services.gateway import store_owners
from services.gateway import store_webhooks as store
from services.gateway.access import Engine, Serving
from services.gateway.cloud_events import http_form
from services.gateway.couriers import Couriers, secret_name
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.routes.secrets import secrets_of
from services.gateway.walls import Caller

router = APIRouter(tags=["webhooks"])

WebhookOrder = Literal["-created_at", "created_at", "-name", "name", "-changed_at", "changed_at"]
Key = Annotated[str, Path(max_length=200, description="A webhook's id or name.")]
# How long the secret before a rotation still signs too.
_OVERLAP = timedelta(hours=24)
_TEST = "ltp.webhook.v1.tested"


@router.post("/webhooks", status_code=201)
async def create_webhook(
    wanted: NewWebhook, caller: Caller, runtime: Serving, request: Request, response: Response
) -> MadeWebhook:
    """Send events to a URL. The answer shows the signing secret this once."""
    project = caller.project or wanted.project
    _check(wanted.url)
    webhook_id, secret = new_id(), new_signing_secret()
    position = wanted.after if wanted.after is not None else await store.last_seq(runtime.database.engine)
    row: dict[str, Any] = wanted.model_dump(exclude={"after", "project"})
    row |= {"webhook_id": webhook_id, "project": project, "position": position, "created_by": caller.name}
    async with runtime.database.unit() as unit:
        if not await store.add(unit, row, MOST_WEBHOOKS):
            message = f"There are {MOST_WEBHOOKS} webhooks already."
            raise LtpError(ErrorCode.CONFLICT, message, "Remove one, or have one carry more subjects.")
        await secrets_of(runtime).put(unit, secret_name(webhook_id), secret, project or DEFAULT_PROJECT)
        if project is not None:
            await store_owners.claim(unit, [str(webhook_id)], project)
    _couriers(request).wake.set()
    response.headers["Location"] = f"/api/v1/webhooks/{webhook_id}"
    made = await show_webhook(str(webhook_id), caller, runtime.database.engine)
    return MadeWebhook(**made.model_dump(), secret=secret)


@router.get("/webhooks")
async def list_webhooks(
    caller: Caller,
    engine: Engine,
    paging: Paging,
    sort: Annotated[WebhookOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> WebhookList:
    """Webhooks of the caller's project, or all; newest first."""

    async def read(page: PageQuery) -> list[WebhookView]:
        return [WebhookView.model_validate(dict(row)) for row in await store.listed(engine, caller.project, page)]

    page = await paging.page(read, identity="webhook_id", sort=sort, cursor=cursor, limit=limit)
    return WebhookList(webhooks=page.items, next_cursor=page.next_cursor)


@router.get("/webhooks/{webhook}")
async def show_webhook(webhook: Key, caller: Caller, engine: Engine) -> WebhookView:
    """One webhook, without its secret."""
    found = await store.find(engine, webhook, caller.project)
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no webhook {webhook}.", "`ltp webhook list` shows all.")
    if len(found) > 1:
        raise LtpError(ErrorCode.CONFLICT, f"{len(found)} webhooks are called {webhook}.", "Name one by its id.")
    return WebhookView.model_validate(dict(found[0]))


@router.patch("/webhooks/{webhook}")
async def change_webhook(
    webhook: Key, change: WebhookChange, caller: Caller, runtime: Serving, request: Request
) -> WebhookView:
    """Change a webhook, stop it, or start one that was disabled where it stopped."""
    found = await show_webhook(webhook, caller, runtime.database.engine)
    values = change.model_dump(exclude_unset=True)
    # Null clears the filter by noun; of all else it says nothing.
    values = {key: value for key, value in values.items() if value is not None or key == "about"}
    if "url" in values:
        _check(values["url"])
    if "enabled" in values:
        reason = None if values["enabled"] else f"{caller.name} disabled it."
        values |= {"reason": reason, "failing_since": None}
    async with runtime.database.unit() as unit:
        await store.change(unit, found.webhook_id, values)
    _couriers(request).wake.set()
    return await show_webhook(str(found.webhook_id), caller, runtime.database.engine)


@router.delete("/webhooks/{webhook}", status_code=204)
async def remove_webhook(webhook: Key, caller: Caller, runtime: Serving) -> None:
    """Send nothing more, and forget it with its deliveries."""
    found = await show_webhook(webhook, caller, runtime.database.engine)
    async with runtime.database.unit() as unit:
        await store.remove(unit, found.webhook_id)
        await _forget_secret(secrets_of(runtime), unit, found.webhook_id)


@router.post("/webhooks/{webhook}/rotate-secret")
async def rotate_secret(webhook: Key, caller: Caller, runtime: Serving) -> MadeWebhook:
    """Make a new signing secret, shown this once. For 24 hours messages carry a signature with the old one as well."""
    found = await show_webhook(webhook, caller, runtime.database.engine)
    secrets, name, secret = secrets_of(runtime), secret_name(found.webhook_id), new_signing_secret()
    old = (await secrets.read(name)).split(" ")[0]
    async with runtime.database.unit() as unit:
        await secrets.put(unit, name, f"{secret} {old}", found.project or DEFAULT_PROJECT)
        await store.change(unit, found.webhook_id, {"old_secret_until": now() + _OVERLAP})
    found = await show_webhook(str(found.webhook_id), caller, runtime.database.engine)
    return MadeWebhook(**found.model_dump(), secret=secret)


@router.post("/webhooks/{webhook}/test")
async def try_webhook(webhook: Key, caller: Caller, engine: Engine, request: Request) -> TrialAnswer:
    """Send one test event (`ltp.webhook.v1.tested`) now, and say what came of it. It is not tried again."""
    found = await show_webhook(webhook, caller, engine)
    row = {"event_id": new_id(), "subject": _TEST, "about": str(found.webhook_id), "at": now()}
    row |= {"data": {"webhook_id": str(found.webhook_id)}, "url": found.url, "old_secret_until": None}
    headers, body = http_form(row, found.mode)
    began = time.monotonic()
    outcome = await _couriers(request).send(found.webhook_id, row, headers, body)
    seconds = round(time.monotonic() - began, 3)
    return TrialAnswer(delivered=outcome.good, status=outcome.status, problem=outcome.problem, seconds=seconds)


@router.get("/webhooks/{webhook}/deliveries")
async def list_deliveries(
    webhook: Key,
    caller: Caller,
    engine: Engine,
    state: DeliveryState | None = None,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeliveryPage:
    """What became of each event, newest first. `state=dead` lists the dead letters: what was given up."""
    found = await show_webhook(webhook, caller, engine)
    rows = await store.list_deliveries(engine, found.webhook_id, state=state, before=cursor, limit=limit + 1)
    page = [DeliveryView.model_validate(dict(row)) for row in rows[:limit]]
    return DeliveryPage(deliveries=page, next_cursor=page[-1].delivery_id if len(rows) > limit else None)


@router.post("/webhooks/{webhook}/replay", status_code=202)
async def replay(webhook: Key, wish: ReplayWish, caller: Caller, runtime: Serving, request: Request) -> ReplayAnswer:
    """Send events again: from a sequence number or a time on, or what was given up. Their ids are the same as before."""
    if wish.chosen() != 1:
        message = "A replay takes exactly one of after, since, dead and delivery_id."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, 'As {"after": 1200}.')
    engine = runtime.database.engine
    found, position, count = await show_webhook(webhook, caller, engine), wish.after, None
    if wish.since is not None:
        position = await store.seq_before(engine, wish.since)
    async with runtime.database.unit() as unit:
        if position is not None:
            await store.rewind(unit, found.webhook_id, min(position, found.position))
        else:
            count = await store.revive(unit, found.webhook_id, wish.delivery_id)
    if wish.delivery_id is not None and not count:
        message = f"{found.name} has no delivery {wish.delivery_id}."
        raise LtpError(ErrorCode.NOT_FOUND, message, f"`ltp webhook deliveries {found.name}` shows them.")
    _couriers(request).wake.set()
    now_at = await show_webhook(str(found.webhook_id), caller, engine)
    return ReplayAnswer(deliveries=count, position=now_at.position)


def _check(url: str) -> None:
    """Refuse what is no address to send to. Where it leads is checked when it is called."""
    try:
        parts = urlsplit(url)
        fault = "names no host" if not parts.hostname else None
        if parts.username is not None or parts.password is not None:
            fault = "holds a user or a password, which lists would show"
        _ = parts.port
    except ValueError as error:
        fault = f"is no URL ({error})"
    if fault is not None:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"The webhook's URL {fault}.", "As https://example.com/hooks.")


async def _forget_secret(secrets: Secrets, unit: Any, webhook_id: UUID) -> None:
    try:
        await secrets.remove(unit, secret_name(webhook_id))
    except LtpError as error:
        if error.code is not ErrorCode.SECRET_NOT_FOUND:
            raise


def _couriers(request: Request) -> Couriers:
    couriers: Couriers = request.app.state.couriers
    return couriers
