"""The work of finding duplicates and of removing them. Killed anywhere, it is done again from the same input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select

from ltp.contracts.dataset import DEFAULT_PROJECT, DatasetRejected
from ltp.contracts.dedup import DedupApplied, DedupCompleted, DedupFailed, Thresholds, VersionRef
from ltp.contracts.values import Problem
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset.apart import apart
from services.dataset.dedup import store, tasks
from services.dataset.dedup.compared import Compared
from services.dataset.dedup.near import LOWEST_FLOOR
from services.dataset.dedup.record import Record
from services.dataset.derive import Without
from services.dataset.store import close_dataset, datasets, open_dataset
from services.dataset.vectors.library import Library
from services.dataset.vectors.work import ensure_vectors
from services.dataset.versions import derive

# Pairs are measured down to here, so that thresholds can be moved to here without computing again.
FLOOR = Thresholds(cosine=0.8, jaccard=LOWEST_FLOOR)
_WITH_VECTORS = frozenset({"semantic", "combined"})


async def open_compared(library: Library, row: Mapping[str, Any], vectors: list[Path] | None = None) -> Compared:
    """The versions a search for duplicates reads."""
    refs = [VersionRef.model_validate(ref) for ref in row["against"]]
    refs.append(VersionRef(name=row["name"], version=row["version"]))
    versions = [await library.frozen(ref) for ref in refs]
    return Compared(versions, library.folder, row["part"], vectors or [])


def record_of(library: Library, dedup_id: UUID) -> Record:
    """Where the search's pairs stand."""
    return Record(library.settings.root() / "dedups" / str(dedup_id) / "pairs.npz")


async def find_duplicates(held: Held, database: Database, library: Library) -> None:
    """Measure the pairs, count what goes at the thresholds asked for, say so."""
    dedup_id = UUID(held.work.payload["dedup_id"])
    row = await store.one(database.engine, store.dedups, dedup_id)
    assert row is not None
    async with database.unit() as unit:
        await store.change(unit, store.dedups, dedup_id, state="running")
    compared = await open_compared(library, row)
    if row["method"] in _WITH_VECTORS:
        model = row["model"]
        made = [await ensure_vectors(held, database, library, v, row["part"], model) for v in compared.versions]
        compared = await open_compared(library, row, made)
    thresholds = Thresholds.model_validate(row["thresholds"])

    async def note(share: float) -> None:
        async with database.unit() as unit:
            await store.change(unit, store.dedups, dedup_id, progress=share)

    found = await apart(
        tasks.find, row["method"], compared, _lower(FLOOR, thresholds), thresholds, record_of(library, dedup_id),
        cancelled=held.cancelled, note=note,
    )  # fmt: skip
    async with database.unit() as unit:
        values = {"floor": found.floor.model_dump(), "rows": found.rows, "removals": found.removals}
        if await store.end(unit, store.dedups, dedup_id, state="completed", progress=1.0, **values):
            fact = DedupCompleted(
                dedup_id=dedup_id, name=row["name"], version=row["version"], rows=found.rows, removals=found.removals
            )
            unit.emit(fact, about=dedup_id)
        await finish(unit, held.work)


async def fail_dedup(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why duplicates could not be found."""
    dedup_id = UUID(work.payload["dedup_id"])
    if await store.end(unit, store.dedups, dedup_id, state="failed", problem=problem.model_dump()):
        unit.emit(DedupFailed(dedup_id=dedup_id, problem=problem), about=dedup_id)


async def fail_apply(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why the new version could not be made: as a dataset that was refused, since that is what was asked for."""
    dataset_id, name = UUID(work.payload["dataset_id"]), work.payload["name"]
    await open_dataset(unit, dataset_id, work.payload.get("project", DEFAULT_PROJECT), name)
    if await close_dataset(unit, dataset_id, problem=problem.model_dump()):
        unit.emit(DatasetRejected(dataset_id=dataset_id, name=name, problem=problem), about=dataset_id)


async def apply_dedup(held: Held, database: Database, library: Library) -> None:
    """Freeze what stays as a new version; what went, with its twins, is kept as a file beside the pairs."""
    dedup_id, dataset_id = UUID(held.work.payload["dedup_id"]), UUID(held.work.payload["dataset_id"])
    thresholds = Thresholds.model_validate(held.work.payload["thresholds"])
    project = held.work.payload.get("project", DEFAULT_PROJECT)
    row = await store.one(database.engine, store.dedups, dedup_id)
    assert row is not None
    record = record_of(library, dedup_id)
    compared = await open_compared(library, row)
    path = record.path.with_name(f"removed-{dataset_id}.parquet")
    gone = await apart(
        tasks.write_removed, row["method"], compared, thresholds, record, path, cancelled=held.cancelled
    )  # fmt: skip

    async def settle(unit: Unit) -> None:
        made = await unit.execute(
            select(datasets.c.name, datasets.c.version, datasets.c.rows).where(datasets.c.dataset_id == dataset_id)
        )
        found: Any = made.one()
        name, version, rows = found
        await store.note_applied(unit, dedup_id, {"name": name, "version": version})
        fact = DedupApplied(dedup_id=dedup_id, name=name, version=version, rows=rows, removed=len(gone))
        unit.emit(fact, about=dedup_id)
        await finish(unit, held.work)

    await derive(
        database,
        library.versions_dir,
        replace(compared.versions[-1].source, project=project),
        Without(frozenset(gone)),
        dataset_id=dataset_id,
        reason="dedup",
        provenance={
            "dedup_id": str(dedup_id),
            "method": row["method"],
            "part": row["part"],
            "thresholds": thresholds.model_dump(),
            "against": row["against"],
            "removed": len(gone),
            "removals": str(path),
        },
        name=held.work.payload["name"],
        project=project,
        settle=settle,
        cancelled=held.cancelled,
    )


def _lower(one: Thresholds, other: Thresholds) -> Thresholds:
    return Thresholds(cosine=min(one.cosine, other.cosine), jaccard=min(one.jaccard, other.jaccard))
