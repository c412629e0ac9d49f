"""Plans without a job: what a recipe would run as, and whether it fits."""

from __future__ import annotations

from fastapi import APIRouter

from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan
from services.gateway.access import Serving
from services.gateway.admission import preview, resolve

router = APIRouter(tags=["plans"])


@router.post("/plans")
async def plan(recipe: Recipe, runtime: Serving) -> Plan:
    """The configuration the planner would choose on the hosts of this moment, and why the others lost."""
    resolved, dataset = await resolve(runtime, recipe)
    return await preview(runtime, resolved, dataset)
