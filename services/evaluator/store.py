"""The evaluator's tables and every statement it runs on them: evaluations, samples, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Boolean, Column, String, Table, Text, Uuid, false, func, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.evaluation import ComparisonCompleted
from ltp.contracts.plan import PlanMade
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.metadata import TIME, inbox_table, metadata, outbox_table
from services.evaluator.policy import Sample, is_right

SCHEMA = "evaluator"
outbox_table(SCHEMA)
inbox_table(SCHEMA)

SubjectKind = Literal["base", "trained"]

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("made", JSONB, nullable=False),  # the PlanMade event: recipe, dataset, plan
    schema=SCHEMA,
)
evaluations = Table(
    "evaluations",
    metadata,
    Column("evaluation_id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("subject_kind", String, nullable=False),
    Column("model_path", String, nullable=False),
    Column("score", JSONB),
    Column("problem", JSONB),
    Column("asked_at", TIME, nullable=False, server_default=func.now()),
    Column("ended_at", TIME),
    schema=SCHEMA,
)
samples = Table(
    "samples",
    metadata,
    Column("evaluation_id", Uuid, primary_key=True),
    Column("row_id", String, primary_key=True),
    Column("prompt", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("finish_reason", String),
    Column("error", Text),
    Column("correct", Boolean, nullable=False),
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


async def open_evaluation(unit: Unit, job_id: UUID, kind: SubjectKind, model_path: str) -> UUID:
    """Note an evaluation to be made."""
    evaluation_id = new_id()
    values = {"evaluation_id": evaluation_id, "job_id": job_id, "subject_kind": kind, "model_path": model_path}
    await unit.execute(insert(evaluations).values(**values))
    return evaluation_id


async def close_evaluation(unit: Unit, evaluation_id: UUID, **values: Any) -> bool:
    """Note how an evaluation ended; False when that is noted already."""
    # Dead work may be tried again: a success replaces a failure, nothing replaces a success.
    failed = false() if "problem" in values else evaluations.c.problem.is_not(None)
    open_ = or_(evaluations.c.ended_at.is_(None), failed)
    values = {"problem": null()} | values
    statement = update(evaluations).where(evaluations.c.evaluation_id == evaluation_id, open_)
    return await unit.change(statement.values(ended_at=now(), **values)) == 1


async def add_samples(
    unit: Unit, evaluation_id: UUID, answered: Sequence[Sample], prompts: Mapping[str, str], scorer: str
) -> None:
    """Keep every row's answer, with its question and whether it was right."""
    rows = [
        {
            "evaluation_id": evaluation_id,
            "prompt": prompts[sample.row_id],
            "correct": is_right(sample, scorer),
            **vars(sample),
        }
        for sample in answered
    ]
    await unit.execute(insert(samples), rows)


async def finished(unit: Unit, job_id: UUID) -> dict[str, UUID]:
    """Completed evaluations of a job, the newest of each kind. Locks the job, so that one comparison is made."""
    await unit.execute(select(jobs.c.job_id).where(jobs.c.job_id == job_id).with_for_update())
    query = select(evaluations.c.subject_kind, evaluations.c.evaluation_id).where(
        evaluations.c.job_id == job_id, evaluations.c.score.is_not(None)
    )
    rows = await unit.execute(query.order_by(evaluations.c.ended_at))
    return {row.subject_kind: row.evaluation_id for row in rows.all()}


async def samples_of(unit: Unit, evaluation_id: UUID) -> list[Sample]:
    """The kept answers of an evaluation."""
    query = select(samples).where(samples.c.evaluation_id == evaluation_id).order_by(samples.c.row_id)
    return [_sample(row) for row in (await unit.execute(query)).mappings().all()]


async def add_comparison(unit: Unit, comparison: ComparisonCompleted) -> bool:
    """Keep a comparison; False when the job has one already."""
    values = {
        "job_id": comparison.job_id,
        "comparison_id": comparison.comparison_id,
        "result": comparison.model_dump(mode="json"),
    }
    return await unit.change(insert(comparisons).values(**values).on_conflict_do_nothing()) == 1


_PAIRS = text("""
    SELECT b.row_id, b.prompt, b.reference, b.response AS base_response, t.response AS trained_response,
           b.correct AS base_correct, t.correct AS trained_correct,
           CASE WHEN t.correct AND NOT b.correct THEN 'improved' WHEN b.correct AND NOT t.correct THEN 'regressed'
                ELSE 'unchanged' END AS change
    FROM evaluator.samples b JOIN evaluator.samples t ON t.row_id = b.row_id
    WHERE b.evaluation_id = :base AND t.evaluation_id = :trained
""")


async def pairs(engine: AsyncEngine, job_id: UUID) -> list[dict[str, Any]]:
    """Rows of a job's comparison with both answers; empty before both evaluations are complete."""
    query = select(evaluations.c.subject_kind, evaluations.c.evaluation_id).where(
        evaluations.c.job_id == job_id, evaluations.c.score.is_not(None)
    )
    async with engine.connect() as connection:
        scored = await connection.execute(query.order_by(evaluations.c.ended_at))
        found = {row.subject_kind: row.evaluation_id for row in scored.all()}
        if set(found) != {"base", "trained"}:
            return []
        rows = await connection.execute(_PAIRS, {"base": found["base"], "trained": found["trained"]})
        return [dict(row) for row in rows.mappings().all()]


def _sample(row: Any) -> Sample:
    return Sample(row["row_id"], row["response"], row["reference"], row["finish_reason"], row["error"])
