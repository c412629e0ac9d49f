"""One evaluation from its rows to its score, and the comparison that follows when both models are scored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from ltp.contracts.dataset import Split
from ltp.contracts.evaluation import ComparisonCompleted, EvaluationCompleted, EvaluationFailed
from ltp.contracts.event import Value
from ltp.contracts.recipe import EvaluationSpec
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.clock import new_id
from ltp.store.database import Database, Unit
from services.evaluator import policy, store
from services.evaluator.inference import InferenceServer
from services.evaluator.rows import read_rows
from services.evaluator.settings import EvaluatorSettings


class EvaluationWork(Value):
    """What a worker needs to make an evaluation: the payload of the work."""

    evaluation_id: UUID
    job_id: UUID
    subject_kind: store.SubjectKind
    model_path: str
    checkpoint_id: UUID | None
    spec: EvaluationSpec
    split: Split


async def evaluate(held: Held, database: Database, settings: EvaluatorSettings) -> None:
    """Serve the model, ask it every held-out row, score, and commit the score with its samples and its telling."""
    work = EvaluationWork.model_validate(held.work.payload)
    if held.work.placement is None:
        raise LtpError(ErrorCode.INTERNAL, "Evaluation work came without a placement.", "See the scheduler's log.")
    rows = await asyncio.to_thread(read_rows, Path(work.split.path), work.spec.max_rows)
    log = settings.root() / "evaluations" / f"{work.evaluation_id}.log"
    server = InferenceServer(
        Path(work.model_path),
        python=settings.evaluator_python,
        device_kind=held.work.placement.device_kind,
        device_indexes=held.work.placement.device_indexes,
        log_path=log,
    )
    async with server:
        completions = await server.complete(
            [row.prompt for row in rows],
            max_new_tokens=work.spec.max_new_tokens,
            concurrency=settings.evaluator_concurrency,
        )
    samples = policy.grade(rows, completions, work.spec.scorer)
    score = policy.score_of(samples)
    async with database.unit() as unit:
        if await store.close_evaluation(unit, work.evaluation_id, score=score.model_dump()):
            await store.add_samples(unit, work.evaluation_id, samples)
            unit.emit(_completed(work, score), about=work.evaluation_id)
            await _compare(unit, work.job_id)
        await finish(unit, held.work)


async def tell_failure(unit: Unit, held: Work, problem: Problem) -> None:
    """Say that a model could not be scored."""
    work = EvaluationWork.model_validate(held.payload)
    if await store.close_evaluation(unit, work.evaluation_id, problem=problem.model_dump()):
        fact = EvaluationFailed(
            evaluation_id=work.evaluation_id,
            job_id=work.job_id,
            subject_kind=work.subject_kind,
            problem=problem,
        )
        unit.emit(fact, about=work.evaluation_id)


async def _compare(unit: Unit, job_id: UUID) -> None:
    """Compare base and trained model once both are scored, on the rows both answered."""
    scored = await store.finished(unit, job_id)
    if set(scored) != {"base", "trained"}:
        return
    (base_id, base), (trained_id, trained) = scored["base"], scored["trained"]
    paired = policy.compare(await store.samples_of(unit, base_id), await store.samples_of(unit, trained_id))
    comparison = ComparisonCompleted(
        comparison_id=new_id(),
        job_id=job_id,
        base=base,
        trained=trained,
        improved=paired.improved,
        regressed=paired.regressed,
        unchanged=paired.unchanged,
        difference=paired.difference,
        difference_low=paired.difference_low,
        difference_high=paired.difference_high,
        p_value=paired.p_value,
        verdict=paired.verdict,
    )
    if await store.add_comparison(unit, comparison):
        unit.emit(comparison, about=comparison.comparison_id)


def _completed(work: EvaluationWork, score: policy.Score) -> EvaluationCompleted:
    return EvaluationCompleted(
        evaluation_id=work.evaluation_id,
        job_id=work.job_id,
        subject_kind=work.subject_kind,
        model_path=work.model_path,
        checkpoint_id=work.checkpoint_id,
        score=score,
        scorer=work.spec.scorer,
    )
