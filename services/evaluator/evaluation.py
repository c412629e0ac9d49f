"""One evaluation from its rows to its score, and the comparison that follows when both models are scored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from ltp.contracts.dataset import Split
from ltp.contracts.evaluation import ComparisonCompleted, EvaluationCompleted, EvaluationFailed, Score
from ltp.contracts.event import Value
from ltp.contracts.recipe import EvaluationSpec
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.store.clock import new_id
from ltp.store.database import Database, Unit
from services.evaluator import policy, store
from services.evaluator.inference import Completion, InferenceServer
from services.evaluator.rows import HeldOutRow, read_rows
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
    await asyncio.to_thread(log.parent.mkdir, parents=True, exist_ok=True)
    placement = held.work.placement
    kind, indexes = placement.device_kind, placement.device_indexes
    async with InferenceServer(Path(work.model_path), log, device_kind=kind, device_indexes=indexes) as server:
        completions = await server.complete(
            [row.prompt for row in rows],
            max_new_tokens=work.spec.max_new_tokens,
            concurrency=settings.evaluator_concurrency,
        )
    samples = [_sample(row, completion) for row, completion in zip(rows, completions, strict=True)]
    score = policy.score_samples(samples, work.spec.scorer)
    async with database.unit() as unit:
        if await store.close_evaluation(unit, work.evaluation_id, score=score.model_dump()):
            prompts = {row.row_id: row.prompt[-1]["content"] for row in rows}
            await store.add_samples(unit, work.evaluation_id, samples, prompts, work.spec.scorer)
            unit.emit(_completed(work, score), about=work.evaluation_id)
            await _compare(unit, work.job_id, work.spec.scorer)
        await finish(unit, held.work)


async def tell_failure(unit: Unit, failed: Work, problem: Problem) -> None:
    """Say that a model could not be scored."""
    work = EvaluationWork.model_validate(failed.payload)
    if await store.close_evaluation(unit, work.evaluation_id, problem=problem.model_dump()):
        fact = EvaluationFailed(
            evaluation_id=work.evaluation_id,
            job_id=work.job_id,
            subject_kind=work.subject_kind,
            problem=problem,
        )
        unit.emit(fact, about=work.evaluation_id)


async def _compare(unit: Unit, job_id: UUID, scorer: str) -> None:
    """Compare base and trained model once both are scored, on the rows both answered."""
    scored = await store.finished(unit, job_id)
    if set(scored) != {"base", "trained"}:
        return
    before = await store.samples_of(unit, scored["base"])
    paired = policy.compare(before, await store.samples_of(unit, scored["trained"]), scorer)
    comparison = ComparisonCompleted(comparison_id=new_id(), job_id=job_id, **vars(paired))
    if await store.add_comparison(unit, comparison):
        unit.emit(comparison, about=comparison.comparison_id)


def _sample(row: HeldOutRow, completion: Completion) -> policy.Sample:
    return policy.Sample(row.row_id, completion.text, row.answer, completion.finish_reason, completion.error)


def _completed(work: EvaluationWork, score: Score) -> EvaluationCompleted:
    return EvaluationCompleted(
        evaluation_id=work.evaluation_id,
        job_id=work.job_id,
        subject_kind=work.subject_kind,
        model_path=work.model_path,
        checkpoint_id=work.checkpoint_id,
        score=score,
        scorer=work.spec.scorer,
    )
