"""Every statement on samples and on the answers they rest on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from ltp.contracts.evaluation import Counts
from ltp.contracts.evaluation_questions import SampleQuery
from ltp.store.database import Unit
from services.evaluator.samples import OF_THE_ANSWER, Answer, Failure, Message, Row, Sample, Verdict
from services.evaluator.store import answers, samples

_LOOK_UP = 5000


async def known_answers(unit: Unit, keys: Sequence[str]) -> dict[str, Answer]:
    """Stored answers by key."""
    found: dict[str, Answer] = {}
    for start in range(0, len(keys), _LOOK_UP):
        query = select(answers).where(answers.c.answer_key.in_(keys[start : start + _LOOK_UP]))
        for row in (await unit.execute(query)).mappings():
            found[row["answer_key"]] = _answer(row)
    return found


async def known_samples(unit: Unit, evaluation_id: UUID) -> dict[tuple[str, int], Verdict]:
    """What of an evaluation is scored already. Samples that failed are forgotten, so that they are asked again."""
    await unit.execute(delete(samples).where(samples.c.evaluation_id == evaluation_id, samples.c.outcome == "error"))
    query = select(samples.c.row_id, samples.c.sample, samples.c.outcome, samples.c.value)
    rows = await unit.execute(query.where(samples.c.evaluation_id == evaluation_id))
    return {(row.row_id, row.sample): Verdict(row.outcome, row.value) for row in rows}


async def keep(unit: Unit, evaluation_id: UUID, fingerprint: str, done: Sequence[Sample]) -> None:
    """Store answers and verdicts together. What is stored already stays as it is: each sample is scored once."""
    fresh = [_answer_row(s, fingerprint) for s in done if s.answer is not None and s.answer_key and not s.cached]
    if fresh:
        await unit.execute(insert(answers).on_conflict_do_nothing(), fresh)
    if done:
        await unit.execute(insert(samples).on_conflict_do_nothing(), [_row(evaluation_id, s) for s in done])


async def samples_of(unit: Unit, evaluation_id: UUID) -> list[Sample]:
    """All samples of an evaluation in the order of their rows."""
    query = select(samples).where(samples.c.evaluation_id == evaluation_id)
    rows = await unit.execute(query.order_by(samples.c.row_id, samples.c.sample))
    return [_sample(row) for row in rows.mappings()]


async def read_samples(engine: AsyncEngine, evaluation_id: UUID) -> list[Sample]:
    """As `samples_of`, outside any change."""
    query = select(samples).where(samples.c.evaluation_id == evaluation_id)
    async with engine.connect() as connection:
        rows = await connection.execute(query.order_by(samples.c.row_id, samples.c.sample))
        return [_sample(row) for row in rows.mappings()]


async def page(engine: AsyncEngine, query: SampleQuery) -> tuple[int, list[Sample]]:
    """How many samples match, and those of the page."""
    wanted = select(samples).where(_matches(query))
    ordered = wanted.order_by(samples.c.row_id, samples.c.sample).offset(query.offset).limit(query.limit)
    async with engine.connect() as connection:
        total = await connection.scalar(select(func.count()).select_from(samples).where(_matches(query)))
        return total or 0, [_sample(row) for row in (await connection.execute(ordered)).mappings()]


async def counts(engine: AsyncEngine, evaluation_ids: Iterable[UUID]) -> dict[UUID, Counts]:
    """What became of the samples so far, by evaluation."""
    s = samples.c
    query: Any = (
        select(
            s.evaluation_id,
            s.outcome,
            s.error_kind,
            func.count().label("count"),
            func.sum(case((s.truncated, 1), else_=0)).label("truncated"),
            func.sum(case((and_(s.response == "", s.outcome.in_(["right", "wrong"])), 1), else_=0)).label("empty"),
        )
        .where(s.evaluation_id.in_(list(evaluation_ids)))
        .group_by(s.evaluation_id, s.outcome, s.error_kind)
    )
    found: dict[UUID, dict[str, Any]] = {}
    async with engine.connect() as connection:
        for row in (await connection.execute(query)).mappings():
            into = found.setdefault(row["evaluation_id"], {"errors": {}, "truncated": 0, "empty": 0})
            into["truncated"] += row["truncated"]
            into["empty"] += row["empty"]
            if row["outcome"] == "error":
                into["errors"][row["error_kind"]] = row["count"]
            else:
                name = {"no_reference": "without_reference"}.get(row["outcome"], row["outcome"])
                into[str(name)] = row["count"]
    return {key: Counts.model_validate(value) for key, value in found.items()}


_PAIRS = text("""
    SELECT b.row_id, b.prompt, coalesce(b.reference, '') AS reference, b.response AS base_response,
           t.response AS trained_response, b.correct AS base_correct, t.correct AS trained_correct,
           CASE WHEN t.correct AND NOT b.correct THEN 'improved' WHEN b.correct AND NOT t.correct THEN 'regressed'
                ELSE 'unchanged' END AS change
    FROM evaluator.samples b JOIN evaluator.samples t ON t.row_id = b.row_id AND t.sample = b.sample
    WHERE b.evaluation_id = :base AND t.evaluation_id = :trained
""")


async def pairs(engine: AsyncEngine, base: UUID, trained: UUID) -> list[dict[str, Any]]:
    """Rows of a job's comparison with both answers."""
    async with engine.connect() as connection:
        rows = await connection.execute(_PAIRS, {"base": base, "trained": trained})
        return [dict(row) for row in rows.mappings().all()]


def _matches(query: SampleQuery) -> Any:
    conditions = [samples.c.evaluation_id == query.evaluation_id]
    if query.outcome is not None:
        conditions.append(samples.c.outcome == query.outcome)
    if query.contains:
        hay = samples.c.prompt + " " + samples.c.response
        conditions.append(hay.icontains(query.contains, autoescape=True))
    if query.label:
        name, _, value = query.label.partition("=")
        conditions.append(samples.c.labels[name].astext == value)
    return and_(*conditions)


def _answer_row(sample: Sample, fingerprint: str) -> dict[str, Any]:
    assert sample.answer is not None
    return {
        "answer_key": sample.answer_key,
        "fingerprint": fingerprint,
        "response": _storable(sample.answer.text),
        "finish_reason": sample.answer.finish_reason,
        "prompt_tokens": sample.answer.prompt_tokens,
        "completion_tokens": sample.answer.completion_tokens,
        "latency_seconds": sample.answer.latency_seconds,
        "detail": dict(sample.answer.detail),
    }


def _row(evaluation_id: UUID, sample: Sample) -> dict[str, Any]:
    answer, failure, row = sample.answer, sample.failure, sample.row
    return {
        "evaluation_id": evaluation_id,
        "row_id": row.row_id,
        "sample": sample.index,
        "prompt": _storable(row.prompt[-1]["content"]) if row.prompt else "",
        "messages": [{key: _storable(str(value)) for key, value in turn.items()} for turn in row.prompt],
        "response": _storable(answer.text) if answer else "",
        "reference": None if row.answer is None else _storable(row.answer),
        "finish_reason": answer.finish_reason if answer else None,
        "error": _storable(failure.message) if failure else None,
        "error_kind": failure.kind if failure else None,
        "correct": sample.verdict.outcome == "right",
        "outcome": sample.verdict.outcome,
        "value": sample.verdict.value,
        "truncated": sample.truncated,
        "answer_key": sample.answer_key,
        "prompt_tokens": answer.prompt_tokens if answer else None,
        "completion_tokens": answer.completion_tokens if answer else None,
        "latency_seconds": answer.latency_seconds if answer else None,
        "cached": sample.cached,
        "scorer": sample.scorer,
        "detail": {**(answer.detail if answer else {}), **sample.verdict.detail},
        "labels": dict(row.labels),
    }


def _sample(row: Mapping[Any, Any]) -> Sample:
    failure = None if row["error"] is None else Failure(row["error_kind"] or "refused", row["error"])
    # Another scorer may judge this answer: what the first one said of it is no part of it.
    own = {key: value for key, value in row["detail"].items() if key in OF_THE_ANSWER}
    prompt: tuple[Message, ...] = tuple(row["messages"]) or (Message(role="user", content=row["prompt"]),)
    return Sample(
        row=Row(row["row_id"], prompt, row["reference"], row["labels"]),
        index=row["sample"],
        verdict=Verdict(row["outcome"], row["value"], row["detail"]),
        scorer=row["scorer"],
        answer=None if failure else replace(_answer(row), detail=own),
        failure=failure,
        answer_key=row["answer_key"],
        cached=row["cached"],
    )


def _answer(row: Mapping[Any, Any]) -> Answer:
    return Answer(
        text=row["response"],
        finish_reason=row["finish_reason"],
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        latency_seconds=row["latency_seconds"] or 0.0,
        detail=row["detail"],
    )


def _storable(value: str) -> str:
    """Postgres holds no zero bytes, and no half of a surrogate pair; a model may write either."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
