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
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.dataset import DEFAULT_PROJECT
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
    schema=SCHEMA,
)
_VERSIONS_SORTED_BY = {name: datasets.c[name] for name in ("name", "rows", "size_bytes")}
Index("ix_datasets_name", datasets.c.name, datasets.c.uploaded_at)
# What holds for every version of a name.
names = Table(
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


async def open_dataset(unit: Unit, dataset_id: UUID, name: str, **values: Any) -> None:
    """Note that a dataset is on its way."""
    row = {"dataset_id": dataset_id, "name": name, **values}
    await unit.execute(insert(datasets).values(**row).on_conflict_do_nothing())


async def close_dataset(unit: Unit, dataset_id: UUID, **values: Any) -> bool:
    """Note how reading it ended; False when that is noted already."""
    # Dead work may be tried again: a success replaces a failure, nothing replaces a success.
    failed = false() if "problem" in values else datasets.c.problem.is_not(None)
    open_ = or_(datasets.c.ended_at.is_(None), failed)
    values = {"problem": null()} | values
    statement = update(datasets).where(datasets.c.dataset_id == dataset_id, open_)
    return await unit.change(statement.values(ended_at=now(), **values)) == 1


async def mark_name(unit: Unit, name: str, **values: Any) -> None:
    """Note what holds for every version of a name; values that are None stay as they were."""
    known = {key: value for key, value in values.items() if value is not None}
    statement = insert(names).values(name=name, **known)
    await unit.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_=known)
        if known
        else statement.on_conflict_do_nothing()
    )


async def inherit_personal(unit: Unit, name: str, parents: Sequence[str]) -> None:
    """Mark what is personal in the versions that a version of `name` was made of as personal in `name`."""
    found = select(names.c.personal).distinct().join(datasets, datasets.c.name == names.c.name)
    rows = (await unit.execute(found.where(datasets.c.version.in_(parents) | (names.c.name == name)))).scalars()
    await mark_name(unit, name, personal=sorted({field for marked in rows for field in marked}) or None)


async def set_quota(unit: Unit, project: str, quota_bytes: int | None) -> None:
    """Note a project's quota."""
    values = {"quota_bytes": quota_bytes}
    statement = insert(quotas).values(project=project, **values)
    await unit.execute(statement.on_conflict_do_update(index_elements=["project"], set_=values))


async def quota(engine: AsyncEngine, name: str, project: str | None = None) -> tuple[str, int | None, int]:
    """(project, quota, bytes used) of the project a name belongs to, or of `project` for a new name."""
    async with engine.connect() as connection:
        found = (await connection.execute(select(names.c.project).where(names.c.name == name))).scalar_one_or_none()
        project = str(found or project or DEFAULT_PROJECT)
        limit = select(quotas.c.quota_bytes).where(quotas.c.project == project)
        quota_bytes = (await connection.execute(limit)).scalar_one_or_none()
        # A version that two names or two uploads share lies on the disk once for each name.
        kept = (
            select(datasets.c.name, datasets.c.version, func.max(datasets.c.size_bytes).label("size"))
            .outerjoin(names, names.c.name == datasets.c.name)
            .where(datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None))
            .where(func.coalesce(names.c.project, DEFAULT_PROJECT) == project)
            .group_by(datasets.c.name, datasets.c.version)
            .subquery()
        )
        used = (await connection.execute(select(func.coalesce(func.sum(kept.c.size), 0)))).scalar_one()
    return project, quota_bytes, int(used)


async def mark_deleted(unit: Unit, name: str, version: str | None) -> Sequence[RowMapping]:
    """Note that versions are gone; returns the rows that were not gone before."""
    statement = update(datasets).where(
        datasets.c.name == name, datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None)
    )
    if version is not None:
        statement = statement.where(datasets.c.version == version)
    found = await unit.execute(statement.values(deleted_at=now()).returning(datasets.c.dataset_id, datasets.c.version))
    return found.mappings().all()


async def expired(engine: AsyncEngine, at: datetime) -> Sequence[RowMapping]:
    """Versions whose time is over: (name, version)."""
    age = func.make_interval(0, 0, 0, names.c.keep_days)
    query = (
        select(datasets.c.name, datasets.c.version)
        .join(names, names.c.name == datasets.c.name)
        .where(datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None), names.c.keep_days.is_not(None))
        .group_by(datasets.c.name, datasets.c.version, names.c.keep_days)
        .having(func.max(datasets.c.ended_at) + age < at)
    )
    return await _all(engine, cast(Any, query))


async def versions(engine: AsyncEngine, name: str | None, page: PageQuery) -> Sequence[RowMapping]:
    """A page of frozen versions, with what holds for their name."""
    query = (
        select(datasets, names.c.project, names.c.personal, names.c.keep_days)
        .outerjoin(names, names.c.name == datasets.c.name)
        .where(datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None))
    )
    query = in_order(query, page, datasets.c.dataset_id, _VERSIONS_SORTED_BY)
    return await _all(engine, query if name is None else query.where(datasets.c.name == name))


async def version(engine: AsyncEngine, name: str, prefix: str | None) -> Sequence[RowMapping]:
    """The versions of a name that begin with `prefix`, or its newest."""
    query = (
        select(datasets, names.c.project, names.c.personal, names.c.keep_days)
        .outerjoin(names, names.c.name == datasets.c.name)
        .where(datasets.c.name == name, datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None))
        .order_by(datasets.c.uploaded_at.desc(), datasets.c.dataset_id.desc())
    )
    if prefix is None:
        return await _all(engine, query.limit(1))
    return await _all(engine, query.where(datasets.c.version.startswith(prefix, autoescape=True)))


async def hashes(engine: AsyncEngine, name: str, prefix: str | None) -> list[str]:
    """The hashes of `version`'s versions, once each, by one trip to the database: every search asks this."""
    query = (
        select(datasets.c.version)
        .where(datasets.c.name == name, datasets.c.version.is_not(None), datasets.c.deleted_at.is_(None))
        .order_by(datasets.c.uploaded_at.desc(), datasets.c.dataset_id.desc())
    )
    query = query.limit(1) if prefix is None else query.where(datasets.c.version.startswith(prefix, autoescape=True))
    async with engine.connect() as connection:
        # One statement needs no transaction around it.
        plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
        return sorted({str(found) for found in (await plain.execute(query)).scalars()})


async def _all(engine: AsyncEngine, query: Select[Any]) -> Sequence[RowMapping]:
    async with engine.connect() as connection:
        return (await connection.execute(query)).mappings().all()
