"""Pipelines: what a person writes, what happens to a run of one, and the questions about it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.stages import Scalar, Settings, TriggerEvent
from ltp.contracts.values import Name, Problem, Sha256

StageName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,49}$")]
Axis = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
RunState = Literal["running", "succeeded", "failed", "cancelled"]
StageState = Literal["waiting", "running", "succeeded", "reused", "skipped", "failed", "cancelled"]

MAX_STAGES = 200


class Trigger(Settings):
    """An event that starts a run of an armed pipeline."""

    event: TriggerEvent
    dataset: Name | None = Field(default=None, description="Only datasets of this name (dataset.frozen).")
    job: UUID | None = Field(default=None, description="Only checkpoints of this job.")
    final_only: bool = Field(default=True, description="Only a job's last checkpoint (checkpoint.exported).")

    @model_validator(mode="after")
    def _filters_fit(self) -> Trigger:
        if self.event != "dataset.frozen" and self.dataset is not None:
            raise ValueError(f"{self.event} has no dataset to filter by")
        if self.event == "dataset.frozen" and self.job is not None:
            raise ValueError("dataset.frozen has no job to filter by")
        return self


class When(Settings):
    """A condition as written: `value` is a reference, which the graph checks."""

    value: Any
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    equals: Scalar | None = None
    differs: Scalar | None = None


class StageSpec(Settings):
    """One stage: its kind, its settings, what must be over before, and how often it is made."""

    kind: str
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    needs: list[StageName] = Field(default_factory=list[StageName], max_length=MAX_STAGES)
    # Fan-out: one stage for each combination of the axes, or one for each of another stage's.
    matrix: dict[Axis, Annotated[list[Scalar], Field(min_length=1, max_length=MAX_STAGES)]] | None = None
    each: StageName | None = None
    # Left out where a condition does not hold; what needs it is left out too.
    when: list[When] = Field(default_factory=list[When], max_length=50)
    reuse: bool = True


class PipelineSpec(Settings):
    """A pipeline as written. The graph is checked here too, so that nothing cyclic or unknown passes any door."""

    name: Name
    triggers: list[Trigger] = Field(default_factory=list[Trigger], max_length=10)
    stages: dict[StageName, StageSpec] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _not_huge(cls, value: Any) -> Any:
        stages = value.get("stages") if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        if isinstance(stages, dict) and len(stages) > MAX_STAGES:  # pyright: ignore[reportUnknownArgumentType]
            raise ValueError(f"{len(stages)} stages are more than the limit of {MAX_STAGES}")  # pyright: ignore[reportUnknownArgumentType]
        return value  # pyright: ignore[reportUnknownVariableType]

    @model_validator(mode="after")
    def _sound(self) -> PipelineSpec:
        # Imported late: the graph is made of this module's models.
        from ltp.contracts.pipeline_graph import refuse_faults

        refuse_faults(self)
        return self


class Origin(Value):
    """Who asked for a run: a user, a tick of a schedule, or an event that an armed pipeline waited for."""

    kind: Literal["user", "schedule", "trigger"] = "user"
    id: UUID | None = None
    # How many triggered runs led here; bounded, so that pipelines cannot feed each other for ever.
    depth: int = 0


class PipelineRunSubmitted(Event, subject="ltp.pipeline.v1.run-submitted", speaker="gateway"):
    """A run of a pipeline was accepted at the door; the content of what it reads from the disk is pinned."""

    run_id: UUID
    spec: PipelineSpec
    # Path of a file or model directory named in the spec -> digest of its content.
    inputs: dict[str, str]
    idempotency_key: str | None = None
    origin: Origin = Origin()
    # Values of the event that triggered it.
    trigger: dict[str, Any] = Field(default_factory=dict[str, Any])
    project: Name = "default"


class PipelineRunCancellationRequested(Event, subject="ltp.pipeline.v1.run-cancellation-requested", speaker="gateway"):
    """A user asked that a run end."""

    run_id: UUID


class PipelineRunResumeRequested(Event, subject="ltp.pipeline.v1.run-resume-requested", speaker="gateway"):
    """A user asked that a failed or cancelled run go on from where it ended."""

    run_id: UUID


class PipelineArmingRequested(Event, subject="ltp.pipeline.v1.arming-requested", speaker="gateway"):
    """A user asked that a pipeline with triggers start runs from now on."""

    pipeline_id: UUID
    spec: PipelineSpec
    requested_at: datetime
    project: Name = "default"


class PipelineDisarmingRequested(Event, subject="ltp.pipeline.v1.disarming-requested", speaker="gateway"):
    """A user asked that a pipeline's triggers start no more runs."""

    name: Name


class PipelineArmed(Event, subject="ltp.pipeline.v1.armed", speaker="scheduler"):
    """From now on the pipeline's triggers start runs."""

    pipeline_id: UUID
    name: Name


class PipelineDisarmed(Event, subject="ltp.pipeline.v1.disarmed", speaker="scheduler"):
    """The pipeline's triggers start no more runs."""

    name: Name


class PipelineRunStarted(Event, subject="ltp.pipeline.v1.run-started", speaker="scheduler"):
    """A run is under way: for the first time, or again after a resume (`round` > 1)."""

    run_id: UUID
    name: Name
    round: int


class PipelineRunSucceeded(Event, subject="ltp.pipeline.v1.run-succeeded", speaker="scheduler"):
    """Every stage succeeded, was reused or was left out by its condition."""

    run_id: UUID
    name: Name


class PipelineRunFailed(Event, subject="ltp.pipeline.v1.run-failed", speaker="scheduler"):
    """A stage failed and nothing that does not need it is left to do."""

    run_id: UUID
    name: Name
    problem: Problem


class PipelineRunCancelled(Event, subject="ltp.pipeline.v1.run-cancelled", speaker="scheduler"):
    """The run ended because a user asked for it."""

    run_id: UUID
    name: Name


class StageStarted(Event, subject="ltp.stage.v1.started", speaker="scheduler"):
    """A stage's work was put to the door. `noun_id` is the id of the job, dataset or operation it becomes."""

    run_id: UUID
    stage: str
    kind: str
    noun_id: UUID
    attempt: int


class StageSucceeded(Event, subject="ltp.stage.v1.succeeded", speaker="scheduler"):
    """A stage has its outputs; `reused` when an earlier run had made them from the same inputs."""

    run_id: UUID
    stage: str
    kind: str
    digest: Sha256 | None
    outputs: dict[str, Any]
    reused: bool = False


class StageSkipped(Event, subject="ltp.stage.v1.skipped", speaker="scheduler"):
    """A stage's condition does not hold, or a stage it needs was left out."""

    run_id: UUID
    stage: str
    reason: str


class StageFailed(Event, subject="ltp.stage.v1.failed", speaker="scheduler"):
    """A stage ended without its outputs."""

    run_id: UUID
    stage: str
    kind: str
    problem: Problem


class StageCancelled(Event, subject="ltp.stage.v1.cancelled", speaker="scheduler"):
    """A stage ended because its run should."""

    run_id: UUID
    stage: str


# Questions to the scheduler.


class RunsRequest(PageQuery):
    """A page of runs."""

    state: RunState | None = None


class RunRequest(Value):
    """One run, by its id or by its idempotency key."""

    run_id: UUID | None = None
    idempotency_key: str | None = None


class StageView(Value):
    """A stage of a run."""

    key: str
    kind: str
    state: StageState
    needs: list[str]
    attempt: int = 0
    noun_id: UUID | None = None
    outputs: dict[str, Any] | None = None
    digest: str | None = None
    problem: Problem | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class RunView(Value):
    """A run with its stages, in the order in which they can be done. A page of runs leaves the stages out."""

    run_id: UUID
    name: Name
    state: RunState
    round: int = 1
    spec_hash: str
    origin: Origin
    cancel_requested: bool = False
    problem: Problem | None = None
    created_at: datetime
    ended_at: datetime | None = None
    stages: list[StageView] = Field(default_factory=list[StageView])


class RunPage(Value):
    """A page of runs. Pass `next_cursor` as `cursor` to read on; null on the last page."""

    runs: list[RunView]
    next_cursor: str | None = None


class Foresight(Value):
    """The question what a pipeline would do; it is not submitted."""

    spec: PipelineSpec
    inputs: dict[str, str]
    trigger: dict[str, Any] = Field(default_factory=dict[str, Any])
    project: Name = "default"


class ForeseenStage(Value):
    """A stage as it would go. `fate` is `unknown` where it depends on what earlier stages give."""

    key: str
    kind: str
    needs: list[str]
    fate: Literal["run", "reuse", "skip", "unknown"]


class Foreseen(Value):
    """The stages in the order in which they would be done."""

    name: Name
    stages: list[ForeseenStage]


class LineageRequest(Value):
    """Where an artefact comes from: by its digest, or all of a run."""

    run_id: UUID | None = None
    digest: Sha256 | None = None


class Made(Value):
    """An artefact, the stage that made it, and the digests of what it was made from."""

    digest: str
    kind: str
    run_id: UUID
    stage: str
    place: dict[str, Any]
    inputs: dict[str, str]
    made_at: datetime


class Lineage(Value):
    """Artefacts, what was asked for first, then what they were made from."""

    artefacts: list[Made]


class ArmedPipeline(Value):
    """A pipeline whose triggers start runs."""

    pipeline_id: UUID
    name: Name
    triggers: list[Trigger]
    armed_at: datetime


class ArmedPipelines(Value):
    """All of them, by name."""

    pipelines: list[ArmedPipeline]


class Everything(Value):
    """The question for all there are."""
