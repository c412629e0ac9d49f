"""Who changed what, when, and what came of it: the audit events, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from ltp.contracts.identity import AuditRecorded
from ltp.contracts.pages import PageQuery
from services.gateway import store
from services.gateway.access import Engine
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.routes.models import EventLine
from services.gateway.walls import Caller

router = APIRouter(tags=["audit"])

AuditOrder = Literal["-seq", "seq", "-at", "at", "-actor", "actor"]


@router.get("/audit")
async def read_audit(
    caller: Caller,
    engine: Engine,
    paging: Paging,
    actor: Annotated[str | None, Query(max_length=100)] = None,
    before: Annotated[int | None, Query(ge=0, lt=2**63, description="Only what has a lower sequence number.")] = None,
    sort: Annotated[AuditOrder, SORT] = "-seq",
    cursor: Cursor = None,
    limit: PageLimit = 100,
) -> list[EventLine]:
    """Audit events, newest first. What a request caused names its event as `cause`. The header `Link` leads on."""
    wanted: dict[str, Any] = {"actor": actor, "before": before, "project": caller.project}

    async def read(page: PageQuery) -> list[EventLine]:
        rows = await store.read_audit(engine, AuditRecorded.subject, page, **wanted)
        return [EventLine.model_validate(dict(row)) for row in rows]

    return (await paging.page(read, identity="event_id", sort=sort, cursor=cursor, limit=limit)).items
