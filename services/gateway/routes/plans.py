"""Plans without a job: what a recipe would run as, and whether it fits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from ltp.bus.rpc import ask
from ltp.contracts.plan import ReportRequest
from ltp.contracts.plan_report import PlanReport
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from services.gateway.access import Serving
from services.gateway.admission import preview, resolve, try_own

router = APIRouter(tags=["plans"])


@router.post("/plans")
async def plan(recipe: Recipe, runtime: Serving) -> Plan:
    """The configuration the planner would choose on the hosts of this moment, and why the others lost."""
    resolved, dataset = await resolve(runtime, recipe)
    found = await preview(runtime, resolved, dataset)
    await try_own(runtime, resolved, dataset, found)
    return found


@router.post("/plans/report")
async def report(
    recipe: Recipe,
    runtime: Serving,
    hardware: Annotated[list[str] | None, Query(max_length=16, description="Instead of the hosts: `h100:8`.")] = None,
) -> PlanReport:
    """Every plan worth having, best first, the Pareto front, verl's overrides, and each near miss; or the remedies."""
    resolved, dataset = await resolve(runtime, recipe)
    request = ReportRequest(recipe=resolved, dataset=dataset, hardware=hardware or [])
    found = await ask(runtime.client, "planner", "report", request, PlanReport, timeout=30.0)
    # What a dry run promises: whatever the recipe brings along was tried.
    await try_own(runtime, resolved, dataset, found.plans[0] if found.plans else None)
    return found
