"""The computing of a search for duplicates, each a function that `apart` runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ltp.contracts.dedup import DedupMethod, Thresholds
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.dedup.compared import Compared
from services.dataset.dedup.cosine import Progress
from services.dataset.dedup.methods import Measured, measure
from services.dataset.dedup.pairs import Removals
from services.dataset.dedup.record import Record

_SHOWN_CHARACTERS = 1000


@dataclass(frozen=True)
class Found:
    """What a search found at the thresholds asked for."""

    floor: Thresholds
    rows: int
    removals: int


def find(
    method: DedupMethod, compared: Compared, floor: Thresholds, thresholds: Thresholds, record: Record,
    progress: Progress | None = None,
) -> Found:  # fmt: skip
    """Measure the pairs, keep them in the record, count what goes."""
    texts = [text for rows in compared.rows for text in rows.texts]
    measured = measure(
        method, texts, compared.matrix(), floor, thresholds, protected=compared.reference, progress=progress
    )
    record.write(measured)
    removals = removed_rows(measured, thresholds, compared.reference)
    return Found(measured.floor, len(compared.rows[-1]), len(removals))


def show(
    method: DedupMethod, compared: Compared, thresholds: Thresholds, record: Record, offset: int, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """(how many rows go, some of them as `Removal` has them)."""
    measured = record.read(method)
    removals = removed_rows(measured, thresholds, compared.reference)
    which = range(min(offset, len(removals)), min(offset + limit, len(removals)))
    items = listed_removals(compared, removals, measured, which)
    for index, item in zip(which, items, strict=True):
        item["text"] = _text(compared, int(removals.row[index]))
        item["twin_text"] = _text(compared, int(removals.twin[index]))
    return len(removals), items


def write_removed(
    method: DedupMethod, compared: Compared, thresholds: Thresholds, record: Record, path: Path
) -> list[str]:
    """The row ids of what goes; with twins, scores and methods it is kept in the file. Raises CONFLICT for nothing."""
    measured = record.read(method)
    removals = removed_rows(measured, thresholds, compared.reference)
    if len(removals) == 0:
        message = f"At these thresholds no row of {compared.versions[-1].name} repeats another."
        raise LtpError(ErrorCode.CONFLICT, message, "Nothing is to be removed; the version stays as it is.")
    listed = listed_removals(compared, removals, measured, range(len(removals)))
    pq.write_table(pa.Table.from_pylist(listed), path)
    return [item["row_id"] for item in listed]


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
    chosen = np.fromiter(which, np.int64, len(which))
    cosines, jaccards = _scores(measured, removals.row[chosen], removals.twin[chosen])
    found: list[dict[str, Any]] = []
    for index, cosine, near in zip(chosen.tolist(), cosines, jaccards, strict=True):
        row, twin = int(removals.row[index]), int(removals.twin[index])
        (own, own_row), (other, other_row) = compared.place(row), compared.place(twin)
        same = bool(measured.where[row] == measured.where[twin])
        found.append(
            {
                "row_id": ids[own][own_row].as_py(),
                "split": splits[own][own_row].as_py(),
                "twin_row_id": ids[other][other_row].as_py(),
                "twin_split": splits[other][other_row].as_py(),
                "twin_name": compared.versions[other].name,
                "twin_version": compared.versions[other].version,
                "method": "exact" if same else measured.method,
                "cosine": 1.0 if same else cosine,
                "jaccard": 1.0 if same else near,
            }
        )
    return found


def _scores(
    measured: Measured, rows: NDArray[np.int64], twins: NDArray[np.int64]
) -> tuple[list[float | None], list[float | None]]:
    """Cosine and Jaccard index of each pair of rows, as far as they were measured."""
    count = len(measured.first)
    keys = measured.pairs.later * count + measured.pairs.earlier
    order = np.argsort(keys, kind="stable")
    wanted = measured.where[rows] * count + measured.where[twins]
    at = np.searchsorted(keys, wanted, sorter=order)
    places = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(wanted), np.int64)
    there = keys[places] == wanted if len(order) else np.zeros(len(wanted), np.bool_)
    return tuple(_listed(scores, places, there) for scores in (measured.cosine, measured.jaccard))  # type: ignore[return-value]


def _listed(scores: NDArray[np.float64], places: NDArray[np.int64], there: NDArray[np.bool_]) -> list[float | None]:
    if not there.any():
        return [None] * len(there)
    found = scores[places]
    sure = there & ~np.isnan(found)
    return [float(value) if good else None for value, good in zip(found.tolist(), sure.tolist(), strict=True)]


def _relevant(measured: Measured, thresholds: Thresholds) -> dict[str, float]:
    """The thresholds that the method reads and that its floor bounds."""
    match measured.method:
        case "exact":
            return {}
        case "near":
            return {"jaccard": thresholds.jaccard}
        case "semantic":
            return {"cosine": thresholds.cosine}
        case "combined":
            return {"cosine": thresholds.cosine, "jaccard": thresholds.jaccard}


def _text(compared: Compared, row: int) -> str:
    version, place = compared.place(row)
    return (compared.rows[version].table.column("text")[place].as_py() or "")[:_SHOWN_CHARACTERS]
