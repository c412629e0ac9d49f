"""The dataset service's tables and every statement it runs on them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Column, Integer, String, Table, Uuid, false, func, null, or_, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from ltp.contracts.dataset import DatasetUploaded
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table

SCHEMA = "dataset"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("source_sha256", String, nullable=False),
    Column("version", String),
    Column("rows", Integer),
    Column("splits", JSONB),
    Column("problem", JSONB),
    Column("uploaded_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    schema=SCHEMA,
)


async def open_dataset(unit: Unit, event: DatasetUploaded) -> None:
    """Note an upload."""
    values = {"dataset_id": event.dataset_id, "name": event.name, "source_sha256": event.sha256}
    await unit.execute(insert(datasets).values(**values).on_conflict_do_nothing())


async def close_dataset(unit: Unit, dataset_id: UUID, **values: Any) -> bool:
    """Note how reading it ended; False when that is noted already."""
    # Dead work may be tried again: a success replaces a failure, nothing replaces a success.
    failed = false() if "problem" in values else datasets.c.problem.is_not(None)
    open_ = or_(datasets.c.ended_at.is_(None), failed)
    values = {"problem": null()} | values
    statement = update(datasets).where(datasets.c.dataset_id == dataset_id, open_)
    return await unit.change(statement.values(ended_at=now(), **values)) == 1
