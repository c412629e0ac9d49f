"""Evaluations of their own: ask for them, follow them, read their samples, compare two, and import others' results."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from ltp.bus.rpc import ask
from ltp.comparison_text import lines_of
from ltp.contracts.evaluation import (
    EvaluationCancellationRequested,
    EvaluationRescoreRequested,
    EvaluationUploaded,
)
from ltp.contracts.evaluation_calibration import MOST_LABELS, CalibrationQuery, CalibrationRecord, Label
from ltp.contracts.evaluation_questions import (
    Change,
    ComparisonQuery,
    ComparisonRecord,
    EvaluationQuery,
    EvaluationRecord,
    EvaluationRecords,
    EvaluationState,
    HistoryQuery,
    HistoryRecord,
    Outcome,
    PairQuery,
    PairRecords,
    SampleQuery,
    SampleRecords,
)
from ltp.contracts.evaluation_spec import RunSpec, ScorerSpec
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import new_id
from services.gateway.access import Engine, Serving
from services.gateway.evaluation_requests import Accepted, EvaluationBody, TriggerBody, accept, find
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.live import patiently
from services.gateway.routes.jobs import show_job
from services.gateway.settings import GatewaySettings
from services.gateway.streams import sent

router = APIRouter(tags=["evaluations"])

EvaluationOrder = Literal[
    "-created_at", "created_at", "-name", "name", "-state", "state", "-step", "step", "-started_at", "started_at",
    "-ended_at", "ended_at",
]  # fmt: skip

# Comparing reads all samples of two evaluations.
_PATIENCE_SECONDS = 60.0
_OVER = {"completed", "failed", "cancelled"}
_LOOK_SECONDS = 0.5
Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0, le=2**31)]


class RescoreBody(BaseModel):
    """POST /evaluations/{id}/rescore: another scorer for the same answers."""

    scorer: ScorerSpec
    name: Name | None = None


class CalibrationBody(BaseModel):
    """POST /evaluations/{id}/calibration: what people say of some of its answers, best of answers drawn at random."""

    labels: list[Label] = Field(min_length=1, max_length=MOST_LABELS)


@router.post("/evaluations", status_code=202)
async def request_evaluations(body: EvaluationBody, runtime: Serving, response: Response) -> Accepted:
    """Evaluate a model: behind an API, in a directory, or a checkpoint. Poll the Location, or follow its stream."""
    accepted = await accept(runtime, body)
    response.headers["Location"] = f"/api/v1/evaluations/{accepted.evaluations[0].evaluation_id}"
    return accepted


@router.post("/evaluation/trigger", status_code=202)
async def trigger(body: TriggerBody, runtime: Serving, response: Response) -> Accepted:
    """As `POST /evaluations`, in the words of the first platform."""
    return await request_evaluations(body.body(), runtime, response)


@router.get("/evaluations")
async def list_all(
    runtime: Serving,
    paging: Paging,
    job_id: UUID | None = None,
    state: EvaluationState | None = None,
    sort: Annotated[EvaluationOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> EvaluationRecords:
    """Evaluations, newest first."""

    async def read(page: PageQuery) -> list[EvaluationRecord]:
        query = EvaluationQuery(job_id=job_id, state=state, **dict(page))
        return (await ask(runtime.client, "evaluator", "evaluations", query, EvaluationRecords)).evaluations

    page = await paging.page(read, identity="evaluation_id", sort=sort, cursor=cursor, limit=limit)
    return EvaluationRecords(evaluations=page.items, next_cursor=page.next_cursor)


@router.post("/evaluations/import", status_code=202)
async def import_results(
    request: Request, runtime: Serving, response: Response, name: Annotated[Name | None, Query()] = None
) -> EvaluationRecord:
    """Results that lm-evaluation-harness logged: {"model", "task", "metric", "samples": [its sample lines]}."""
    settings = runtime.settings
    assert isinstance(settings, GatewaySettings)
    evaluation_id = new_id()
    target = settings.root() / "uploads" / f"{evaluation_id}.json"
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > min(settings.gateway_max_upload_bytes, 1 << 30):
            raise LtpError(ErrorCode.TOO_LARGE, "The results are larger than a gibibyte.", "Import them by task.")
    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(target.write_bytes, body)
    digest = hashlib.sha256(body).hexdigest()
    event = EvaluationUploaded(evaluation_id=evaluation_id, name=name, path=str(target), sha256=digest)
    async with runtime.database.unit() as unit:
        unit.emit(event, about=evaluation_id)
    response.headers["Location"] = f"/api/v1/evaluations/{evaluation_id}"
    return await find(runtime, evaluation_id)


@router.get("/evaluations/{evaluation_id}")
async def show(evaluation_id: UUID, runtime: Serving) -> EvaluationRecord:
    """One evaluation: where it stands, what it found, or what prevents it."""
    return await find(runtime, evaluation_id)


@router.get("/evaluations/{evaluation_id}/stream", response_class=EventSourceResponse)
async def follow(evaluation_id: UUID, runtime: Serving) -> EventSourceResponse:
    """The evaluation each time it changed (server-sent events `evaluation`), until it is over (`end`)."""
    await find(runtime, evaluation_id)

    async def lines() -> AsyncIterator[ServerSentEvent]:
        last = ""
        while True:
            record = await patiently(partial(find, runtime, evaluation_id))
            text = record.model_dump_json()
            if text != last:
                yield ServerSentEvent(data=text, event="evaluation")
                last = text
            if record.state in _OVER:
                yield ServerSentEvent(data="{}", event="end")
                return
            await asyncio.sleep(_LOOK_SECONDS)

    return sent(lines(), runtime)


@router.get("/evaluations/{evaluation_id}/samples")
async def samples(
    evaluation_id: UUID,
    runtime: Serving,
    outcome: Outcome | None = None,
    contains: str | None = None,
    label: Annotated[str | None, Query(description="As `tenant=acme`.")] = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> SampleRecords:
    """What the model said to each row, and how it was judged. A page may be shorter than asked when texts are long."""
    query = SampleQuery(
        evaluation_id=evaluation_id, outcome=outcome, contains=contains, label=label, offset=offset, limit=limit
    )
    return await ask(runtime.client, "evaluator", "evaluation-samples", query, SampleRecords)


@router.post("/evaluations/{evaluation_id}/cancel", status_code=202)
async def cancel(evaluation_id: UUID, runtime: Serving) -> EvaluationRecord:
    """Ask that an evaluation end; what was answered stays stored."""
    record = await find(runtime, evaluation_id)
    if record.state in _OVER:
        message = f"Evaluation {evaluation_id} is {record.state} already."
        raise LtpError(ErrorCode.CONFLICT, message, "Nothing is left to cancel.")
    async with runtime.database.unit() as unit:
        unit.emit(EvaluationCancellationRequested(evaluation_id=evaluation_id), about=evaluation_id)
    return record


@router.post("/evaluations/{evaluation_id}/rescore", status_code=202)
async def rescore(evaluation_id: UUID, body: RescoreBody, runtime: Serving, response: Response) -> EvaluationRecord:
    """Judge stored answers by another scorer, as a new evaluation. Nothing is generated."""
    record = await find(runtime, evaluation_id)
    counts = record.progress
    if record.state != "completed" and not counts.scored + counts.unparsable + counts.without_reference:
        message = f"Evaluation {evaluation_id} is {record.state} and has no answers to judge."
        raise LtpError(ErrorCode.CONFLICT, message, "Wait until it is completed.")
    if body.scorer.name == "likelihood" or getattr(getattr(body.scorer, "model", None), "kind", "") == "local_model":
        hint = "Run a new evaluation with this scorer; stored answers are taken where they serve."
        raise LtpError(ErrorCode.INVALID_REQUEST, f"The scorer {body.scorer.name} needs a model to be served.", hint)
    if record.source == "imported":
        spec = RunSpec(scorer=body.scorer)
    else:
        spec = RunSpec.model_validate({**record.spec, "scorer": body.scorer, "stop": None})
    event = EvaluationRescoreRequested(evaluation_id=new_id(), source_id=evaluation_id, name=body.name, spec=spec)
    async with runtime.database.unit() as unit:
        unit.emit(event, about=event.evaluation_id)
    response.headers["Location"] = f"/api/v1/evaluations/{event.evaluation_id}"
    return await find(runtime, event.evaluation_id)


@router.post("/evaluations/{evaluation_id}/calibration")
async def calibrate(evaluation_id: UUID, body: CalibrationBody, runtime: Serving) -> CalibrationRecord:
    """Hold the verdicts against labels that people gave to some answers: agreement, kappa, and the corrected accuracy."""
    query = CalibrationQuery(evaluation_id=evaluation_id, labels=body.labels)
    return await ask(runtime.client, "evaluator", "calibration", query, CalibrationRecord, timeout=_PATIENCE_SECONDS)


@router.get("/comparisons")
async def compare(
    before: UUID, after: UUID, runtime: Serving, slices: Annotated[list[str] | None, Query()] = None
) -> ComparisonRecord:
    """The paired verdict between two evaluations of the same rows: better, worse, or no evidence; by slice as well."""
    query = ComparisonQuery(before_id=before, after_id=after, slices=slices or [])
    return await ask(runtime.client, "evaluator", "comparison", query, ComparisonRecord, timeout=_PATIENCE_SECONDS)


@router.get("/comparisons/samples")
async def compare_samples(
    before: UUID,
    after: UUID,
    runtime: Serving,
    change: Change | None = None,
    label: Annotated[str | None, Query(description="As `tenant=acme`.")] = None,
    contains: str | None = None,
    before_outcome: Outcome | None = None,
    after_outcome: Outcome | None = None,
    offset: Offset = 0,
    limit: Limit = 50,
) -> PairRecords:
    """Rows side by side with a diff of the answers, what changed first."""
    query = PairQuery(
        before_id=before,
        after_id=after,
        change=change,
        label=label,
        contains=contains,
        before_outcome=before_outcome,
        after_outcome=after_outcome,
        offset=offset,
        limit=limit,
    )
    return await ask(runtime.client, "evaluator", "comparison-pairs", query, PairRecords, timeout=_PATIENCE_SECONDS)


@router.get("/comparisons/export")
async def export(
    before: UUID,
    after: UUID,
    runtime: Serving,
    kind: Annotated[Literal["csv", "markdown"], Query(alias="format")] = "markdown",
) -> StreamingResponse:
    """The whole comparison as a file. Parquet is written by `ltp compare --export`."""
    verdict = await compare(before, after, runtime)

    async def page(offset: int) -> PairRecords:
        return await compare_samples(before, after, runtime, offset=offset, limit=200)

    first = await page(0)
    media = "text/csv" if kind == "csv" else "text/markdown"
    return StreamingResponse(lines_of(kind, verdict, first, page), media_type=f"{media}; charset=utf-8")


@router.get("/jobs/{job_id}/evaluations/history")
async def history(
    job_id: UUID, engine: Engine, runtime: Serving, only_changed: bool = False, offset: Offset = 0, limit: Limit = 50
) -> HistoryRecord:
    """Each row over a job's evaluated checkpoints, those that flipped most first."""
    await show_job(job_id, engine)
    query = HistoryQuery(job_id=job_id, only_changed=only_changed, offset=offset, limit=limit)
    return await ask(runtime.client, "evaluator", "evaluation-history", query, HistoryRecord, timeout=_PATIENCE_SECONDS)
