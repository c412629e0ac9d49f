"""Scores of models, and what two of them say about each other."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from ltp.contracts.event import Event, Value
from ltp.contracts.values import Problem, Ratio


class Score(Value):
    """An accuracy with its uncertainty: Wilson score interval at 95 %."""

    accuracy: Ratio
    low: Ratio
    high: Ratio
    correct: int
    total: int
    # Responses cut off by max_new_tokens: reported apart, counted as wrong.
    truncated: int = 0


class EvaluationCompleted(Event, subject="ltp.evaluation.v1.completed", speaker="evaluator"):
    """A model was scored on the held-out rows of a job's dataset."""

    evaluation_id: UUID
    job_id: UUID
    subject_kind: Literal["base", "trained"]
    model_path: str
    checkpoint_id: UUID | None
    score: Score
    scorer: str


class EvaluationFailed(Event, subject="ltp.evaluation.v1.failed", speaker="evaluator"):
    """A model could not be scored; there is no accuracy rather than a wrong one."""

    evaluation_id: UUID
    job_id: UUID
    subject_kind: Literal["base", "trained"]
    problem: Problem


class ComparisonCompleted(Event, subject="ltp.comparison.v1.completed", speaker="evaluator"):
    """Base and trained model were compared on the same rows by an exact paired test (McNemar)."""

    comparison_id: UUID
    job_id: UUID
    base: Score
    trained: Score
    improved: int
    regressed: int
    unchanged: int
    # Difference of accuracies, trained minus base, with its paired 95 % interval.
    difference: float
    difference_low: float
    difference_high: float
    p_value: Ratio
    verdict: Literal["improved", "regressed", "no difference shown"]
