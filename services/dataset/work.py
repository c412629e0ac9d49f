"""The work of turning files and versions into new versions: read in a process of its own, noted and said here."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from ltp.contracts.dataset import (
    DatasetDerivationRequested,
    DatasetRejected,
    DatasetRequested,
    DatasetUploaded,
    ReadOptions,
)
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset import store
from services.dataset.apart import apart
from services.dataset.files import FrozenVersion
from services.dataset.reading import combine, read_source
from services.dataset.settings import DatasetSettings
from services.dataset.versions import derive, publish, same_rows
from services.dataset.where import rows_where


@dataclass(frozen=True)
class Freezer:
    """The work of reading a source. Whatever it unpacks or fetches lies beside the versions and goes with the work."""

    database: Database
    settings: DatasetSettings
    versions: Path
    warm: Callable[[], None]

    async def __call__(self, held: Held) -> None:
        """Read the source, write the version, say so. An upload is a copy: it goes once it was read or refused."""
        # A dataset is added to be trained on: the gate will ask soon, and verl takes its time to start.
        self.warm()
        payload = held.work.payload
        event = DatasetUploaded if "path" in payload else DatasetRequested
        asked = event.model_validate(payload)
        upload = Path(asked.path) if isinstance(asked, DatasetUploaded) else None
        options = asked.options or ReadOptions()
        await _check_quota(self.database, options.project)
        try:
            given = (asked, options, self.versions, self.settings.roots(), self.settings.hub())
            frozen = await apart(read_source, *given, cancelled=held.cancelled)
            await self._check_fits(options.project, asked.name, frozen)
        except LtpError:
            if upload is not None:
                await asyncio.to_thread(upload.unlink, missing_ok=True)
            raise
        settle = held.work
        await publish(
            self.database, asked.dataset_id, options.project, asked.name, frozen,
            settle=lambda unit: finish(unit, settle),
        )  # fmt: skip
        if upload is not None:
            await asyncio.to_thread(upload.unlink, missing_ok=True)

    async def _check_fits(self, project: str, name: str, frozen: FrozenVersion) -> None:
        quota_bytes, used = await store.quota(self.database.engine, project)
        size = sum(part.path.stat().st_size for part in frozen.splits.values())
        known = await store.version(self.database.engine, project, name, frozen.version)
        if quota_bytes is not None and not known and used + size > quota_bytes:
            if not await store.is_kept(self.database.engine, name, frozen.version):
                await asyncio.to_thread(shutil.rmtree, self.versions / name / frozen.version, ignore_errors=True)
            raise _over_quota(project, quota_bytes, used, size)


async def _check_quota(database: Database, project: str) -> None:
    quota_bytes, used = await store.quota(database.engine, project)
    if quota_bytes is not None and used >= quota_bytes:
        raise _over_quota(project, quota_bytes, used, 0)


def _over_quota(project: str, quota_bytes: int, used: int, size: int) -> LtpError:
    message = f"Project {project} may take {quota_bytes} bytes and takes {used}" + (
        f"; this version needs {size} more." if size else " already."
    )
    return LtpError(ErrorCode.QUOTA_EXCEEDED, message, "Delete versions, or raise it with `ltp dataset quota`.")


async def derive_version(held: Held, database: Database, versions: Path) -> None:
    """Make the version that was asked for out of others, and say so."""
    event = DatasetDerivationRequested.model_validate(held.work.payload)
    await _check_quota(database, event.project)
    # The parts were resolved at the door, for whoever asked.
    sources = [await same_rows(database, versions, part.name, part.version) for part in event.parts]

    async def settle(unit: Unit) -> None:
        await finish(unit, held.work)

    if event.kind == "keep":
        provenance = {"where": event.where}
        keep = rows_where(sources[0], event.where)
        await derive(
            database, versions, replace(sources[0], project=event.source_project or event.project), keep, dataset_id=event.dataset_id, name=event.name,
            project=event.project, reason="rows kept by their fields", provenance=provenance, settle=settle, cancelled=held.cancelled,
        )  # fmt: skip
        return
    frozen = await apart(combine, event, sources, versions / event.name, cancelled=held.cancelled)
    parents = [source.version for source in sources]
    reason = "split by hash" if event.kind == "split" else "mixed by weight"
    provenance = event.model_dump(mode="json", include={"parts", "shares", "rows"})
    await publish(
        database, event.dataset_id, event.project, event.name, frozen, parents=parents, of=event.source_project, reason=reason,
        provenance=provenance, settle=settle,
    )  # fmt: skip


async def reject(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why a source or a version could not become a dataset."""
    dataset_id, name = UUID(work.payload["dataset_id"]), str(work.payload["name"])
    if await store.close_dataset(unit, dataset_id, problem=problem.model_dump()):
        unit.emit(DatasetRejected(dataset_id=dataset_id, name=name, problem=problem), about=dataset_id)
