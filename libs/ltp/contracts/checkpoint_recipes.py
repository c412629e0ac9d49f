"""What is asked of surgery on checkpoints: averages, selections, exports, differences. Shapes only; files are opened later."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ltp.contracts.faults import faults_of
from ltp.contracts.merge_recipe import DType
from ltp.core.averaging import ema_weights
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.selection import Candidate, NanPolicy, Rule, TieRule, stderr_of_interval, stderr_of_share

ModelName = Annotated[str, Field(min_length=1)]
AverageMethod = Literal["uniform", "last_k", "ema", "weighted", "interpolate", "greedy_soup"]
# Which settings belong to which method; one that belongs to another is a mistake worth saying.
_OWN: dict[str, set[str]] = {
    "uniform": set(),
    "last_k": {"k"},
    "ema": {"decay"},
    "weighted": {"weights"},
    "interpolate": {"alpha"},
    "greedy_soup": {"held_out", "scores", "direction", "max_rows"},
}


class _Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    def settings(self) -> dict[str, Any]:
        """As plain values, without what was not said."""
        return self.model_dump(mode="json", exclude_none=True)


class AverageRecipe(_Recipe):
    """An average of checkpoints, oldest first."""

    method: AverageMethod = "uniform"
    models: list[ModelName] = Field(min_length=1, max_length=1000)
    k: int | None = Field(default=None, ge=1)
    decay: float | None = Field(default=None, gt=0, lt=1)
    weights: list[float] | None = None
    # 0 is the first model, 1 the second.
    alpha: float | None = Field(default=None, ge=0, le=1)
    # Held-out texts: a .txt with one text a line, or a .jsonl.
    held_out: str | None = None
    # One score for each model: the order in which a soup tries them. Without it the held-out loss decides.
    scores: list[float] | None = None
    direction: Literal["max", "min"] | None = None
    max_rows: int | None = Field(default=None, ge=1, le=100_000)
    dtype: DType | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        foreign = {name for own in _OWN.values() for name in own if getattr(self, name) is not None} - _OWN[self.method]
        if foreign:
            raise ValueError(f"{min(foreign)} does not belong to {self.method}")
        needed = {"last_k": "k", "ema": "decay", "weighted": "weights", "interpolate": "alpha"}.get(self.method)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"{self.method} needs {needed}")
        if self.method == "greedy_soup" and not self.held_out:
            raise ValueError("greedy_soup needs held_out: texts that no checkpoint was trained or selected on")
        return self

    def check_members(self) -> None:
        """What depends on how many models there are, once a job's name has become its checkpoints. Raises INVALID_RECIPE."""
        count = len(self.models)
        twice = next((name for name in self.models if self.models.count(name) > 1), None)
        if twice is not None:
            raise invalid("average", f"{twice} stands twice", "Name each once; give it a weight instead.")
        if self.k is not None and self.k > count:
            raise invalid("average", f"k is {self.k}, and there are {count} checkpoints", "Lower k.")
        for name, values in (("weights", self.weights), ("scores", self.scores)):
            if values is not None and len(values) != count:
                raise invalid("average", f"{name} holds {len(values)} values for {count} models", "Give one for each.")
            if values is not None and not all(math.isfinite(value) for value in values):
                raise invalid("average", f"{name} holds NaN or infinity", "Leave that model out.")
        if self.weights is not None and abs(sum(self.weights)) < 1e-8:
            raise invalid("average", "the weights sum to zero", "Give weights that do not cancel out.")
        if self.method == "interpolate" and count != 2:
            raise invalid("average", f"interpolate takes 2 models, not {count}", "Use weighted for more.")

    def members(self) -> list[tuple[str, float]]:
        """Models with their weights; for a soup all of them, equally."""
        if self.method == "last_k":
            return [(name, 1.0) for name in self.models[-(self.k or 1) :]]
        if self.method == "ema":
            return list(zip(self.models, ema_weights(len(self.models), self.decay or 0.0), strict=True))
        if self.method == "weighted":
            return list(zip(self.models, self.weights or [], strict=True))
        if self.method == "interpolate":
            alpha = self.alpha or 0.0
            return list(zip(self.models, (1 - alpha, alpha), strict=True))
        return [(name, 1.0) for name in self.models]


class Scored(_Recipe):
    """A checkpoint with its score; the uncertainty as a standard error, a 95 % interval, or a number of rows of a share."""

    model: ModelName
    score: float | None = None
    stderr: float | None = Field(default=None, ge=0)
    low: float | None = None
    high: float | None = None
    rows: int | None = Field(default=None, ge=1)
    step: int | None = Field(default=None, ge=0)
    # The same metric on the split that is reported.
    report: float | None = None

    @model_validator(mode="after")
    def _one_uncertainty(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high come together")
        if sum(value is not None for value in (self.stderr, self.low, self.rows)) > 1:
            raise ValueError("give one of stderr, low and high, rows")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ValueError("low is above high")
        if self.rows is not None and self.score is not None and not (math.isnan(self.score) or 0 <= self.score <= 1):
            raise ValueError("rows goes with a score that is a share of them, in [0, 1]")
        return self

    def candidate(self) -> Candidate:
        """The same for the core."""
        stderr = self.stderr
        if self.low is not None and self.high is not None:
            stderr = stderr_of_interval(self.low, self.high)
        elif self.rows is not None and self.score is not None and math.isfinite(self.score):
            stderr = stderr_of_share(self.score, self.rows)
        return Candidate(self.model, self.score, stderr, self.step, self.report)


class SelectRecipe(_Recipe):
    """A choice between checkpoints by a metric."""

    candidates: list[Scored] = Field(min_length=1, max_length=10_000)
    metric: str = Field(default="score", min_length=1)
    direction: Literal["max", "min"] = "max"
    tie: TieRule = "earliest"
    within: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    nan: NanPolicy = "refuse"
    selected_on: str | None = None
    reported_on: str | None = None
    dtype: DType | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.selected_on is not None and self.selected_on == self.reported_on:
            raise ValueError(f"selected_on and reported_on are both {self.selected_on}: report on another split")
        names = [candidate.model for candidate in self.candidates]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands twice among the candidates")
        return self

    def rule(self) -> Rule:
        """The same for the core."""
        return Rule(self.direction, self.tie, self.within, self.nan)


class ExportRecipe(_Recipe):
    """A model directory or a verl checkpoint, as a model directory ready for others."""

    model: ModelName
    dtype: DType | Literal["keep"] = "keep"
    max_file_bytes: int = Field(default=5 * 10**9, ge=1 << 20)


class DiffRecipe(_Recipe):
    """How far a model lies from another, layer by layer."""

    model: ModelName
    base_model: ModelName


RECIPES: dict[str, type[_Recipe]] = {
    "average": AverageRecipe,
    "select": SelectRecipe,
    "export": ExportRecipe,
    "diff": DiffRecipe,
}


def invalid(kind: str, message: str, hint: str = "docs/surgery.md lists what it takes.") -> LtpError:
    """The error of a recipe that cannot be carried out whatever the files."""
    return LtpError(ErrorCode.INVALID_RECIPE, f"{kind}: {message}.", hint)


def check_checkpoint_recipe(kind: str, value: dict[str, Any]) -> Any:
    """The recipe of a kind, checked. Raises INVALID_RECIPE naming every key that is wrong."""
    try:
        return RECIPES[kind].model_validate(value)
    except ValidationError as error:
        raise invalid(kind, faults_of(error)) from error
