"""What the planner found for a job."""

from __future__ import annotations

from uuid import UUID

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
