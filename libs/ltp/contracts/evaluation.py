"""Scores of models, and what two of them say about each other.

Version 1 of completed and failed tells of a job's base and trained model; version 2 of every other evaluation, which
may have no job. Neither is said for the other's.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.dataset import Split
from ltp.contracts.evaluation_spec import ModelUnderTest, RunSpec
from ltp.contracts.event import Event, Value
from ltp.contracts.values import Name, Problem, Ratio, Saying, Sha256


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


class DatasetUnderTest(Value):
    """The rows a model is asked: one split of one immutable version."""

    name: Name
    version: Sha256
    split_name: str
    split: Split


class Counts(Value):
    """What became of the samples. Only `right` and `wrong` make an accuracy; the rest is reported apart."""

    right: int = 0
    wrong: int = 0
    # Cut off by max_new_tokens: counted as wrong as well, since a cut answer has no conclusion.
    truncated: int = 0
    # Never answered (endpoint down, refused, context too long …), by kind.
    errors: dict[str, int] = Field(default_factory=dict[str, int])
    # Answered, but the scorer (a judge, a letter that is not there) could not say.
    unparsable: int = 0
    empty: int = 0
    without_reference: int = 0

    @property
    def scored(self) -> int:
        """How many samples the accuracy rests on."""
        return self.right + self.wrong


class Usage(Value):
    """What the answers took. `cached` were stored before and not generated again; `cost` is that of model and judge."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    judge_prompt_tokens: int = 0
    judge_completion_tokens: int = 0
    requests: int = 0
    retries: int = 0
    cached: int = 0
    cost: float | None = None
    seconds: float = 0.0


class Estimate(Value):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


class Result(Value):
    """What an evaluation found. `accuracy` is None where no sample could be scored: there is none, rather than 0."""

    accuracy: Estimate | None
    # wilson: one answer a row; clustered: several answers a row, or graded scores.
    method: Literal["wilson", "clustered"] = "wilson"
    counts: Counts
    usage: Usage
    rows: int
    # k -> unbiased pass@k, when several answers were drawn.
    pass_at: dict[str, float] = Field(default_factory=dict[str, float])
    perplexity: float | None = None
    # Why it ended before the last row.
    stopped: str | None = None
    # What a reader should know before trusting the number.
    warnings: list[str] = Field(default_factory=list[str])
    # The first of them by their codes, in the same order.
    warnings_said: list[Saying] = Field(default_factory=list[Saying])


class EvaluationRequested(Event, subject="ltp.evaluation.v1.requested", speaker="gateway"):
    """A user asked for a model to be evaluated; the request was checked at the door."""

    evaluation_id: UUID
    name: Name | None
    model: ModelUnderTest
    dataset: DatasetUnderTest
    spec: RunSpec
    device_kind: Literal["auto", "cpu", "gpu"] = "auto"


class EvaluationUploaded(Event, subject="ltp.evaluation.v1.uploaded", speaker="gateway"):
    """Results of another harness arrived whole and wait to be read."""

    evaluation_id: UUID
    name: Name | None
    path: str
    sha256: Sha256


class EvaluationCancellationRequested(Event, subject="ltp.evaluation.v1.cancellation-requested", speaker="gateway"):
    """A user asked that an evaluation end."""

    evaluation_id: UUID


class EvaluationRescoreRequested(Event, subject="ltp.evaluation.v1.rescore-requested", speaker="gateway"):
    """A user asked for another score of answers that are stored; nothing is generated. It becomes a new evaluation."""

    evaluation_id: UUID
    source_id: UUID
    name: Name | None
    spec: RunSpec


class EvaluationFinished(Event, subject="ltp.evaluation.v2.completed", speaker="evaluator"):
    """A model was scored on its own, or a checkpoint by its job's policy."""

    evaluation_id: UUID
    job_id: UUID | None
    checkpoint_id: UUID | None
    step: int | None
    name: str | None
    model: str
    dataset: str
    scorer: str
    result: Result


class EvaluationGivenUp(Event, subject="ltp.evaluation.v2.failed", speaker="evaluator"):
    """A model could not be scored; there is no accuracy rather than a wrong one."""

    evaluation_id: UUID
    job_id: UUID | None
    checkpoint_id: UUID | None
    problem: Problem


class EvaluationCancelled(Event, subject="ltp.evaluation.v1.cancelled", speaker="evaluator"):
    """An evaluation ended because a user asked for it; what was answered by then stays stored."""

    evaluation_id: UUID


class BestCheckpointChanged(Event, subject="ltp.checkpoint.v1.best-found", speaker="evaluator"):
    """The checkpoint of a job with the highest accuracy so far is another one now."""

    job_id: UUID
    checkpoint_id: UUID
    step: int
    evaluation_id: UUID
    accuracy: Ratio


class PromotionDecided(Event, subject="ltp.promotion.v1.decided", speaker="evaluator"):
    """The gate of a job's policy let a checkpoint pass, or did not; `reasons` holds the facts."""

    job_id: UUID
    checkpoint_id: UUID
    step: int
    evaluation_id: UUID
    promoted: bool
    reasons: list[str]


class RegressionFound(Event, subject="ltp.regression.v1.found", speaker="evaluator"):
    """A checkpoint is worse than the best before it, by a paired test over the same rows."""

    job_id: UUID
    checkpoint_id: UUID
    step: int
    evaluation_id: UUID
    than_evaluation_id: UUID
    difference: float
    p_value: Ratio
    # "" is all rows; else the label and its value, as `tenant=acme`.
    slice: str = ""
