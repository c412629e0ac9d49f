"""A judge held against people's labels: the question, and the evaluator's answer."""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ltp.contracts.evaluation import Estimate
from ltp.contracts.event import Value

# So many fit into one message, and more say nothing new of a judge.
MOST_LABELS = 5000


class Label(BaseModel):
    """What a person says of one stored answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_id: str = Field(min_length=1, max_length=200)
    sample: int = Field(default=0, ge=0)
    right: bool


class CalibrationQuery(Value):
    """How far do an evaluation's verdicts agree with these labels? Changes nothing."""

    evaluation_id: UUID
    labels: list[Label] = Field(min_length=1, max_length=MOST_LABELS)


class CalibrationRecord(Value):
    """Verdicts against labels. `judged` is the accuracy by the verdicts alone, `corrected` the one that the labels imply.

    `corrected` is without bias where the labelled answers were drawn at random, however the judge errs.
    """

    evaluation_id: UUID
    scorer: str
    # Labelled answers with a verdict; `unjudged` have a label only.
    labelled: int
    unjudged: int
    both_right: int
    # The judge says right, the label wrong; and the other way round.
    false_right: int
    false_wrong: int
    both_wrong: int
    agreement: Estimate | None
    # Cohen's: agreement beyond chance. None where judge and labels are all the same.
    kappa: Estimate | None
    # Of the answers that people call right (wrong), the share that the judge calls so; None without such answers.
    sensitivity: Estimate | None
    specificity: Estimate | None
    judged: Estimate
    corrected: Estimate
    warnings: list[str]
