"""Surgery's tables and every statement it runs on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Column, Integer, String, Table, Uuid, false, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.checkpoint import CheckpointWritten
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from services.surgery.policy import Exported

SCHEMA = "surgery"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

exports = Table(
    "exports",
    metadata,
    Column("checkpoint_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("step", Integer, nullable=False),
    Column("is_final", Boolean, nullable=False),
    Column("source", String, nullable=False),
    Column("result", JSONB),
    Column("problem", JSONB),
    Column("asked_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    schema=SCHEMA,
)


async def open_export(unit: Unit, event: CheckpointWritten) -> None:
    """Note that a checkpoint is to be exported."""
    values = {
        "checkpoint_id": event.checkpoint_id,
        "job_id": event.job_id,
        "step": event.step,
        "is_final": event.is_final,
        "source": event.path,
    }
    await unit.execute(insert(exports).values(**values).on_conflict_do_nothing())


async def find_exports(engine: AsyncEngine, ids: Sequence[UUID]) -> list[Exported]:
    """Checkpoints by their own ids or their jobs'."""
    if not ids:
        return []
    statement = select(exports).where(or_(exports.c.checkpoint_id.in_(ids), exports.c.job_id.in_(ids)))
    async with engine.connect() as connection:
        rows = (await connection.execute(statement)).mappings().all()
    return [
        Exported(r["checkpoint_id"], r["job_id"], r["step"], r["source"], (r["result"] or {}).get("path")) for r in rows
    ]


async def close_export(unit: Unit, checkpoint_id: UUID, **values: Any) -> bool:
    """Note how an export ended; False when that is noted already."""
    # Dead work may be tried again: a success replaces a failure, nothing replaces a success.
    failed = false() if "problem" in values else exports.c.problem.is_not(None)
    open_ = or_(exports.c.ended_at.is_(None), failed)
    values = {"problem": null()} | values
    statement = update(exports).where(exports.c.checkpoint_id == checkpoint_id, open_)
    return await unit.change(statement.values(ended_at=now(), **values)) == 1
