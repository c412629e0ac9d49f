"""One evaluation from its request to its result, and what follows from it: events, the comparison, the gate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from opentelemetry import trace
from sqlalchemy import null
from sqlalchemy.engine import RowMapping

from ltp.contracts.evaluation import (
    ComparisonCompleted,
    DatasetUnderTest,
    EvaluationCancelled,
    EvaluationCompleted,
    EvaluationFailed,
    EvaluationFinished,
    EvaluationGivenUp,
    Result,
)
from ltp.contracts.evaluation_spec import RunSpec
from ltp.contracts.event import Value
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.security.secrets import Secrets
from ltp.store.clock import new_id, now
from ltp.store.database import Database, Unit
from services.evaluator import judgement, policy, store, store_samples
from services.evaluator.asking import asker
from services.evaluator.findings import price_of, result_of, score_of, usage_of
from services.evaluator.models import Models
from services.evaluator.rows import read_with_missing
from services.evaluator.running import Run
from services.evaluator.samples import Sample, Verdict
from services.evaluator.scorers.judging import identity, opened
from services.evaluator.servers import ModelCache
from services.evaluator.settings import EvaluatorSettings

_tracer = trace.get_tracer("ltp.evaluator")


class EvaluationWork(Value):
    """What a worker needs to find an evaluation: the payload of the work."""

    evaluation_id: UUID


class Evaluator:
    """Makes evaluations; holds the warm servers."""

    def __init__(self, database: Database, settings: EvaluatorSettings) -> None:
        self.database, self.settings = database, settings
        self.cache = ModelCache(settings)
        self.models = Models(settings, self.cache, Secrets.of(database.engine, settings.root()))

    async def evaluate(self, held: Held) -> None:
        """Serve the model, ask it every held-out row, score, and commit the result with its telling."""
        work = EvaluationWork.model_validate(held.work.payload)
        structlog.contextvars.bind_contextvars(evaluation_id=str(work.evaluation_id))
        with _tracer.start_as_current_span("evaluation", attributes={"ltp.evaluation.id": str(work.evaluation_id)}):
            await self._evaluate(held, work)

    async def _evaluate(self, held: Held, work: EvaluationWork) -> None:
        async with self.database.unit() as unit:
            row = await store.evaluation(unit, work.evaluation_id)
            if row is None or row["state"] in {"completed", "cancelled"}:
                await finish(unit, held.work)
                return
            # Dead work that is tried again is no failure any more.
            opened_at = {"started_at": row["started_at"] or now(), "ended_at": None, "problem": null()}
            await store.note(unit, work.evaluation_id, state="running", **opened_at)
        spec, dataset = RunSpec.model_validate(row["spec"]), DatasetUnderTest.model_validate(row["dataset"])
        rows, missing = await asyncio.to_thread(read_with_missing, Path(dataset.split.path), spec.max_rows)
        loop, warnings = asyncio.get_running_loop(), list[str]()
        started = loop.time()
        async with self.models.under_test(row, held.work.placement) as (endpoint, fingerprint):
            async with self.database.unit() as unit:
                total = len(rows) * spec.sampling.samples
                await store.note(unit, work.evaluation_id, fingerprint=fingerprint, total=total)
                baseline = await self._baseline(unit, spec)
            opener = self.models.opener(held.work.placement)
            async with opened(spec.scorer, self.settings.root(), opener, warnings) as judge:
                scorer = identity(spec.scorer, self.settings.root() / "scorers")
                run = Run(
                    *(work.evaluation_id, fingerprint, spec, rows, endpoint, asker(endpoint, spec), judge, scorer),
                    database=self.database,
                    concurrency=min(endpoint.address.max_concurrency, spec.concurrency or 1024),
                    baseline=baseline,
                )
                await run.go(held.cancelled)
        if held.cancelled.is_set():
            await self._cancelled(held, work.evaluation_id)
            return
        async with self.database.unit() as unit:
            samples = await store_samples.samples_of(unit, work.evaluation_id)
            if run.stopped is None and len(samples) != total:
                message = f"{len(samples)} of {total} samples are stored after a whole run."
                raise LtpError(ErrorCode.INTERNAL, message, "The run is tried again and completes what is missing.")
            asked = {"requests": endpoint.spent.requests, "retries": endpoint.spent.retries}
            usage = usage_of(samples, row["model"].get("price"), price_of(spec), seconds=loop.time() - started, **asked)
            found = await asyncio.to_thread(
                result_of, samples, spec, usage, without_reference=missing, stopped=run.stopped
            )
            found = found.model_copy(update={"warnings": [*found.warnings, *warnings]})
            if found.accuracy is None:
                raise _nothing_scored(samples)
            await conclude(unit, row, found, samples)
            await finish(unit, held.work)

    async def _cancelled(self, held: Held, evaluation_id: UUID) -> None:
        async with self.database.unit() as unit:
            if await store.close_evaluation(unit, evaluation_id, "cancelled"):
                unit.emit(EvaluationCancelled(evaluation_id=evaluation_id), about=evaluation_id)
            await finish(unit, held.work, cancelled=True)

    async def _baseline(self, unit: Unit, spec: RunSpec) -> dict[str, Verdict]:
        if spec.stop is None or spec.stop.baseline_id is None:
            return {}
        before = await store_samples.samples_of(unit, spec.stop.baseline_id)
        return {sample.row.row_id: sample.verdict for sample in before if sample.index == 0}

    async def keep_servers(self) -> None:
        """Look after the warm servers until the service stops; then end them."""
        try:
            await self.cache.run()
        finally:
            await self.cache.close()


async def conclude(unit: Unit, row: RowMapping, result: Result, samples: list[Sample]) -> None:
    """Close an evaluation, say so, and draw the consequences for its job, all in one transaction."""
    evaluation_id, score = row["evaluation_id"], score_of(result)
    values: dict[str, Any] = {"result": result.model_dump(mode="json")}
    if score is not None:
        values["score"] = score.model_dump()
    if not await store.close_evaluation(unit, evaluation_id, "completed", **values):
        return
    if row["subject_kind"] is not None and score is not None:
        fact = EvaluationCompleted(
            evaluation_id=evaluation_id,
            job_id=row["job_id"],
            subject_kind=row["subject_kind"],
            model_path=row["model_path"],
            checkpoint_id=row["checkpoint_id"],
            score=score,
            scorer=row["spec"]["scorer"]["name"],
        )
        unit.emit(fact, about=evaluation_id)
        await _compare(unit, row["job_id"], row["spec"]["scorer"]["name"])
    else:
        unit.emit(_finished(row, result), about=evaluation_id)
    if row["job_id"] is not None:
        await judgement.judge(unit, row, result, samples)


async def tell_failure(unit: Unit, failed: Work, problem: Problem) -> None:
    """Say that a model could not be scored."""
    await give_up(unit, EvaluationWork.model_validate(failed.payload).evaluation_id, problem)


async def give_up(unit: Unit, evaluation_id: UUID, problem: Problem) -> None:
    """Close an evaluation without a score."""
    row = await store.evaluation(unit, evaluation_id)
    if row is None or not await store.close_evaluation(unit, evaluation_id, "failed", problem=problem.model_dump()):
        return
    if row["subject_kind"] is not None:
        known = {"job_id": row["job_id"], "subject_kind": row["subject_kind"]}
        unit.emit(EvaluationFailed(evaluation_id=evaluation_id, problem=problem, **known), about=evaluation_id)
    else:
        known = {"job_id": row["job_id"], "checkpoint_id": row["checkpoint_id"]}
        unit.emit(EvaluationGivenUp(evaluation_id=evaluation_id, problem=problem, **known), about=evaluation_id)


async def _compare(unit: Unit, job_id: UUID, scorer: str) -> None:
    """Compare base and trained model once both are scored, on the rows both answered."""
    scored = await store.finished(unit, job_id)
    if not {"base", "trained"} <= set(scored):
        return
    before = [_plain(sample) for sample in await store_samples.samples_of(unit, scored["base"])]
    after = [_plain(sample) for sample in await store_samples.samples_of(unit, scored["trained"])]
    paired = policy.compare(before, after, scorer)
    comparison = ComparisonCompleted(comparison_id=new_id(), job_id=job_id, **vars(paired))
    if await store.add_comparison(unit, comparison):
        unit.emit(comparison, about=comparison.comparison_id)


def _plain(sample: Sample) -> policy.Sample:
    answer, failure = sample.answer, sample.failure
    return policy.Sample(
        row_id=sample.row.row_id,
        response=answer.text if answer else "",
        # One that the scorer could make nothing of decides nothing.
        reference=None if sample.verdict.outcome == "no_reference" else sample.row.answer,
        finish_reason=answer.finish_reason if answer else None,
        error=failure.message if failure else None,
    )


def _finished(row: RowMapping, result: Result) -> EvaluationFinished:
    model, dataset = row["model"], row["dataset"]
    return EvaluationFinished(
        evaluation_id=row["evaluation_id"],
        job_id=row["job_id"],
        checkpoint_id=row["checkpoint_id"],
        step=row["step"],
        name=row["name"],
        model=model.get("name") or row["model_path"] or str(model.get("checkpoint_id")),
        dataset="" if dataset is None else f"{dataset['name']}@{dataset['version'][:12]}/{dataset['split_name']}",
        scorer=row["spec"]["scorer"]["name"],
        result=result,
    )


def _nothing_scored(samples: list[Sample]) -> LtpError:
    failures = [sample.failure for sample in samples if sample.failure is not None]
    if failures:
        kinds = ", ".join(sorted({failure.kind for failure in failures}))
        message = f"None of the {len(samples)} samples was answered ({kinds}); the first: {failures[0].message}"
        hint = "There is no accuracy, rather than one of 0. Mend the cause and run again: nothing is stored of these."
    else:
        why = next(
            (str(s.verdict.detail.get("why")) for s in samples if s.verdict.detail.get("why")), "no reason given"
        )
        message = f"None of the {len(samples)} answers could be judged; the first: {why}"
        hint = "There is no accuracy, rather than one of 0. The stored answers can be rescored with another scorer."
    return LtpError(ErrorCode.EVALUATION_FAILED, message, hint)
