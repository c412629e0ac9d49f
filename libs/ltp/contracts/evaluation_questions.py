"""Questions about evaluations that the evaluator answers over request/reply, and their answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.evaluation import Counts, DatasetUnderTest, Estimate, EvaluationRequested, Result
from ltp.contracts.event import Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.values import Problem

EvaluationState = Literal["requested", "waiting", "queued", "running", "completed", "failed", "cancelled"]
Change = Literal["improved", "regressed", "unchanged"]
Outcome = Literal["right", "wrong", "error", "unparsable", "no_reference"]


class EvaluationCheck(Value):
    """Would this request work? Changes nothing."""

    request: EvaluationRequested


class Checked(Value):
    """It would; `warnings` say what the asker should know."""

    warnings: list[str] = Field(default_factory=list[str])


class EvaluationQuery(PageQuery):
    """A page of evaluations."""

    evaluation_id: UUID | None = None
    job_id: UUID | None = None
    state: EvaluationState | None = None


class EvaluationRecord(Value):
    """One evaluation: what was asked, where it stands, what it found."""

    evaluation_id: UUID
    name: str | None = None
    state: EvaluationState
    job_id: UUID | None = None
    checkpoint_id: UUID | None = None
    step: int | None = None
    model: str
    model_kind: str
    fingerprint: str | None = None
    dataset: DatasetUnderTest | None = None
    spec: dict[str, Any]
    scorer: str
    source: Literal["run", "rescored", "imported"] = "run"
    total: int | None = None
    # Counts so far while it runs.
    progress: Counts = Counts()
    result: Result | None = None
    problem: Problem | None = None
    requested_at: datetime
    started_at: datetime | None = None
    # When the first answer was stored.
    first_answer_at: datetime | None = None
    ended_at: datetime | None = None


class EvaluationRecords(Value):
    """A page of evaluations. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    evaluations: list[EvaluationRecord]
    next_cursor: str | None = None


class SampleQuery(Value):
    """Samples of an evaluation in the order of their rows."""

    evaluation_id: UUID
    outcome: Outcome | None = None
    contains: str | None = None
    label: str | None = None
    offset: int = 0
    limit: int = 50


class SampleRecord(Value):
    """One answer with everything that is known of it."""

    row_id: str
    sample: int
    prompt: list[dict[str, Any]]
    response: str
    reference: str | None
    outcome: Outcome
    value: float | None
    truncated: bool
    finish_reason: str | None
    error_kind: str | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_seconds: float | None
    scorer: str
    detail: dict[str, Any]
    labels: dict[str, str]


class SampleRecords(Value):
    """A page of samples; `total` counts all that match."""

    total: int
    samples: list[SampleRecord]


class ComparisonQuery(Value):
    """Two evaluations of the same rows; `slices` names the labels to look at apart, none means all there are."""

    before_id: UUID
    after_id: UUID
    slices: list[str] = Field(default_factory=list[str])


class SliceComparison(Value):
    """A part of the rows; `adjusted_p` is corrected for all slices looked at (Holm)."""

    label: str
    value: str
    rows: int
    before: float
    after: float
    improved: int
    regressed: int
    unchanged: int
    difference: Estimate
    p_value: float
    adjusted_p: float
    verdict: Literal["better", "worse", "no evidence"]
    # With fewer than six changed rows no exact test can reach 0.05.
    too_few: bool


class ComparisonRecord(Value):
    """A paired verdict between two evaluations."""

    before_id: UUID
    after_id: UUID
    verdict: Literal["better", "worse", "no evidence"]
    headline: str
    before: Estimate
    after: Estimate
    difference: Estimate
    bootstrap: Estimate
    # mcnemar: exact, one answer a row; clustered: several answers or graded scores.
    test: Literal["mcnemar", "clustered"]
    p_value: float
    rows: int
    only_before: int
    only_after: int
    improved: int
    regressed: int
    unchanged: int
    # The smallest gain that this many rows would have shown four times out of five, None where none would be.
    minimum_detectable: float | None
    # How many rows would show the difference seen, None where it is 0 or shown already.
    rows_advised: int | None
    slices: list[SliceComparison]
    warnings: list[str]


class PairQuery(Value):
    """Rows of a comparison, side by side."""

    before_id: UUID
    after_id: UUID
    change: Change | None = None
    # A label with its value, as tenant=acme.
    label: str | None = None
    contains: str | None = None
    before_outcome: Outcome | None = None
    after_outcome: Outcome | None = None
    offset: int = 0
    limit: int = 50


class PairRecord(Value):
    """One row with both answers, and how the second differs from the first, word by word."""

    row_id: str
    prompt: str
    reference: str | None
    labels: dict[str, str]
    change: Change
    before_response: str
    after_response: str
    before_value: float | None
    after_value: float | None
    before_outcome: Outcome
    after_outcome: Outcome
    # What became of the words, and the words.
    diff: list[tuple[Literal["kept", "removed", "added"], str]]


class PairRecords(Value):
    """A page of pairs; `total` counts all that match."""

    total: int
    pairs: list[PairRecord]


class HistoryQuery(Value):
    """Each row over the evaluated checkpoints of a job."""

    job_id: UUID
    only_changed: bool = False
    offset: int = 0
    limit: int = 50


class HistoryRow(Value):
    """One row: its outcome at each evaluation, in the order of `HistoryRecord.evaluations`; None where it has none."""

    row_id: str
    prompt: str
    reference: str | None
    outcomes: list[Outcome | None]
    flips: int


class HistoryRecord(Value):
    """A job's evaluations on the same rows, base first, then by step."""

    evaluations: list[EvaluationRecord]
    total: int
    rows: list[HistoryRow]
