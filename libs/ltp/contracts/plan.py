"""What the planner found for a job."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.event import Event, Value
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, Problem


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
