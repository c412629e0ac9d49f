"""Versions that go: noted and said in one transaction, their files and what was derived of them removed by the queue."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ltp.contracts.dataset import DatasetDeleted
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue, finish
from ltp.queue.worker import Held
from ltp.store.clock import now
from ltp.store.database import Database, Unit
from services.dataset import store
from services.dataset.leftovers import expire_staging, expire_uploads
from services.dataset.settings import DatasetSettings


async def forget(unit: Unit, project: str, name: str, version: str | None, reason: Any) -> None:
    """Note that versions are gone, say so, and queue the removal of their files."""
    for row in await store.mark_deleted(unit, project, name, version):
        fact = DatasetDeleted(dataset_id=row["dataset_id"], name=name, version=row["version"], reason=reason)
        unit.emit(fact, about=row["dataset_id"])
        payload = {"name": name, "version": row["version"]}
        enqueue(unit, Queue.DEFAULT, "remove", payload, dedup_key=f"remove:{row['dataset_id']}")


async def remove_files(
    held: Held, database: Database, versions: Path, forget_derived: Callable[[str], Awaitable[None]]
) -> None:
    """Remove a version's files and what was derived of it, unless the same rows were added again meanwhile."""
    name, version = held.work.payload["name"], held.work.payload["version"]
    await forget_derived(version)
    if not await store.is_kept(database.engine, name, version):
        await asyncio.to_thread(shutil.rmtree, versions / name / version, ignore_errors=True)
    async with database.unit() as unit:
        await finish(unit, held.work)


async def retire_forever(database: Database, settings: DatasetSettings) -> None:
    """Delete versions and uploads whose time is over, for as long as the service runs."""
    while True:
        unfinished = settings.dataset_upload_keep_hours * 3600
        await asyncio.to_thread(expire_uploads, settings.root() / "uploads", unfinished)
        await asyncio.to_thread(expire_staging, settings.root() / "exports")
        for row in await store.expired(database.engine, now()):
            async with database.unit() as unit:
                await forget(unit, row["project"], row["name"], row["version"], "retention")
        await asyncio.sleep(settings.dataset_retention_poll_seconds)
