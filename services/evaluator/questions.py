"""Questions that the evaluator answers: where evaluations stand, their samples, comparisons and histories."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any
from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.rpc import answered_by, replies
from ltp.contracts.evaluation import Counts
from ltp.contracts.evaluation_calibration import CalibrationQuery, CalibrationRecord
from ltp.contracts.evaluation_questions import (
    Checked,
    ComparisonQuery,
    ComparisonRecord,
    EvaluationCheck,
    EvaluationQuery,
    EvaluationRecord,
    EvaluationRecords,
    HistoryQuery,
    HistoryRecord,
    HistoryRow,
    Outcome,
    PairQuery,
    PairRecords,
    SampleQuery,
    SampleRecord,
    SampleRecords,
)
from ltp.contracts.evaluation_spec import ApiModel, CheckpointModel, FunctionScorer, LocalModel
from ltp.contracts.questions import SamplePair, SamplePairs, SamplesRequest
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.secrets import Secrets
from ltp.store.database import Database
from services.evaluator import store, store_samples
from services.evaluator.calibrating import calibrate
from services.evaluator.comparing import Side, compare, pairs_of, with_diff
from services.evaluator.models import Served, key_of
from services.evaluator.samples import Sample
from services.evaluator.scorers.judging import source_of
from services.evaluator.settings import EvaluatorSettings

SERVICE = "evaluator"
router = NatsRouter()

Db = Annotated[Database, Context("database")]
# A reply must stay below what NATS carries; longer texts are cut in pages, and whole in exports of single samples.
_LONGEST_TEXT = 8000
_MOST_BYTES = 700_000


@router.subscriber(**answered_by(SERVICE, "samples"))
@replies
async def read_samples(request: SamplesRequest, database: Db) -> SamplePairs:
    pair = await store.scored_pair(database.engine, request.job_id)
    rows = [] if pair is None else await store_samples.pairs(database.engine, *pair)
    # What changed is what one wants to see first.
    order = {"regressed": 0, "improved": 1, "unchanged": 2}
    wanted = [SamplePair.model_validate(r) for r in rows if request.change in (None, r["change"])]
    wanted.sort(key=lambda pair: (order[pair.change], pair.row_id))
    return SamplePairs(total=len(wanted), samples=wanted[request.offset : request.offset + request.limit])


@router.subscriber(**answered_by(SERVICE, "check-evaluation"))
@replies
async def check(
    question: EvaluationCheck, database: Db, settings: Annotated[EvaluatorSettings, Context("settings")]
) -> Checked:
    request = question.request
    warnings: list[str] = []
    if isinstance(request.model, LocalModel):
        await asyncio.to_thread(Served.of, request.model)
    elif isinstance(request.model, CheckpointModel):
        known = await store.find_checkpoint(database.engine, request.model.checkpoint_id)
        if known is None:
            hint = "`ltp checkpoints JOB --json` shows the ids."
            raise LtpError(ErrorCode.NOT_FOUND, f"There is no checkpoint {request.model.checkpoint_id}.", hint)
        if known["path"] is None:
            warnings.append("The checkpoint is not exported yet; the evaluation waits for that.")
    for model in (request.model, getattr(request.spec.scorer, "model", None)):
        if isinstance(model, ApiModel) and model.secret is not None:
            await key_of(Secrets.of(database.engine, settings.root()), model.secret)
    if isinstance(request.spec.scorer, FunctionScorer):
        await asyncio.to_thread(source_of, request.spec.scorer, settings.root() / "scorers")
    if request.spec.stop is not None and request.spec.stop.baseline_id is not None:
        await _one(database, request.spec.stop.baseline_id)
    if not request.dataset.split.answered:
        message = f"No row of {request.dataset.name}, split {request.dataset.split_name}, has a reference answer."
        raise LtpError(ErrorCode.EVALUATION_EMPTY, message, "Upload the dataset with a column 'answer'.")
    return Checked(warnings=warnings)


@router.subscriber(**answered_by(SERVICE, "evaluations"))
@replies
async def list_evaluations(query: EvaluationQuery, database: Db) -> EvaluationRecords:
    rows = await store.find(database.engine, query)
    if query.evaluation_id is not None and not rows:
        raise _unknown(query.evaluation_id)
    open_ones = [row["evaluation_id"] for row in rows if row["result"] is None]
    progress = await store_samples.counts(database.engine, open_ones) if open_ones else {}
    return EvaluationRecords(evaluations=[_record(row, progress.get(row["evaluation_id"])) for row in rows])


@router.subscriber(**answered_by(SERVICE, "evaluation-samples"))
@replies
async def page_of_samples(query: SampleQuery, database: Db) -> SampleRecords:
    await _one(database, query.evaluation_id)
    total, found = await store_samples.page(database.engine, query)
    return SampleRecords(total=total, samples=_fitting([_sample(sample) for sample in found]))


@router.subscriber(**answered_by(SERVICE, "comparison"))
@replies
async def comparison(query: ComparisonQuery, database: Db) -> ComparisonRecord:
    before, after = await _completed(database, query.before_id), await _completed(database, query.after_id)
    sides = [
        Side.of(row, await store_samples.read_samples(database.engine, row["evaluation_id"])) for row in (before, after)
    ]
    return await asyncio.to_thread(compare, sides[0], sides[1], query.slices)


@router.subscriber(**answered_by(SERVICE, "comparison-pairs"))
@replies
async def page_of_pairs(query: PairQuery, database: Db) -> PairRecords:
    await _completed(database, query.before_id)
    await _completed(database, query.after_id)
    before = await store_samples.read_samples(database.engine, query.before_id)
    after = await store_samples.read_samples(database.engine, query.after_id)
    found = pairs_of(before, after, query)
    shown = [
        pair.model_copy(
            update={
                name: getattr(pair, name)[:_LONGEST_TEXT] for name in ("prompt", "before_response", "after_response")
            }
        )
        for pair in found[query.offset : query.offset + query.limit]
    ]
    return PairRecords(total=len(found), pairs=_fitting([with_diff(pair) for pair in shown]))


@router.subscriber(**answered_by(SERVICE, "calibration"))
@replies
async def calibration(query: CalibrationQuery, database: Db) -> CalibrationRecord:
    row = await _completed(database, query.evaluation_id)
    samples = await store_samples.read_samples(database.engine, query.evaluation_id)
    return await asyncio.to_thread(calibrate, _record(row, None), samples, query.labels)


@router.subscriber(**answered_by(SERVICE, "evaluation-history"))
@replies
async def history(query: HistoryQuery, database: Db) -> HistoryRecord:
    rows = await store.find(database.engine, EvaluationQuery(job_id=query.job_id, limit=500))
    rows = [row for row in rows if row["state"] == "completed"]
    rows.sort(key=lambda row: (row["subject_kind"] != "base", row["step"] or 0))
    seen: dict[str, dict[int, Sample]] = defaultdict(dict)
    for place, row in enumerate(rows):
        for sample in await store_samples.read_samples(database.engine, row["evaluation_id"]):
            if sample.index == 0:
                seen[sample.row.row_id][place] = sample
    lines = [_history(row_id, places, len(rows)) for row_id, places in sorted(seen.items())]
    lines = [line for line in lines if line.flips or not query.only_changed]
    lines.sort(key=lambda line: (-line.flips, line.row_id))
    page = lines[query.offset : query.offset + query.limit]
    return HistoryRecord(evaluations=[_record(row, None) for row in rows], total=len(lines), rows=page)


def _history(row_id: str, places: Mapping[int, Sample], count: int) -> HistoryRow:
    outcomes: list[Outcome | None] = [places[i].verdict.outcome if i in places else None for i in range(count)]
    known = [outcome for outcome in outcomes if outcome in {"right", "wrong"}]
    first = next(iter(places.values())).row
    return HistoryRow(
        row_id=row_id,
        prompt=first.prompt[-1]["content"][:_LONGEST_TEXT] if first.prompt else "",
        reference=first.answer,
        outcomes=outcomes,
        flips=sum(one != other for one, other in pairwise(known)),
    )


async def _one(database: Database, evaluation_id: UUID) -> Any:
    rows = await store.find(database.engine, EvaluationQuery(evaluation_id=evaluation_id, limit=1))
    if not rows:
        raise _unknown(evaluation_id)
    return rows[0]


async def _completed(database: Database, evaluation_id: UUID) -> Any:
    row = await _one(database, evaluation_id)
    if row["state"] != "completed":
        message = f"Evaluation {evaluation_id} is {row['state']}; only completed ones are compared or calibrated."
        raise LtpError(ErrorCode.CONFLICT, message, f"`ltp eval get {evaluation_id}` shows where it stands.")
    return row


def _record(row: Mapping[Any, Any], progress: Counts | None) -> EvaluationRecord:
    model, spec = row["model"] or {}, row["spec"] or {}
    name = model.get("name") or row["model_path"] or str(model.get("checkpoint_id") or "")
    return EvaluationRecord(
        evaluation_id=row["evaluation_id"],
        name=row["name"],
        state=row["state"],
        job_id=row["job_id"],
        checkpoint_id=row["checkpoint_id"],
        step=row["step"],
        model=name,
        model_kind=model.get("kind") or "local_model",
        fingerprint=row["fingerprint"],
        dataset=row["dataset"],
        spec=spec,
        scorer=(spec.get("scorer") or {}).get("name") or "",
        source=row["source"],
        total=row["total"],
        progress=progress or (Counts.model_validate(row["result"]["counts"]) if row["result"] else Counts()),
        result=row["result"],
        problem=row["problem"],
        requested_at=row["asked_at"],
        started_at=row["started_at"],
        first_answer_at=row["first_answer_at"],
        ended_at=row["ended_at"],
    )


def _sample(sample: Sample) -> SampleRecord:
    answer, failure, verdict = sample.answer, sample.failure, sample.verdict
    return SampleRecord(
        row_id=sample.row.row_id,
        sample=sample.index,
        prompt=[{key: str(value)[:_LONGEST_TEXT] for key, value in turn.items()} for turn in sample.row.prompt],
        response=answer.text[:_LONGEST_TEXT] if answer else "",
        reference=sample.row.answer,
        outcome=verdict.outcome,
        value=verdict.value,
        truncated=sample.truncated,
        finish_reason=answer.finish_reason if answer else None,
        error_kind=failure.kind if failure else None,
        error=failure.message if failure else None,
        prompt_tokens=answer.prompt_tokens if answer else None,
        completion_tokens=answer.completion_tokens if answer else None,
        latency_seconds=answer.latency_seconds if answer else None,
        scorer=sample.scorer,
        detail=dict(verdict.detail),
        labels=dict(sample.row.labels),
    )


def _fitting(items: Sequence[Any]) -> list[Any]:
    """As many as one reply carries, and at least one; the reader goes on from there."""
    kept: list[Any] = []
    size = 0
    for item in items:
        size += len(item.model_dump_json())
        if kept and size > _MOST_BYTES:
            break
        kept.append(item)
    return kept


def _unknown(evaluation_id: UUID) -> LtpError:
    return LtpError(ErrorCode.NOT_FOUND, f"There is no evaluation {evaluation_id}.", "`ltp eval list` shows all.")
