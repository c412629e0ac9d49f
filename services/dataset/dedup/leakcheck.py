"""The work of checking a training version against evaluation sets, and what submitters are warned of."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.dedup import (
    Leak,
    LeakAsk,
    LeakCheckCompleted,
    LeakCheckFailed,
    LeakWarnings,
    VersionRef,
)
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset.dedup import store
from services.dataset.dedup.cosine import pairs_above, unit_vectors
from services.dataset.dedup.leaks import Match, shared_words
from services.dataset.vectors.library import Frozen, Library
from services.dataset.vectors.rows import RowsFile
from services.dataset.vectors.store import latest
from services.dataset.vectors.work import ensure_vectors, vectors_of

_KEPT = 200
_SHOWN_CHARACTERS = 500


@dataclass(frozen=True)
class _Part:
    """Some rows of a version: all of them, or those of some splits."""

    frozen: Frozen
    rows: RowsFile
    places: NDArray[np.int64]

    def texts(self) -> list[str]:
        found: list[str] = self.rows.table.column("text").take(self.places).to_pylist()
        return found


async def check_leaks(held: Held, database: Database, library: Library) -> None:
    """Find the evaluation rows that the training rows give away, say how many."""
    check_id = UUID(held.work.payload["check_id"])
    row = await store.one(database.engine, store.leak_checks, check_id)
    assert row is not None
    async with database.unit() as unit:
        await store.change(unit, store.leak_checks, check_id, state="running")
    ask = LeakAsk.model_validate(row["ask"])
    training, evaluation = await _parts(library, row, ask)
    texts = training.texts()
    questions = [text for part in evaluation for text in part.texts()]
    matches = await asyncio.to_thread(shared_words, texts, questions, ask.words, ask.overlap)
    vectors = await _vectors(held, database, library, [training, *evaluation], ask)
    if vectors is not None:
        known = {match.evaluation for match in matches}
        near = await asyncio.to_thread(_near, vectors, len(texts), ask.cosine)
        matches += [match for match in near if match.evaluation not in known]
    matches.sort(key=lambda match: match.evaluation)
    found = [_leak(training, evaluation, match) for match in matches[:_KEPT]]
    async with database.unit() as unit:
        values = {"rows": len(texts), "evaluation_rows": len(questions), "leaks": len(matches)}
        values |= {"compared_vectors": vectors is not None}
        shown = [leak.model_dump(mode="json") for leak in found]
        if await store.end(unit, store.leak_checks, check_id, state="completed", found=shown, **values):
            fact = LeakCheckCompleted(
                check_id=check_id, name=row["name"], version=row["version"], rows=len(texts), leaks=len(matches)
            )
            unit.emit(fact, about=check_id)
        await finish(unit, held.work)


async def fail_check(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why the check could not be done."""
    check_id = UUID(work.payload["check_id"])
    if await store.end(unit, store.leak_checks, check_id, state="failed", problem=problem.model_dump()):
        unit.emit(LeakCheckFailed(check_id=check_id, problem=problem), about=check_id)


async def leak_warnings(engine: AsyncEngine, name: str, version: str) -> LeakWarnings:
    """What the newest checks of a version found; `checked` is false when there was none."""
    rows = await store.listed(engine, store.leak_checks, name, version)
    done = [row for row in rows if row["state"] == "completed"]
    newest = {str(row["against"]): row for row in reversed(done)}
    return LeakWarnings(checked=bool(done), warnings=[_warning(row) for row in newest.values() if row["leaks"]])


def _warning(row: Mapping[str, Any]) -> str:
    against = ", ".join(ref["name"] for ref in row["against"]) or "its own held-out rows"
    return (
        f"{row['leaks']} of {row['evaluation_rows']} evaluation rows ({against}) stand in the training rows of "
        f"{row['name']}: scores on them will be too high. `ltp dataset leaks {row['name']} --check {row['check_id']}`."
    )


async def _parts(library: Library, row: Mapping[str, Any], ask: LeakAsk) -> tuple[_Part, list[_Part]]:
    frozen = await library.frozen(VersionRef(name=row["name"], version=row["version"]))
    rows = await library.rows(frozen, ask.part)
    training = _Part(frozen, rows, _places(rows, None if ask.split is None else [ask.split]))
    if len(training.places) == 0:
        message = f"{row['name']} has no rows in split {ask.split}."
        raise LtpError(ErrorCode.DATASET_EMPTY, message, f"It has: {', '.join(sorted(frozen.splits))}.")
    own = [split for split in ask.own_splits if split != ask.split and split in frozen.splits and ask.split is not None]
    evaluation = [_Part(frozen, rows, _places(rows, own))] if own else []
    for ref in row["against"]:
        other = await library.frozen(VersionRef.model_validate(ref))
        held = await library.rows(other, ask.part)
        evaluation.append(_Part(other, held, _places(held, None)))
    if not evaluation:
        message = f"{row['name']} has no held-out split, and no evaluation set was named."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Name one with --against.")
    return training, evaluation


def _places(rows: RowsFile, splits: list[str] | None) -> NDArray[np.int64]:
    if splits is None:
        return np.arange(len(rows), dtype=np.int64)
    column = rows.table.column("split")
    mask = np.zeros(len(rows), dtype=np.bool_)
    for split in splits:
        mask |= pc.equal(column, split).to_numpy()
    return np.flatnonzero(mask)


async def _vectors(
    held: Held, database: Database, library: Library, parts: list[_Part], ask: LeakAsk
) -> NDArray[np.float32] | None:
    """The vectors of all parts, one after the other; None where they are not wanted or, unless insisted on, not there."""
    if ask.semantic is False:
        return None
    found: list[NDArray[np.float32]] = []
    for part in parts:
        if ask.semantic:
            vectors = await ensure_vectors(held, database, library, part.frozen, ask.part, ask.model)
        else:
            row = await latest(database.engine, part.frozen.version, ask.part, library.label(ask.model))
            if row is None:
                return None
            vectors = await vectors_of(database, library, part.frozen, row)
        found.append(vectors[part.places])
    if len({part.shape[1] for part in found}) > 1:
        message = "The versions were embedded with different models."
        raise LtpError(ErrorCode.VECTORS_INVALID, message, "Embed all of them with the same model.")
    return np.concatenate(found)


def _near(vectors: NDArray[np.float32], training: int, threshold: float) -> list[Match]:
    """For each evaluation row its nearest training row, where that reaches the threshold."""
    unit = unit_vectors(vectors)
    pairs = pairs_above(unit, threshold, protected=training, within=False, max_pairs=50_000_000)
    order = np.lexsort((pairs.earlier, -pairs.score, pairs.later))
    later = pairs.later[order]
    rows, first = np.unique(later, return_index=True)
    best = order[first]
    return [
        Match(int(row) - training, int(pairs.earlier[at]), "semantic", None, float(pairs.score[at]))
        for row, at in zip(rows.tolist(), best.tolist(), strict=True)
    ]


def _leak(training: _Part, evaluation: list[_Part], match: Match) -> Leak:
    starts = np.cumsum([0, *(len(part.places) for part in evaluation)])
    which = int(np.searchsorted(starts, match.evaluation, side="right")) - 1
    part = evaluation[which]
    theirs = int(part.places[match.evaluation - int(starts[which])])
    ours = int(training.places[match.training])
    return Leak(
        evaluation_name=part.frozen.name,
        evaluation_version=part.frozen.version,
        evaluation_split=part.rows.table.column("split")[theirs].as_py(),
        evaluation_row_id=part.rows.table.column("row_id")[theirs].as_py(),
        evaluation_text=(part.rows.table.column("text")[theirs].as_py() or "")[:_SHOWN_CHARACTERS],
        training_row_id=training.rows.table.column("row_id")[ours].as_py(),
        training_text=(training.rows.table.column("text")[ours].as_py() or "")[:_SHOWN_CHARACTERS],
        method=match.method,
        overlap=match.overlap,
        cosine=match.cosine,
    )
