"""Runs of pipelines, their stages, what was heard about them, and the lineage of what they made: tables and statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Uuid, func, select, text, update
from sqlalchemy import RowMapping as Row
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.dataset import DatasetFrozen
from ltp.contracts.pipeline import PipelineRunSubmitted, PipelineSpec, RunsRequest
from ltp.contracts.pipeline_graph import Node
from ltp.core.recipe import content_hash
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, metadata
from ltp.store.pages import in_order
from services.scheduler.pipelines.kinds import Facts
from services.scheduler.pipelines.policy import Stage

SCHEMA = "scheduler"

runs = Table(
    "pipeline_runs",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("spec", JSONB, nullable=False),
    Column("spec_hash", String, nullable=False),
    Column("state", String, nullable=False),
    Column("round", Integer, nullable=False, server_default=text("1")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    # Something was heard that it may wait for: to be looked at by the next scheduler that is free.
    Column("dirty", Boolean, nullable=False, server_default=text("true")),
    Column("idempotency_key", String, unique=True),
    Column("origin", JSONB, nullable=False),
    Column("trigger", JSONB, nullable=False),
    Column("inputs", JSONB, nullable=False),
    Column("problem", JSONB),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    Column("project", String, nullable=False, server_default=text("'default'")),
    schema=SCHEMA,
)
_SORTED_BY = {name: runs.c[name] for name in ("name", "state", "ended_at")}
Index("ix_pipeline_runs_dirty", runs.c.run_id, postgresql_where=runs.c.dirty)
stages = Table(
    "stages",
    metadata,
    Column("run_id", Uuid, ForeignKey(runs.c.run_id), primary_key=True),
    Column("key", String, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("needs", JSONB, nullable=False),
    Column("state", String, nullable=False, server_default=text("'waiting'")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("noun_id", Uuid, index=True),
    Column("settings", JSONB),
    Column("inputs", JSONB),
    Column("cache_key", String),
    Column("outputs", JSONB),
    Column("digest", String),
    Column("abort_asked", Boolean, nullable=False, server_default=text("false")),
    Column("problem", JSONB),
    Column("started_at", TIME),
    Column("ended_at", TIME),
    schema=SCHEMA,
)
Index("ix_stages_made", stages.c.cache_key, postgresql_where=stages.c.state == "succeeded")
facts = Table(
    "stage_facts",
    metadata,
    # What was heard about a noun that a stage waits for. Kept by name, so that order and repetition do not matter.
    Column("noun_id", Uuid, primary_key=True),
    Column("name", String, primary_key=True),
    Column("data", JSONB, nullable=False),
    schema=SCHEMA,
)
artefacts = Table(
    "artefacts",
    metadata,
    Column("digest", String, primary_key=True),
    Column("run_id", Uuid, primary_key=True),
    Column("stage", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("place", JSONB, nullable=False),
    # Name -> digest of what it was made from.
    Column("inputs", JSONB, nullable=False),
    Column("made_at", TIME, nullable=False),
    schema=SCHEMA,
)
Index("ix_artefacts_run", artefacts.c.run_id)
versions = Table(
    "titled_versions",
    metadata,
    Column("project", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("frozen_at", TIME, nullable=False),
    schema=SCHEMA,
)
armed = Table(
    "armed_pipelines",
    metadata,
    Column("name", String, primary_key=True),
    Column("pipeline_id", Uuid, nullable=False),
    Column("spec", JSONB, nullable=False),
    Column("armed_at", TIME, nullable=False),
    Column("project", String, nullable=False, server_default=text("'default'")),
    schema=SCHEMA,
)
# The versions while names were of all projects: nobody reads it any more.
Table(
    "dataset_versions",
    metadata,
    Column("name", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("frozen_at", TIME, nullable=False),
    schema=SCHEMA,
)


@dataclass(frozen=True)
class Run:
    """A run, held by the unit that read it."""

    run_id: UUID
    name: str
    spec: PipelineSpec
    state: str
    round: int
    cancel_requested: bool
    trigger: dict[str, Any]
    inputs: dict[str, str]
    project: str


async def add_run(unit: Unit, event: PipelineRunSubmitted, nodes: Sequence[Node]) -> bool:
    """Note a run and its stages; False when its id or its idempotency key is known."""
    spec = event.spec.model_dump(mode="json")
    values = {
        "run_id": event.run_id,
        "name": event.spec.name,
        "spec": spec,
        "spec_hash": content_hash(spec),
        "state": "running",
        "idempotency_key": event.idempotency_key,
        "origin": event.origin.model_dump(mode="json"),
        "trigger": event.trigger,
        "inputs": event.inputs,
        "project": event.project,
    }
    if not await unit.change(insert(runs).values(**values).on_conflict_do_nothing()):
        return False
    rows = [
        {"run_id": event.run_id, "key": n.key, "position": i, "kind": n.kind, "needs": list(n.needs)}
        for i, n in enumerate(nodes)
    ]
    await unit.execute(insert(stages), rows)
    return True


async def next_dirty(unit: Unit) -> UUID | None:
    """A run to look at that no other scheduler has in hand."""
    query = select(runs.c.run_id).where(runs.c.dirty).order_by(runs.c.run_id).limit(1)
    run_id = (await unit.execute(query.with_for_update(skip_locked=True))).scalar_one_or_none()
    if run_id is not None:
        await unit.execute(update(runs).where(runs.c.run_id == run_id).values(dirty=False))
    return run_id


async def lock_run(unit: Unit, run_id: UUID) -> Run | None:
    """A run, held until the unit ends."""
    row = (await unit.execute(select(runs).where(runs.c.run_id == run_id).with_for_update())).mappings().one_or_none()
    if row is None:
        return None
    spec = PipelineSpec.model_validate(row["spec"])
    names = ("run_id", "name", "state", "round", "cancel_requested", "trigger", "inputs", "project")
    return Run(spec=spec, **{name: row[name] for name in names})


async def note_run(unit: Unit, run_id: UUID, **values: Any) -> None:
    """Record facts about a run."""
    await unit.execute(update(runs).where(runs.c.run_id == run_id).values(**values))


async def stages_of(unit: Unit, run_id: UUID) -> list[Row]:
    """The stages of a run in their order."""
    query = select(stages).where(stages.c.run_id == run_id).order_by(stages.c.position)
    return list((await unit.execute(query)).mappings().all())


async def note_stage(unit: Unit, run_id: UUID, key: str, was: Sequence[str], **values: Any) -> bool:
    """Change a stage that is in one of the states `was`; False when it is not."""
    statement = update(stages).where(stages.c.run_id == run_id, stages.c.key == key, stages.c.state.in_(was))
    return await unit.change(statement.values(**values)) == 1


async def facts_of(unit: Unit, rows: Sequence[Row]) -> dict[str, Facts]:
    """What was heard about the noun of each stage that has one."""
    nouns = {row["noun_id"] for row in rows if row["noun_id"] is not None}
    found: dict[UUID, dict[str, Any]] = defaultdict(dict)
    for fact in (await unit.execute(select(facts).where(facts.c.noun_id.in_(nouns)))).all():
        found[fact.noun_id][fact.name] = fact.data
    return {row["key"]: found[row["noun_id"]] for row in rows if row["noun_id"] in nouns}


async def hear(unit: Unit, noun_id: UUID, name: str, data: dict[str, Any]) -> bool:
    """Note a fact about a noun if a stage waits for it, and let its runs be looked at."""
    mine = select(stages.c.run_id).where(stages.c.noun_id == noun_id)
    if (await unit.execute(mine.limit(1))).first() is None:
        return False
    await unit.execute(insert(facts).values(noun_id=noun_id, name=name, data=data).on_conflict_do_nothing())
    await unit.execute(update(runs).where(runs.c.run_id.in_(mine), runs.c.state == "running").values(dirty=True))
    return True


async def look_again(unit: Unit, kind: str | None = None) -> None:
    """Let every run be looked at that has a running stage, of this kind if one is named."""
    open_stages = select(stages.c.run_id).where(stages.c.state == "running")
    if kind is not None:
        open_stages = open_stages.where(stages.c.kind == kind)
    statement = update(runs).where(runs.c.state == "running", ~runs.c.dirty, runs.c.run_id.in_(open_stages))
    await unit.execute(statement.values(dirty=True))


async def find_made(unit: Unit, project: str, cache_key: str) -> list[Row]:
    """Stages of a project's runs that made something from the same inputs, newest first."""
    query = select(stages).join(runs, runs.c.run_id == stages.c.run_id).where(runs.c.project == project)
    query = query.where(stages.c.cache_key == cache_key, stages.c.state == "succeeded")
    return list((await unit.execute(query.order_by(stages.c.ended_at.desc()).limit(5))).mappings().all())


async def owner_of(unit: Unit, noun_id: UUID) -> Row | None:
    """The run (name, origin) that made a noun."""
    query = select(runs.c.name, runs.c.origin).join(stages, stages.c.run_id == runs.c.run_id)
    found = await unit.execute(query.where(stages.c.noun_id == noun_id).order_by(runs.c.run_id).limit(1))
    return found.mappings().one_or_none()


async def add_artefact(unit: Unit, row: Mapping[str, Any]) -> None:
    """Record what a stage made, and from what."""
    await unit.execute(insert(artefacts).values(made_at=now(), **row).on_conflict_do_nothing())


async def add_version(unit: Unit, event: DatasetFrozen, at: datetime) -> None:
    """Note a frozen dataset; the same version frozen again is the newest again."""
    values = {
        "project": event.project,
        "name": event.name,
        "version": event.version,
        "rows": event.rows,
        "frozen_at": at,
    }
    statement = insert(versions).values(**values)
    newer = statement.excluded.frozen_at > versions.c.frozen_at
    change = {"frozen_at": statement.excluded.frozen_at}
    await unit.execute(
        statement.on_conflict_do_update(index_elements=["project", "name", "version"], set_=change, where=newer)
    )


async def frozen_version(unit: Unit, project: str, name: str, version: str | None) -> dict[str, Any] | None:
    """A version of a project's dataset, or its newest."""
    query = select(versions).where(versions.c.project == project, versions.c.name == name)
    query = query.order_by(versions.c.frozen_at.desc()).limit(1)
    if version is not None:
        query = query.where(versions.c.version == version)
    row = (await unit.execute(query)).mappings().one_or_none()
    return None if row is None else {"name": row["name"], "version": row["version"], "rows": row["rows"]}


async def arm(unit: Unit, pipeline_id: UUID, spec: PipelineSpec, at: datetime, project: str) -> bool:
    """Arm a pipeline, in place of an older one of its name; False when a newer one is armed."""
    values = {"pipeline_id": pipeline_id, "spec": spec.model_dump(mode="json"), "armed_at": at, "project": project}
    statement = insert(armed).values(name=spec.name, **values)
    newer = statement.excluded.armed_at >= armed.c.armed_at
    return await unit.change(statement.on_conflict_do_update(index_elements=["name"], set_=values, where=newer)) == 1


async def disarm(unit: Unit, name: str) -> bool:
    """Forget an armed pipeline; False when none of this name is."""
    return await unit.change(armed.delete().where(armed.c.name == name)) == 1


async def all_armed(unit: Unit) -> list[Row]:
    """Armed pipelines by name."""
    return list((await unit.execute(select(armed).order_by(armed.c.name))).mappings().all())


async def page(engine: AsyncEngine, request: RunsRequest) -> list[Row]:
    """A page of runs."""
    query = in_order(select(runs), request, runs.c.run_id, _SORTED_BY)
    if request.state is not None:
        query = query.where(runs.c.state == request.state)
    async with engine.connect() as connection:
        return list((await connection.execute(query)).mappings().all())


async def find_run(unit: Unit, run_id: UUID | None, key: str | None) -> Row | None:
    """A run by its id or its idempotency key."""
    query = select(runs).where(runs.c.run_id == run_id if run_id is not None else runs.c.idempotency_key == key)
    return (await unit.execute(query)).mappings().one_or_none()


async def digests_of(unit: Unit, run_id: UUID) -> list[str]:
    """Digests of what a run made or reused, the last stage's first."""
    query = select(stages.c.digest).where(stages.c.run_id == run_id, stages.c.digest.is_not(None))
    return list((await unit.execute(query.order_by(stages.c.position.desc()))).scalars().all())


async def made(unit: Unit, digests: Sequence[str]) -> list[Row]:
    """Who made these artefacts, the first maker of each first."""
    query = select(artefacts).where(artefacts.c.digest.in_(digests)).order_by(artefacts.c.made_at)
    return list((await unit.execute(query)).mappings().all())


def as_stage(row: Row) -> Stage:
    """A row as the policy sees it."""
    return Stage(row["key"], row["state"], row["outputs"], row["digest"], row["settings"], row["abort_asked"])
