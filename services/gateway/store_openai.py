"""Files and fine-tuning jobs of the OpenAI API: what its clients call them, beside the datasets and jobs that they are."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, String, Table, Uuid, func, select, update
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from services.gateway.store import SCHEMA, datasets, jobs

files = Table(
    "files",
    metadata,
    # Also the id of the dataset it becomes.
    Column("file_id", Uuid, primary_key=True),
    Column("project", String, nullable=False),
    Column("filename", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("deleted_at", TIME),
    schema=SCHEMA,
)
tunings = Table(
    "tunings",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("project", String, nullable=False),
    Column("body", JSONB, nullable=False),
    # As far as it is known before its rows are counted.
    Column("recipe", JSONB, nullable=False),
    # validating, submitted (the job says how it goes on), failed or cancelled before it was submitted.
    Column("state", String, nullable=False),
    Column("problem", JSONB(none_as_null=True)),
    Column("created_at", TIME, nullable=False),
    schema=SCHEMA,
)


async def add_file(unit: Unit, row: dict[str, Any]) -> None:
    """Note a file."""
    await unit.execute(insert(files).values(**row))


async def find_files(
    engine: AsyncEngine, project: str | None, *, file_id: UUID | None = None, purpose: str | None = None
) -> list[Row]:
    """Files of a project (or all) that are not deleted, newest first, each with the state of its dataset."""
    of = files.outerjoin(datasets, datasets.c.dataset_id == files.c.file_id)
    columns = [*files.c, datasets.c.state, datasets.c.problem, datasets.c.rows, datasets.c.version]
    query = select(*columns).select_from(of).where(files.c.deleted_at.is_(None)).order_by(files.c.file_id.desc())
    for column, wanted in ((files.c.project, project), (files.c.file_id, file_id), (files.c.purpose, purpose)):
        if wanted is not None:
            query = query.where(column == wanted)
    return await _all(engine, query)


async def delete_file(unit: Unit, file_id: UUID) -> None:
    """Show it no more; what was trained on it keeps its rows."""
    await unit.execute(update(files).where(files.c.file_id == file_id).values(deleted_at=func.now()))


async def add_tuning(unit: Unit, row: dict[str, Any]) -> None:
    """Note a fine-tuning job that waits for its file."""
    await unit.execute(insert(tunings).values(state="validating", **row))


async def find_tunings(
    engine: AsyncEngine,
    project: str | None,
    *,
    job_id: UUID | None = None,
    before: UUID | None = None,
    limit: int = 100,
) -> list[Row]:
    """Fine-tuning jobs of a project (or all), newest first, each with its job."""
    of = tunings.outerjoin(jobs, jobs.c.job_id == tunings.c.job_id)
    told = [jobs.c[name].label(f"job_{name}") for name in ("state", "problem", "started_at", "ended_at", "requested")]
    query = select(*tunings.c, *told).select_from(of).order_by(tunings.c.job_id.desc()).limit(limit)
    for column, wanted in ((tunings.c.project, project), (tunings.c.job_id, job_id)):
        if wanted is not None:
            query = query.where(column == wanted)
    return await _all(engine, query if before is None else query.where(tunings.c.job_id < before))


async def waiting_tunings(engine: AsyncEngine) -> list[Row]:
    """Those whose file is read or refused, so that they can go on."""
    of = tunings.join(datasets, datasets.c.dataset_id == tunings.c.body["_file_id"].astext.cast(Uuid))
    over = datasets.c.state.in_(("frozen", "rejected", "deleted"))
    columns = [*tunings.c, datasets.c.state.label("file_state"), datasets.c.rows, datasets.c.version]
    columns += [datasets.c.name.label("dataset_name"), datasets.c.problem.label("file_problem")]
    return await _all(engine, select(*columns).select_from(of).where(tunings.c.state == "validating", over))


async def settle_tuning(unit: Unit, job_id: UUID, state: str, problem: dict[str, Any] | None = None) -> bool:
    """Move on from validating; False when somebody did so before."""
    where = (tunings.c.job_id == job_id, tunings.c.state == "validating")
    return await unit.change(update(tunings).where(*where).values(state=state, problem=problem)) == 1


async def _all(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings())
