"""The kinds of stages a pipeline is made of: what each takes and what it gives.

A new kind is one class and one entry in `STAGE_KINDS`; how the scheduler carries it out is one entry in
`services/scheduler/pipelines/kinds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ltp.contracts.merge_recipe import MergeRecipe
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Name, Ratio, Sha256

Scalar = bool | int | float | str
# The end of an id is put behind it.
ResultName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
_OPERATORS = ("at_least", "above", "at_most", "below", "equals", "differs")


class Settings(BaseModel):
    """Settings of a stage; a misspelt key is an error at the door."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Reference(Settings):
    """`{from: STAGE.OUTPUT}`, `{from: matrix.AXIS}` or `{from: trigger.FIELD}`: the one way to name a value found later."""

    source: str = Field(alias="from", pattern=r"^[a-z][a-z0-9_-]{0,49}\.[a-z][a-z0-9_]{0,49}$")

    @property
    def owner(self) -> str:
        """The stage, or `matrix`, or `trigger`."""
        return self.source.partition(".")[0]

    @property
    def output(self) -> str:
        """What of it."""
        return self.source.partition(".")[2]


class Condition(Settings):
    """A value held against a limit by exactly one comparison. A list holds when every value in it does."""

    value: Any
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    equals: Scalar | None = None
    differs: Scalar | None = None

    @model_validator(mode="after")
    def _one_comparison(self) -> Condition:
        given = [name for name in _OPERATORS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_OPERATORS)}")
        values: list[Any] = self.value if isinstance(self.value, list) else [self.value]  # pyright: ignore[reportUnknownVariableType]
        for value in values:
            if isinstance(value, dict | list) or value is None:
                raise ValueError("value is a number, a text, or {from: STAGE.OUTPUT}")
            if given[0] in _OPERATORS[:4] and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{given[0]} compares numbers, and the value is {value!r}; use equals or differs")
        return self


class DatasetSettings(Settings):
    """A frozen dataset: `path` imports a file that the gateway's machine can read; without it one is waited for."""

    name: Name
    path: str | None = Field(default=None, min_length=1, max_length=4096)
    holdout: float = Field(default=0.1, ge=0, lt=1)
    version: Sha256 | None = Field(default=None, description="Wait for exactly this version; only without `path`.")

    @model_validator(mode="after")
    def _one_source(self) -> DatasetSettings:
        if self.path is not None and self.version is not None:
            raise ValueError("give `path` (to import) or `version` (to wait for), not both")
        return self


class TrainSettings(Settings):
    """A training job."""

    recipe: Recipe


class EvaluateSettings(Settings):
    """The paired comparison of a trained model with its base, which follows a job whose recipe has `evaluation`."""

    job: UUID


class MergeSettings(Settings):
    """A merge: mergekit's recipe (docs/surgery.md). The result is DATA/models/NAME-ID, so that runs do not meet."""

    name: ResultName
    recipe: MergeRecipe
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    proof: bool = Field(default=True, description="Whether the result is loaded and read back before it counts.")

    @model_validator(mode="after")
    def _sound(self) -> MergeSettings:
        faults = self.recipe.faults()
        if faults:
            raise ValueError("; ".join(f"{'.'.join(map(str, fault.where))}: {fault.message}" for fault in faults[:5]))
        return self


class AverageSettings(Settings):
    """The plain average of the weights of models of one shape: checkpoints of one training, or of several."""

    name: ResultName
    models: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(min_length=2, max_length=200)
    proof: bool = True


class ExportSettings(Settings):
    """The model of one of a job's earlier checkpoints; its last one is what the train stage itself gives."""

    job: UUID
    step: int = Field(gt=0)


class GateSettings(Settings):
    """Lets the pipeline pass while every condition holds."""

    conditions: list[Condition] = Field(min_length=1, max_length=50)


@dataclass(frozen=True)
class StageKind:
    """What a stage of this kind takes, and its outputs, each with a sample that shows its type."""

    settings: type[Settings]
    outputs: Mapping[str, Any]
    # Settings that must be references, and to the output of which kind: the value exists only while the pipeline runs.
    linked: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    # Where in the settings files or model directories are named, keys joined by dots, through every item of a list:
    # their content is an input.
    paths: tuple[str, ...] = ()


_DIGEST = "0" * 64
_ID = "01900000-0000-7000-8000-000000000000"
_SCORE: Ratio = 0.5
_MODEL = {"operation_id": _ID, "path": "/sample", "digest": _DIGEST, "size_bytes": 1}

STAGE_KINDS: dict[str, StageKind] = {
    "dataset": StageKind(DatasetSettings, {"name": "sample", "version": _DIGEST, "rows": 100}, paths=("path",)),
    "train": StageKind(
        TrainSettings,
        {"job_id": _ID, "path": "/sample", "digest": _DIGEST, "checkpoint_id": _ID, "steps": 1},
        paths=("recipe.model.path",),
    ),
    "evaluate": StageKind(
        EvaluateSettings,
        {
            "verdict": "improved",
            "difference": 0.0,
            "difference_low": -0.1,
            "difference_high": 0.1,
            "p_value": _SCORE,
            "accuracy": _SCORE,
            "base_accuracy": _SCORE,
            "improved": 1,
            "regressed": 1,
        },
        linked={"job": ("train", "job_id")},
    ),
    "merge": StageKind(
        MergeSettings, _MODEL, paths=("recipe.base_model", "recipe.models.model", "recipe.slices.sources.model")
    ),
    "average": StageKind(AverageSettings, _MODEL, paths=("models",)),
    "export": StageKind(
        ExportSettings,
        {"path": "/sample", "digest": _DIGEST, "checkpoint_id": _ID, "step": 1},
        linked={"job": ("train", "job_id")},
    ),
    "gate": StageKind(GateSettings, {"passed": True}),
}

# What an event that starts a pipeline gives to it.
TriggerEvent = Literal["dataset.frozen", "checkpoint.written", "checkpoint.exported"]
TRIGGER_OUTPUTS: dict[TriggerEvent, Mapping[str, Any]] = {
    "dataset.frozen": {"name": "sample", "version": _DIGEST, "rows": 100},
    "checkpoint.written": {"job_id": _ID, "checkpoint_id": _ID, "step": 1, "path": "/sample"},
    "checkpoint.exported": {"job_id": _ID, "checkpoint_id": _ID, "step": 1, "path": "/sample", "digest": _DIGEST},
}
