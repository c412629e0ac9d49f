"""The overrides that a planned run would be given, before there is an attempt with paths of its own."""

from __future__ import annotations

from ltp.contracts.plan_report import PlanReport
from ltp.contracts.recipe import Recipe
from ltp.verl_recipe.verl_0_9 import planned_overrides


def with_overrides(report: PlanReport, recipe: Recipe, rows: int | None) -> PlanReport:
    """The report with verl's overrides of its first plan, where there is one."""
    if not report.plans:
        return report
    return report.model_copy(update={"overrides": planned_overrides(recipe, report.plans[0], train_rows=rows)})
