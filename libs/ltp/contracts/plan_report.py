"""What a search for plans found, as the planner and `ltp plan` say it. Apart from the plan's events, which need far more to import."""

from __future__ import annotations

from pydantic import Field

from ltp.contracts.event import Value
from ltp.contracts.values import Plan, PlanRejection, Problem, Saying


class Remedy(Value):
    """A change that was tried on the memory model and does make a recipe fit, with its price."""

    change: str
    # The recipe's field and the value it should get; none where the change is to the hardware or the model.
    field: str | None = None
    value: int | None = None
    price: str
    change_said: Saying | None = None
    price_said: Saying | None = None
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
