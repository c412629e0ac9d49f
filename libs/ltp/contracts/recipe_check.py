"""The question whether verl would take a recipe's own overrides, and whether its reward works on rows of its dataset."""

from __future__ import annotations

from pydantic import Field

from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Value
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan


class RecipeCheckAsked(Value):
    """A resolved recipe at the door, with the plan it would get (None while the planner is away)."""

    recipe: Recipe
    dataset: DatasetVersion
    plan: Plan | None = None


class RewardTrial(Value):
    """One row of the dataset and what its reward gave: for the row's own answer, and for an empty response."""

    row_id: str
    answer_score: float | None = None
    empty_score: float | None = None
    problem: str | None = None


class RecipeChecked(Value):
    """What was tried. A recipe that failed is answered by an error instead."""

    checked: bool
    why: str = ""
    trials: list[RewardTrial] = Field(default_factory=list[RewardTrial])
    warnings: list[str] = Field(default_factory=list[str])
