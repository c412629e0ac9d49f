"""The work of finding duplicates and of removing them. Killed anywhere, it is done again from the same input."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import select

from ltp.contracts.dataset import DatasetRejected
from ltp.contracts.dedup import DedupApplied, DedupCompleted, DedupFailed, Thresholds, VersionRef
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset.dedup import store
from services.dataset.dedup.methods import Measured, measure
from services.dataset.dedup.near import LOWEST_FLOOR
from services.dataset.dedup.pairs import Removals
from services.dataset.dedup.record import Record
from services.dataset.store import close_dataset, datasets, open_dataset
from services.dataset.vectors.library import Frozen, Library
from services.dataset.vectors.rows import RowsFile
from services.dataset.vectors.work import ensure_vectors
from services.dataset.versions import derive

# Pairs are measured down to here, so that thresholds can be moved to here without computing again.
FLOOR = Thresholds(cosine=0.8, jaccard=LOWEST_FLOOR)
_WITH_VECTORS = frozenset({"semantic", "combined"})


@dataclass(frozen=True)
class Compared:
    """The rows of several versions one after the other; the last version is the one that rows are removed from."""

    versions: list[Frozen]
    rows: list[RowsFile]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where the rows of each version begin; the last entry is the number of all."""
        return np.cumsum([0, *(len(rows) for rows in self.rows)]).astype(np.int64)

    @property
    def reference(self) -> int:
        """How many rows belong to the versions that nothing is removed from."""
        return int(self.starts[-2])

    def place(self, row: int) -> tuple[int, int]:
        """(which version, which row of it)."""
        version = int(np.searchsorted(self.starts, row, side="right")) - 1
        return version, row - int(self.starts[version])


async def open_compared(library: Library, row: Mapping[str, Any]) -> Compared:
    """The versions a search for duplicates reads."""
    refs = [VersionRef.model_validate(ref) for ref in row["against"]]
    refs.append(VersionRef(name=row["name"], version=row["version"]))
    versions = [await library.frozen(ref) for ref in refs]
    return Compared(versions, [await library.rows(version, row["part"]) for version in versions])


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
    vectors: NDArray[np.float32] | None = None
    if row["method"] in _WITH_VECTORS:
        parts = [await ensure_vectors(held, database, library, v, row["part"], row["model"]) for v in compared.versions]
        vectors = await asyncio.to_thread(_stacked, parts)
    texts = [text for rows in compared.rows for text in rows.texts]
    thresholds = Thresholds.model_validate(row["thresholds"])
    tell = _Teller(database, dedup_id, asyncio.get_running_loop())
    measured = await asyncio.to_thread(
        measure,
        row["method"],
        texts,
        vectors,
        _lower(FLOOR, thresholds),
        thresholds,
        protected=compared.reference,
        progress=tell,
    )
    await asyncio.to_thread(record_of(library, dedup_id).write, measured)
    removals = await asyncio.to_thread(removed_rows, measured, thresholds, compared.reference)
    async with database.unit() as unit:
        values = {"floor": measured.floor.model_dump(), "rows": len(compared.rows[-1]), "removals": len(removals)}
        if await store.end(unit, store.dedups, dedup_id, state="completed", progress=1.0, **values):
            fact = DedupCompleted(
                dedup_id=dedup_id, name=row["name"], version=row["version"], rows=values["rows"], removals=len(removals)
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
    await open_dataset(unit, dataset_id, name)
    if await close_dataset(unit, dataset_id, problem=problem.model_dump()):
        unit.emit(DatasetRejected(dataset_id=dataset_id, name=name, problem=problem), about=dataset_id)


async def apply_dedup(held: Held, database: Database, library: Library) -> None:
    """Freeze what stays as a new version; what went, with its twins, is kept as a file beside the pairs."""
    dedup_id, dataset_id = UUID(held.work.payload["dedup_id"]), UUID(held.work.payload["dataset_id"])
    thresholds = Thresholds.model_validate(held.work.payload["thresholds"])
    row = await store.one(database.engine, store.dedups, dedup_id)
    assert row is not None
    record = record_of(library, dedup_id)
    measured = await asyncio.to_thread(record.read, row["method"])
    compared = await open_compared(library, row)
    removals = await asyncio.to_thread(removed_rows, measured, thresholds, compared.reference)
    if len(removals) == 0:
        message = f"At these thresholds no row of {row['name']} repeats another."
        raise LtpError(ErrorCode.CONFLICT, message, "Nothing is to be removed; the version stays as it is.")
    listed = await asyncio.to_thread(listed_removals, compared, removals, measured, range(len(removals)))
    path = record.path.with_name(f"removed-{dataset_id}.parquet")
    await asyncio.to_thread(pq.write_table, pa.Table.from_pylist(listed), path)

    async def settle(unit: Unit) -> None:
        made = await unit.execute(
            select(datasets.c.name, datasets.c.version, datasets.c.rows).where(datasets.c.dataset_id == dataset_id)
        )
        found: Any = made.one()
        name, version, rows = found
        await store.note_applied(unit, dedup_id, {"name": name, "version": version})
        fact = DedupApplied(dedup_id=dedup_id, name=name, version=version, rows=rows, removed=len(listed))
        unit.emit(fact, about=dedup_id)
        await finish(unit, held.work)

    await derive(
        database,
        library.versions_dir,
        compared.versions[-1].source,
        _keeper({item["row_id"] for item in listed}),
        dataset_id=dataset_id,
        reason="dedup",
        provenance={
            "dedup_id": str(dedup_id),
            "method": row["method"],
            "part": row["part"],
            "thresholds": thresholds.model_dump(),
            "against": row["against"],
            "removed": len(listed),
            "removals": str(path),
        },
        name=held.work.payload["name"],
        settle=settle,
    )


def removed_rows(measured: Measured, thresholds: Thresholds, reference: int) -> Removals:
    """What goes at these thresholds. Raises INVALID_REQUEST below the floor; rows of the reference never go."""
    wanted = _relevant(measured, thresholds)
    floor = _relevant(measured, measured.floor)
    for name, value in wanted.items():
        moved = value != floor[name] if measured.fixed is not None else value < floor[name] - 1e-12
        if moved:
            only = "at exactly" if measured.fixed is not None else "from"
            message = f"The {name} threshold {value:g} was not measured; it was {only} {floor[name]:g} on."
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Run `ltp dataset dedup preview` with that threshold.")
    found = measured.removals(thresholds)
    ours = found.row >= reference
    return Removals(found.row[ours], found.twin[ours], found.score[ours])


def listed_removals(
    compared: Compared, removals: Removals, measured: Measured, which: Sequence[int]
) -> list[dict[str, Any]]:
    """Some removals with the ids of both rows and how they are alike."""
    ids = [rows.table.column("row_id") for rows in compared.rows]
    splits = [rows.table.column("split") for rows in compared.rows]
    scores = _pair_scores(measured)
    found: list[dict[str, Any]] = []
    for index in which:
        row, twin = int(removals.row[index]), int(removals.twin[index])
        (own, own_row), (other, other_row) = compared.place(row), compared.place(twin)
        same = bool(measured.where[row] == measured.where[twin])
        pair = int(measured.where[row]), int(measured.where[twin])
        cosine, near = (1.0, 1.0) if same else scores.get(pair, (None, None))
        found.append(
            {
                "row_id": ids[own][own_row].as_py(),
                "split": splits[own][own_row].as_py(),
                "twin_row_id": ids[other][other_row].as_py(),
                "twin_split": splits[other][other_row].as_py(),
                "twin_name": compared.versions[other].name,
                "twin_version": compared.versions[other].version,
                "method": "exact" if same else measured.method,
                "cosine": None if measured.method in {"exact", "near"} and not same else cosine,
                "jaccard": None if measured.method == "semantic" and not same else near,
            }
        )
    return found


def _pair_scores(measured: Measured) -> dict[tuple[int, int], tuple[float | None, float | None]]:
    pairs = zip(measured.pairs.later.tolist(), measured.pairs.earlier.tolist(), strict=True)
    cosine, near = measured.cosine.tolist(), measured.jaccard.tolist()
    return {pair: (cosine[i], near[i]) for i, pair in enumerate(pairs)}


def _relevant(measured: Measured, thresholds: Thresholds) -> dict[str, float]:
    """The thresholds that the method reads and that its floor bounds."""
    if measured.method == "exact":
        return {}
    if measured.method == "near":
        return {"jaccard": thresholds.jaccard}
    if measured.method == "combined" and measured.fixed is not None:
        return {"cosine": thresholds.cosine, "jaccard": thresholds.jaccard}
    return {"cosine": thresholds.cosine}


def _lower(one: Thresholds, other: Thresholds) -> Thresholds:
    return Thresholds(cosine=min(one.cosine, other.cosine), jaccard=min(one.jaccard, other.jaccard))


def _stacked(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        message = f"The versions' vectors have {' and '.join(map(str, sorted(widths)))} numbers."
        raise LtpError(ErrorCode.VECTORS_INVALID, message, "Embed all of them with the same model.")
    return np.concatenate(parts)


def _keeper(gone: set[str]) -> Any:
    """A test of frozen rows: true for those that stay."""

    def keep(table: pa.Table) -> NDArray[np.bool_]:
        ids = table.column("row_id").to_pylist()
        return np.fromiter((row_id not in gone for row_id in ids), np.bool_, len(ids))

    return keep


class _Teller:
    """Notes the progress of a computation in a thread, at most each twentieth."""

    def __init__(self, database: Database, dedup_id: UUID, loop: asyncio.AbstractEventLoop) -> None:
        self._database, self._dedup_id, self._loop = database, dedup_id, loop
        self._told = 0.0

    def __call__(self, share: float) -> None:
        if share - self._told >= 0.05:
            self._told = share
            asyncio.run_coroutine_threadsafe(self._note(share), self._loop)

    async def _note(self, share: float) -> None:
        async with self._database.unit() as unit:
            await store.change(unit, store.dedups, self._dedup_id, progress=share)
