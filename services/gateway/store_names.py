"""Which dataset a name means: names are each project's own, and an id says whose it is."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, String, cast, func, select
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.core.lifecycle import JOB, JobState
from ltp.core.names import require_one_project
from ltp.security.identity import DEFAULT_PROJECT
from ltp.store.acting import sought_in
from services.gateway.store import datasets, jobs
from services.gateway.store_owners import owners


async def frozen_version(engine: AsyncEngine, name: str, version: str | None) -> Row | None:
    """The named version of a dataset, or its newest, in the project on whose behalf is acted.

    An administrator who named no project means whoever has it. Raises CONFLICT when several have.
    """
    whose, project = _whose(datasets.c.dataset_id), sought_in()
    query = select(datasets, whose.label("project")).where(datasets.c.name == name, datasets.c.state == "frozen")
    if version is not None:
        query = query.where(datasets.c.version == version)
    if project is not None:
        query = query.where(whose == project)
    found = await _all(engine, query.ext(distinct_on(whose)).order_by(whose, datasets.c.dataset_id.desc()))
    require_one_project(name, {row["project"] for row in found})
    return found[0] if found else None


async def project_of(engine: AsyncEngine, dataset_id: UUID) -> str:
    """Whose a dataset is."""
    query = select(_whose(datasets.c.dataset_id).label("project")).where(datasets.c.dataset_id == dataset_id)
    found = await _all(engine, query)
    return str(found[0]["project"]) if found else DEFAULT_PROJECT


async def jobs_on_dataset(engine: AsyncEngine, project: str, name: str, version: str | None) -> list[UUID]:
    """A project's jobs that are not over and learn from a version of a dataset, or from any of a name's."""
    over = [state for state in JobState if JOB.is_over(state)]
    query = select(jobs.c.job_id).where(jobs.c.state.not_in(over), jobs.c.dataset["name"].astext == name)
    query = query.where(func.coalesce(jobs.c.dataset["belongs_to"].astext, _whose(jobs.c.job_id)) == project)
    if version is not None:
        query = query.where(jobs.c.dataset["version"].astext == version)
    return [row["job_id"] for row in await _all(engine, query)]


def _whose(noun: ColumnElement[UUID]) -> ColumnElement[str]:
    # What nobody claimed was there before projects were.
    owner = select(owners.c.project).where(owners.c.noun == cast(noun, String)).scalar_subquery()
    return func.coalesce(owner, DEFAULT_PROJECT)


async def _all(engine: AsyncEngine, query: Any) -> list[Row]:
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())
