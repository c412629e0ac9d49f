"""The evaluator's tables and the statements on evaluations, checkpoints and jobs; those on samples are in `store_samples`."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    String,
    Table,
    Text,
    Uuid,
    func,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.checkpoint import CheckpointExported, CheckpointWritten
from ltp.contracts.evaluation import ComparisonCompleted
from ltp.contracts.evaluation_questions import EvaluationQuery
from ltp.contracts.plan import PlanMade
from ltp.contracts.values import Problem
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from ltp.store.pages import in_order

SCHEMA = "evaluator"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

SubjectKind = Literal["base", "trained"]

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("made", JSONB, nullable=False),  # the PlanMade event: recipe, dataset, plan
    Column("best", JSONB),  # the checkpoint with the highest accuracy so far: evaluation_id, checkpoint_id, accuracy
    schema=SCHEMA,
)
evaluations = Table(
    "evaluations",
    metadata,
    Column("evaluation_id", Uuid, primary_key=True),
    # Of a job: its base model, its final checkpoint (`trained`), or a checkpoint on the way (no kind).
    Column("job_id", Uuid),
    Column("subject_kind", String),
    Column("model_path", String),
    Column("score", JSONB),
    Column("problem", JSONB),
    Column("asked_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    Column("state", String, nullable=False, server_default=text("'queued'")),
    Column("name", String),
    # run | rescored (of `source_id`) | imported
    Column("source", String, nullable=False, server_default=text("'run'")),
    Column("source_id", Uuid),
    Column("checkpoint_id", Uuid),
    Column("step", Integer),
    Column("model", JSONB),
    Column("dataset", JSONB),
    Column("spec", JSONB),
    Column("device_kind", String, nullable=False, server_default=text("'auto'")),
    Column("fingerprint", String),
    Column("total", Integer),
    Column("result", JSONB),
    Column("started_at", TIME),
    Column("first_answer_at", TIME),
    schema=SCHEMA,
)
_SORTED_BY = {name: evaluations.c[name] for name in ("name", "state", "step", "started_at", "ended_at")}
Index("ix_evaluations_job", evaluations.c.job_id)
Index("ix_evaluations_checkpoint", evaluations.c.checkpoint_id)
samples = Table(
    "samples",
    metadata,
    Column("evaluation_id", Uuid, primary_key=True),
    Column("row_id", String, primary_key=True),
    Column("sample", Integer, primary_key=True, server_default=text("0")),
    Column("prompt", Text, nullable=False),  # the last turn, for reading
    Column("messages", JSONB, nullable=False, server_default=text("'[]'")),
    Column("response", Text, nullable=False),
    Column("reference", Text),
    Column("finish_reason", String),
    Column("error", Text),
    Column("correct", Boolean, nullable=False),
    Column("outcome", String, nullable=False, server_default=text("'wrong'")),
    Column("value", Float),
    Column("truncated", Boolean, nullable=False, server_default=text("false")),
    Column("error_kind", String),
    Column("answer_key", String),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("latency_seconds", Float),
    Column("cached", Boolean, nullable=False, server_default=text("false")),
    Column("scorer", String, nullable=False, server_default=text("''")),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'")),
    schema=SCHEMA,
)
# Answers by what they depend on: model, prompt, sampling. They outlive the evaluation that asked for them.
answers = Table(
    "answers",
    metadata,
    Column("answer_key", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("response", Text, nullable=False),
    Column("finish_reason", String),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("latency_seconds", Float, nullable=False),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'")),
    Column("made_at", TIME, nullable=False, server_default=func.now()),
    schema=SCHEMA,
)
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("checkpoint_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("step", Integer, nullable=False),
    Column("is_final", Boolean, nullable=False),
    Column("path", String),  # set once exported
    Column("weights_sha256", String),
    Column("problem", JSONB),
    schema=SCHEMA,
)
comparisons = Table(
    "comparisons",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("comparison_id", Uuid, nullable=False),
    Column("result", JSONB, nullable=False),
    Column("made_at", TIME, nullable=False, server_default=func.now()),
    schema=SCHEMA,
)


async def open_job(unit: Unit, made: PlanMade) -> None:
    """Keep what evaluating a job's models needs."""
    values = {"job_id": made.job_id, "made": made.model_dump(mode="json")}
    await unit.execute(insert(jobs).values(**values).on_conflict_do_nothing())


async def job(unit: Unit, job_id: UUID) -> PlanMade | None:
    """What was kept of a job; None when its plan was not heard of yet."""
    made = (await unit.execute(select(jobs.c.made).where(jobs.c.job_id == job_id))).scalar_one_or_none()
    return None if made is None else PlanMade.model_validate(made)


async def lock_best(unit: Unit, job_id: UUID) -> dict[str, Any] | None:
    """The best checkpoint so far; holds the job's row, so that evaluations of one job are judged one after the other."""
    query = select(jobs.c.best).where(jobs.c.job_id == job_id).with_for_update()
    return (await unit.execute(query)).scalar_one_or_none()


async def set_best(unit: Unit, job_id: UUID, best: dict[str, Any]) -> None:
    """Note the best checkpoint."""
    await unit.execute(update(jobs).where(jobs.c.job_id == job_id).values(best=best))


async def see_checkpoint(unit: Unit, event: CheckpointWritten | CheckpointExported, **values: Any) -> None:
    """Note a checkpoint, as far as it is known."""
    known = {"job_id": event.job_id, "step": event.step, "is_final": event.is_final, **values}
    statement = insert(checkpoints).values(checkpoint_id=event.checkpoint_id, **known)
    await unit.execute(statement.on_conflict_do_update(index_elements=["checkpoint_id"], set_=known))


async def spoil_checkpoint(unit: Unit, checkpoint_id: UUID, problem: Problem) -> None:
    """Note why a checkpoint could not be exported."""
    statement = update(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id)
    await unit.execute(statement.values(problem=problem.model_dump()))


async def checkpoint(unit: Unit, checkpoint_id: UUID) -> RowMapping | None:
    """A checkpoint as far as it is known. Holds its row: it is being exported, or waited for, not both unseen."""
    query = select(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id).with_for_update()
    return (await unit.execute(query)).mappings().one_or_none()


async def find_checkpoint(engine: AsyncEngine, checkpoint_id: UUID) -> RowMapping | None:
    """A checkpoint, read without holding it."""
    async with engine.connect() as connection:
        query = select(checkpoints).where(checkpoints.c.checkpoint_id == checkpoint_id)
        return (await connection.execute(query)).mappings().one_or_none()


async def open_evaluation(unit: Unit, values: dict[str, Any]) -> bool:
    """Note an evaluation to be made; False when it is noted already."""
    return await unit.change(insert(evaluations).values(**values).on_conflict_do_nothing()) == 1


async def note(unit: Unit, evaluation_id: UUID, **values: Any) -> bool:
    """Record facts about an evaluation that is not over; False when it is. Dead work may be tried again: then it is not."""
    return await _change(unit, evaluation_id, _again(), values)


async def close_evaluation(unit: Unit, evaluation_id: UUID, state: str, **values: Any) -> bool:
    """Note how an evaluation ended; False when that is noted already. A success replaces a failure, nothing a success."""
    if "problem" in values:
        return await _change(unit, evaluation_id, evaluations.c.ended_at.is_(None), _ended(state, values))
    return await _change(unit, evaluation_id, _again(), _ended(state, {"problem": null()} | values))


def _ended(state: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"state": state, "ended_at": now()} | values


def _again() -> Any:
    return or_(evaluations.c.ended_at.is_(None), evaluations.c.state == "failed")


async def _change(unit: Unit, evaluation_id: UUID, guard: Any, values: dict[str, Any]) -> bool:
    statement = update(evaluations).where(evaluations.c.evaluation_id == evaluation_id, guard)
    return await unit.change(statement.values(**values)) == 1


async def evaluation(unit: Unit, evaluation_id: UUID) -> RowMapping | None:
    """One evaluation."""
    query = select(evaluations).where(evaluations.c.evaluation_id == evaluation_id)
    return (await unit.execute(query)).mappings().one_or_none()


async def waiting_for(unit: Unit, checkpoint_id: UUID) -> list[RowMapping]:
    """Evaluations that wait for a checkpoint's export."""
    query = select(evaluations).where(evaluations.c.checkpoint_id == checkpoint_id, evaluations.c.state == "waiting")
    return list((await unit.execute(query)).mappings().all())


async def find(engine: AsyncEngine, query: EvaluationQuery) -> list[RowMapping]:
    """A page of evaluations."""
    wanted = in_order(select(evaluations), query, evaluations.c.evaluation_id, _SORTED_BY)
    if query.evaluation_id is not None:
        wanted = wanted.where(evaluations.c.evaluation_id == query.evaluation_id)
    if query.job_id is not None:
        wanted = wanted.where(evaluations.c.job_id == query.job_id)
    if query.state is not None:
        wanted = wanted.where(evaluations.c.state == query.state)
    async with engine.connect() as connection:
        return list((await connection.execute(wanted)).mappings().all())


async def finished(unit: Unit, job_id: UUID) -> dict[str, UUID]:
    """Completed evaluations of a job, the newest of each kind. Locks the job, so that one comparison is made."""
    await unit.execute(select(jobs.c.job_id).where(jobs.c.job_id == job_id).with_for_update())
    return {row.subject_kind: row.evaluation_id for row in (await unit.execute(_scored(job_id))).all()}


async def scored_pair(engine: AsyncEngine, job_id: UUID) -> tuple[UUID, UUID] | None:
    """The evaluations of a job's base and trained model; None before both are complete."""
    async with engine.connect() as connection:
        found = {row.subject_kind: row.evaluation_id for row in (await connection.execute(_scored(job_id))).all()}
    return (found["base"], found["trained"]) if {"base", "trained"} <= set(found) else None


async def add_comparison(unit: Unit, comparison: ComparisonCompleted) -> bool:
    """Keep a comparison; False when the job has one already."""
    values = {
        "job_id": comparison.job_id,
        "comparison_id": comparison.comparison_id,
        "result": comparison.model_dump(mode="json"),
    }
    return await unit.change(insert(comparisons).values(**values).on_conflict_do_nothing()) == 1


def _scored(job_id: UUID) -> Any:
    query = select(evaluations.c.subject_kind, evaluations.c.evaluation_id).where(
        evaluations.c.job_id == job_id, evaluations.c.score.is_not(None), evaluations.c.subject_kind.is_not(None)
    )
    return query.order_by(evaluations.c.ended_at)
