"""What the evaluator reads from its tables at a scrape: evaluations by state."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.service.exposition import Reading
from ltp.telemetry.metrics import SECONDS_OF_STEPS, counter, gauge, histogram, replace_all
from services.evaluator.samples import Sample
from services.evaluator.store import evaluations

ANSWERS = counter("ltp_evaluation_answers_total", "Samples that were asked and judged.", "outcome", "cached")
TOKENS = counter("ltp_evaluation_tokens_total", "Tokens of prompts and answers that were asked for.", "kind")
LATENCY = histogram("ltp_evaluation_answer_duration_seconds", "Latency of one answer.", buckets=SECONDS_OF_STEPS)
EVALUATIONS = gauge("ltp_evaluations", "Evaluations by state.", "state")


def count_sample(sample: Sample) -> None:
    """Tell what an answer cost; one that was stored before cost nothing."""
    ANSWERS.labels(sample.verdict.outcome, str(sample.cached).lower()).inc()
    if sample.answer is None or sample.cached:
        return
    LATENCY.observe(sample.answer.latency_seconds)
    for kind, tokens in (("prompt", sample.answer.prompt_tokens), ("completion", sample.answer.completion_tokens)):
        TOKENS.labels(kind).inc(tokens or 0)


def readings() -> dict[str, Reading]:
    """The readings by name."""

    async def read_evaluations(connection: AsyncConnection) -> None:
        query = select(evaluations.c.state, func.count()).group_by(evaluations.c.state)
        replace_all(EVALUATIONS, [({"state": s}, n) for s, n in (await connection.execute(query)).all()])

    return {"evaluations": read_evaluations}
