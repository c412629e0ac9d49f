"""The work of checking a training version against evaluation sets, and what submitters are warned of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.dedup import LeakAsk, LeakCheckCompleted, LeakCheckFailed, LeakWarnings, VersionRef
from ltp.contracts.pages import PageQuery
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.dataset.apart import apart
from services.dataset.dedup import store
from services.dataset.dedup.leaks import Part, find_leaks
from services.dataset.vectors.library import Library
from services.dataset.vectors.rows import Frozen
from services.dataset.vectors.store import latest
from services.dataset.vectors.work import ensure_vectors, vectors_of


async def check_leaks(held: Held, database: Database, library: Library) -> None:
    """Find the evaluation rows that the training rows give away, say how many."""
    check_id = UUID(held.work.payload["check_id"])
    row = await store.one(database.engine, store.leak_checks, check_id)
    assert row is not None
    async with database.unit() as unit:
        await store.change(unit, store.leak_checks, check_id, state="running")
    ask = LeakAsk.model_validate(row["ask"])
    training, evaluation = await _parts(library, row, ask)
    vectors = await _vectors(held, database, library, [training, *evaluation], ask)
    found = await apart(find_leaks, training, evaluation, ask, vectors, cancelled=held.cancelled)
    async with database.unit() as unit:
        values = {"rows": found.rows, "evaluation_rows": found.evaluation_rows, "leaks": found.leaks}
        values |= {"compared_vectors": vectors is not None}
        shown = [leak.model_dump(mode="json") for leak in found.first]
        if await store.end(unit, store.leak_checks, check_id, state="completed", found=shown, **values):
            fact = LeakCheckCompleted(
                check_id=check_id, name=row["name"], version=row["version"], rows=found.rows, leaks=found.leaks
            )
            unit.emit(fact, about=check_id)
        await finish(unit, held.work)


async def fail_check(unit: Unit, work: Work, problem: Problem) -> None:
    """Say why the check could not be done."""
    check_id = UUID(work.payload["check_id"])
    if await store.end(unit, store.leak_checks, check_id, state="failed", problem=problem.model_dump()):
        unit.emit(LeakCheckFailed(check_id=check_id, problem=problem), about=check_id)


async def leak_warnings(engine: AsyncEngine, project: str | None, name: str, version: str) -> LeakWarnings:
    """What the newest checks of a project (None: of any) of a version found; `checked` is false when there was none."""
    rows = await store.listed(engine, store.leak_checks, name, PageQuery(limit=100), version)
    done = [row for row in rows if row["state"] == "completed" and project in {None, row["project"]}]
    newest = {str(row["against"]): row for row in reversed(done)}
    return LeakWarnings(checked=bool(done), warnings=[_warning(row) for row in newest.values() if row["leaks"]])


def _warning(row: Mapping[str, Any]) -> str:
    against = ", ".join(ref["name"] for ref in row["against"]) or "its own held-out rows"
    return (
        f"{row['leaks']} of {row['evaluation_rows']} evaluation rows ({against}) stand in the training rows of "
        f"{row['name']}: scores on them will be too high. `ltp dataset leaks {row['name']} --check {row['check_id']}`."
    )


async def _parts(library: Library, row: Mapping[str, Any], ask: LeakAsk) -> tuple[Part, list[Part]]:
    frozen = await library.frozen(VersionRef(name=row["name"], version=row["version"]))

    def part(of: Frozen, splits: list[str] | None) -> Part:
        return Part(of, library.folder / "rows" / of.version, ask.part, splits)

    if ask.split is not None and ask.split not in frozen.splits:
        message = f"{row['name']} has no rows in split {ask.split}."
        raise LtpError(ErrorCode.DATASET_EMPTY, message, f"It has: {', '.join(sorted(frozen.splits))}.")
    own = [split for split in ask.own_splits if split != ask.split and split in frozen.splits and ask.split is not None]
    evaluation = [part(frozen, own)] if own else []
    evaluation += [part(await library.frozen(VersionRef.model_validate(ref)), None) for ref in row["against"]]
    if not evaluation:
        message = f"{row['name']} has no held-out split, and no evaluation set was named."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Name one with --against.")
    return part(frozen, None if ask.split is None else [ask.split]), evaluation


async def _vectors(
    held: Held, database: Database, library: Library, parts: list[Part], ask: LeakAsk
) -> list[Path] | None:
    """The vectors' file of each part; None where they are not wanted or, unless insisted on, not there."""
    if ask.semantic is False:
        return None
    found: list[Path] = []
    for part in parts:
        if ask.semantic:
            found.append(await ensure_vectors(held, database, library, part.frozen, ask.part, ask.model))
            continue
        row = await latest(database.engine, part.frozen.version, ask.part, library.label(ask.model))
        if row is None:
            return None
        found.append(await vectors_of(database, library, part.frozen, row))
    return found
