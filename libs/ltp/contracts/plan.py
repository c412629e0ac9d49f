"""What the planner found for a job."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Event, Value
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, PlanRejection, Problem


class PlanMade(Event, subject="ltp.plan.v1.made", speaker="planner"):
    """A configuration that fits. Carries the recipe, so that no listener depends on having heard the submission first."""

    plan_id: UUID
    job_id: UUID
    recipe: Recipe
    dataset: DatasetVersion
    plan: Plan
    # The attempt that outgrew the plan before this one; null for a job's first plan.
    after_attempt: int | None = None


class PlanRefused(Event, subject="ltp.plan.v1.refused", speaker="planner"):
    """No configuration fits, or the model cannot be read; `problem` says what would help."""

    job_id: UUID
    problem: Problem
    # The attempt that outgrew its plan, when no smaller one exists.
    after_attempt: int | None = None


class PlanRequest(Value):
    """The question to the planner: what would this recipe run as? Changes nothing."""

    recipe: Recipe
    dataset: DatasetVersion


class Remedy(Value):
    """A change that was tried on the memory model and does make a recipe fit, with its price."""

    change: str
    # The recipe's field and the value it should get; none where the change is to the hardware or the model.
    field: str | None = None
    value: int | None = None
    price: str
    # Predicted seconds of the run over those of the plan before; None where no speed is known or nothing fitted.
    slowdown: float | None = None


class PlanReport(Value):
    """Every plan worth having, best first, and the rest with the reason against it."""

    plans: list[Plan]
    # Positions in `plans` that no other beats in speed, cost, devices and headroom together.
    pareto: list[int]
    candidates: int
    # Candidates that fit; `rejected` are all others, or the nearest misses of them.
    fitting: int
    rejected: list[PlanRejection]
    remedies: list[Remedy] = Field(default_factory=list[Remedy])
    # verl's overrides of the first plan, exactly as the runner would pass them (paths of an attempt are placeholders).
    overrides: list[str] = Field(default_factory=list[str])
    problem: Problem | None = None


class ReportRequest(Value):
    """The question `report` to the planner: every plan worth having, on the platform's hosts or on described `hardware`."""

    recipe: Recipe
    dataset: DatasetVersion
    # As `ltp plan --hardware` takes it: `h100:8`.
    hardware: list[str] = Field(default_factory=list)


class ReplanRequest(Value):
    """The question `replan` to the planner: another plan for a job whose plan did not hold, with the same effective batch.

    `out-of-memory`: the plan ran and did not fit; give the peak if it is known. `no-room`: the leased devices have less
    memory free than the plan needs; give `free_bytes`. The answer is a Plan that differs from `failed` and is predicted to
    need less, or a PLAN_DOES_NOT_FIT problem.
    """

    recipe: Recipe
    dataset: DatasetVersion
    failed: Plan
    reason: Literal["out-of-memory", "no-room"] = "out-of-memory"
    # What the run reached on its fullest device before it ended, and what is free on the least free device now.
    measured_peak_bytes: int | None = None
    free_bytes: int | None = None
