"""Operations on models (merges, averages, exports …): what is asked for, what happens to it, and the questions about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Event, Value
from ltp.contracts.pages import PageQuery
from ltp.contracts.values import Name, Problem
from ltp.core.lifecycle import OperationState

# "merge": a recipe of ltp.contracts.merge_recipe; "lora": {model, base_model, rank, modules}; the others: of
# ltp.contracts.checkpoint_recipes.
OperationKind = Literal["merge", "lora", "average", "select", "export", "diff"]


class OperationSpec(Value):
    """What to do. References in the recipe are absolute paths by the time it is accepted."""

    kind: OperationKind = "merge"
    name: Name
    recipe: dict[str, Any]
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    # Whether the result is loaded and read back before it counts.
    proof: bool = True
    # What computes it, for a merge or an average: `gpu` leases one, `auto` takes one where the platform's machine has it.
    device: Literal["auto", "cpu", "gpu"] = "cpu"
    # Evaluations of the result. As asked: {datasets, scorer, min_accuracy …}; as accepted: {evaluations, min_accuracy}, each
    # evaluation an EvaluationRequested that the evaluator takes up when it hears of the success.
    evaluate: dict[str, Any] | None = None


class OperationRequested(Event, subject="ltp.operation.v1.requested", speaker="gateway"):
    """A user asked for an operation and its preflight found nothing against it."""

    operation_id: UUID
    spec: OperationSpec


class OperationCancellationRequested(Event, subject="ltp.operation.v1.cancellation-requested", speaker="gateway"):
    """A user asked that an operation end; what is half done is removed."""

    operation_id: UUID


class OperationPauseRequested(Event, subject="ltp.operation.v1.pause-requested", speaker="gateway"):
    """A user asked that an operation stop for now; what is done is kept."""

    operation_id: UUID


class OperationResumeRequested(Event, subject="ltp.operation.v1.resume-requested", speaker="gateway"):
    """A user asked that a paused operation go on."""

    operation_id: UUID


class OperationAccepted(Event, subject="ltp.operation.v1.accepted", speaker="gateway"):
    """A user found the result good."""

    operation_id: UUID
    note: str = ""


class OperationRejected(Event, subject="ltp.operation.v1.rejected", speaker="gateway"):
    """A user found the result not good; it stays on the disk and says so."""

    operation_id: UUID
    note: str = ""


class OperationStarted(Event, subject="ltp.operation.v1.started", speaker="surgery"):
    """The work is under way: for the first time, or again after a pause or a crash."""

    operation_id: UUID


class OperationPaused(Event, subject="ltp.operation.v1.paused", speaker="surgery"):
    """The work stopped and holds no processor; it goes on where it was."""

    operation_id: UUID


class OperationSucceeded(Event, subject="ltp.operation.v1.succeeded", speaker="surgery"):
    """The result is on the disk, checked and described."""

    operation_id: UUID
    kind: str
    name: Name
    path: str
    # Of the operation: the same inputs with the same recipe have the same one.
    digest: str
    size_bytes: int
    # The result was there already.
    reused: bool
    proof: dict[str, Any] | None = None
    # What was found out: the choice, a soup's trials, a difference by layers.
    report: dict[str, Any] | None = None
    evaluate: dict[str, Any] | None = None


class OperationJudged(Event, subject="ltp.operation.v1.judged", speaker="surgery"):
    """Every evaluation that was asked for with the operation is over, and its accuracy was held against the bar."""

    operation_id: UUID
    decision: Literal["accepted", "rejected"]
    reasons: list[str]


class OperationFailed(Event, subject="ltp.operation.v1.failed", speaker="surgery"):
    """There is no result; `problem` says why and what to do."""

    operation_id: UUID
    problem: Problem


class OperationCancelled(Event, subject="ltp.operation.v1.cancelled", speaker="surgery"):
    """The operation ended because a user asked for it; nothing is left of it."""

    operation_id: UUID


class OperationView(Value):
    """An operation as it stands."""

    operation_id: UUID
    kind: str
    name: str
    state: OperationState
    spec: OperationSpec
    # {stage, done_bytes, total_bytes, eta_seconds ...} while it runs.
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    problem: Problem | None
    decision: Literal["accepted", "rejected"] | None
    decision_note: str | None
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class OperationQuery(PageQuery):
    """Which operation, or which ones."""

    operation_id: UUID | None = None
    state: OperationState | None = None


class OperationList(Value):
    """Operations, newest first."""

    operations: list[OperationView]


class PreflightAnswer(Value):
    """What an operation would do: models, sizes, memory, findings."""

    summary: dict[str, Any]
    # The spec with every reference made an absolute path.
    spec: OperationSpec
