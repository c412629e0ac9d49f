"""The dataset service's tables and every statement it runs on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    RowMapping,
    Select,
    String,
    Table,
    Uuid,
    false,
    func,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.pages import PageQuery
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from ltp.store.pages import in_order

SCHEMA = "dataset"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

datasets = Table(
    "datasets",
    metadata,
    Column("dataset_id", Uuid, primary_key=True),
    Column("name", String, nullable=False),
    Column("source_sha256", String),
    Column("version", String),
    Column("rows", Integer),
    Column("splits", JSONB),
    Column("problem", JSONB),
    Column("uploaded_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    Column("source", String),
    Column("format", String),
    Column("evidence", String),
    Column("duplicates", Integer),
    Column("size_bytes", BigInteger),
    Column("parents", JSONB),
    Column("reason", String),
    Column("provenance", JSONB),
    Column("deleted_at", TIME),
    Column("project", String, nullable=False, server_default=text("'default'")),
    schema=SCHEMA,
)
_VERSIONS_SORTED_BY = {name: datasets.c[name] for name in ("name", "rows", "size_bytes")}
Index("ix_datasets_name", datasets.c.name, datasets.c.uploaded_at)
# What holds for every version of a name in a project.
titles = Table(
    "titles",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("personal", JSONB, nullable=False, server_default=text("'[]'")),
    Column("keep_days", Integer),
    schema=SCHEMA,
)
_MARKED = (titles.c.project == datasets.c.project) & (titles.c.name == datasets.c.name)
_ALIVE = datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None)
# The same while names were of all projects: nobody reads it any more.
Table(
    "names",
    metadata,
    Column("name", String, primary_key=True),
    Column("project", String, nullable=False, server_default=text("'default'")),
    Column("personal", JSONB, nullable=False, server_default=text("'[]'")),
    Column("keep_days", Integer),
    schema=SCHEMA,
)
quotas = Table(
    "quotas",
    metadata,
    Column("project", String, primary_key=True),
    Column("quota_bytes", BigInteger),
    schema=SCHEMA,
)


async def open_dataset(unit: Unit, dataset_id: UUID, project: str, name: str, **values: Any) -> None:
    """Note that a dataset is on its way."""
    row = {"dataset_id": dataset_id, "project": project, "name": name, **values}
    await unit.execute(insert(datasets).values(**row).on_conflict_do_nothing())


async def close_dataset(unit: Unit, dataset_id: UUID, **values: Any) -> bool:
    """Note how reading it ended; False when that is noted already."""
    # Dead work may be tried again: a success replaces a failure, nothing replaces a success.
    failed = false() if "problem" in values else datasets.c.problem.is_not(None)
    open_ = or_(datasets.c.ended_at.is_(None), failed)
    values = {"problem": null()} | values
    statement = update(datasets).where(datasets.c.dataset_id == dataset_id, open_)
    return await unit.change(statement.values(ended_at=now(), **values)) == 1


async def mark_name(unit: Unit, project: str, name: str, **values: Any) -> None:
    """Note what holds for every version of a name; values that are None stay as they were."""
    known = {key: value for key, value in values.items() if value is not None}
    statement = insert(titles).values(project=project, name=name, **known)
    await unit.execute(
        statement.on_conflict_do_update(index_elements=["project", "name"], set_=known)
        if known
        else statement.on_conflict_do_nothing()
    )


async def inherit_personal(unit: Unit, project: str, name: str, parents: Sequence[str], of: str | None) -> None:
    """Mark what is personal in the versions (of project `of`, if of one) that a version was made of in its name too."""
    made_of = datasets.c.version.in_(parents)
    if of is not None:
        made_of &= datasets.c.project == of
    own = (titles.c.project == project) & (titles.c.name == name)
    found = select(titles.c.personal).distinct().join(datasets, _MARKED)
    rows = (await unit.execute(found.where(made_of | own))).scalars()
    personal = sorted({field for marked in rows for field in marked})
    await mark_name(unit, project, name, personal=personal or None)


async def set_quota(unit: Unit, project: str, quota_bytes: int | None) -> None:
    """Note a project's quota."""
    values = {"quota_bytes": quota_bytes}
    statement = insert(quotas).values(project=project, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["project"], set_=values))


async def quota(engine: AsyncEngine, project: str) -> tuple[int | None, int]:
    """(quota, bytes used) of a project."""
    async with engine.connect() as connection:
        limit = select(quotas.c.quota_bytes).where(quotas.c.project == project)
        quota_bytes = (await connection.execute(limit)).scalar_one_or_none()
        # A version that two names or two uploads share counts once for each name.
        kept = (
            select(datasets.c.name, datasets.c.version, func.max(datasets.c.size_bytes).label("size"))
            .where(*_ALIVE, datasets.c.project == project)
            .group_by(datasets.c.name, datasets.c.version)
            .subquery()
        )
        used = (await connection.execute(select(func.coalesce(func.sum(kept.c.size), 0)))).scalar_one()
    return quota_bytes, int(used)


async def mark_deleted(unit: Unit, project: str, name: str, version: str | None) -> Sequence[RowMapping]:
    """Note that versions are gone; returns the rows that were not gone before."""
    statement = update(datasets).where(datasets.c.project == project, datasets.c.name == name, *_ALIVE)
    if version is not None:
        statement = statement.where(datasets.c.version == version)
    found = await unit.execute(statement.values(deleted_at=now()).returning(datasets.c.dataset_id, datasets.c.version))
    return found.mappings().all()


async def expired(engine: AsyncEngine, at: datetime) -> Sequence[RowMapping]:
    """Versions whose time is over: (project, name, version)."""
    age = func.make_interval(0, 0, 0, titles.c.keep_days)
    query = (
        select(datasets.c.project, datasets.c.name, datasets.c.version)
        .join(titles, _MARKED)
        .where(*_ALIVE, titles.c.keep_days.is_not(None))
        .group_by(datasets.c.project, datasets.c.name, datasets.c.version, titles.c.keep_days)
        .having(func.max(datasets.c.ended_at) + age < at)
    )
    return await _all(engine, cast(Any, query))


async def versions(engine: AsyncEngine, project: str | None, name: str | None, page: PageQuery) -> Sequence[RowMapping]:
    """A page of frozen versions, with what holds for their name."""
    query = in_order(_detailed(), page, datasets.c.dataset_id, _VERSIONS_SORTED_BY)
    for column, wanted in ((datasets.c.project, project), (datasets.c.name, name)):
        query = query if wanted is None else query.where(column == wanted)
    return await _all(engine, query)


async def version(engine: AsyncEngine, project: str, name: str, version: str) -> Sequence[RowMapping]:
    """The rows of a version, the newest first."""
    query = _detailed().where(datasets.c.project == project, datasets.c.name == name, datasets.c.version == version)
    return await _all(engine, query.order_by(datasets.c.uploaded_at.desc(), datasets.c.dataset_id.desc()))


async def is_kept(engine: AsyncEngine, name: str, version: str) -> bool:
    """Whether any project has the version under this name: they share its files."""
    query = select(datasets.c.dataset_id).where(datasets.c.name == name, datasets.c.version == version, *_ALIVE)
    return bool(await _all(engine, cast(Any, query.limit(1))))


async def hashes(engine: AsyncEngine, project: str | None, name: str, prefix: str | None) -> list[tuple[str, str]]:
    """(project, hash) of a name's versions that begin with `prefix`, or of the newest in each project, once each.

    One trip to the database: every search asks this.
    """
    newest = datasets.c.uploaded_at.desc(), datasets.c.dataset_id.desc()
    query = select(datasets.c.project, datasets.c.version).where(datasets.c.name == name, *_ALIVE)
    if project is not None:
        query = query.where(datasets.c.project == project)
    if prefix is None:
        query = query.ext(distinct_on(datasets.c.project)).order_by(datasets.c.project, *newest)
    else:
        query = query.where(datasets.c.version.startswith(prefix, autoescape=True))
    async with engine.connect() as connection:
        # One statement needs no transaction around it.
        plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
        return sorted({(str(whose), str(found)) for whose, found in await plain.execute(query)})


def _detailed() -> Select[Any]:
    marks = titles.c.personal, titles.c.keep_days
    return select(datasets, *marks).outerjoin(titles, _MARKED).where(*_ALIVE)


async def _all(engine: AsyncEngine, query: Select[Any]) -> Sequence[RowMapping]:
    async with engine.connect() as connection:
        return (await connection.execute(query)).mappings().all()
