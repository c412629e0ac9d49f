"""Who changed what, when, and what came of it: the audit events, newest first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ltp.contracts.identity import AuditRecorded
from services.gateway import store
from services.gateway.access import Engine
from services.gateway.routes.models import EventLine
from services.gateway.walls import Caller

router = APIRouter(tags=["audit"])


@router.get("/audit")
async def read_audit(
    caller: Caller,
    engine: Engine,
    actor: Annotated[str | None, Query(max_length=100)] = None,
    before: Annotated[int | None, Query(ge=0, lt=2**63, description="Read on before this sequence number.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[EventLine]:
    """Audit events, newest first. What a request caused names its event as `cause`."""
    rows = await store.read_audit(
        engine, AuditRecorded.subject, actor=actor, before=before, limit=limit, project=caller.project
    )
    return [EventLine.model_validate(dict(row)) for row in rows]
