"""What the planner hears, and what it says back: a plan that fits, or why none does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.host import HostSeen
from ltp.contracts.job import JobSubmitted
from ltp.contracts.plan import PlanMade, PlanRefused, PlanRequest
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, Problem
from ltp.core.errors import LtpError
from ltp.planning.pools import HostFacts
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.planner import policy, store
from ltp.model_files import read_model
from services.planner.rows import check_rows

SERVICE = "planner"
router = NatsRouter()

_LOOKS, _LOOK_SECONDS = 25, 0.2

for event in (PlanMade, PlanRefused):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, HostSeen))
async def see_host(event: HostSeen, unit: InboxUnit) -> None:
    await store.see_host(unit, event)


@router.subscriber(**heard_by(SERVICE, JobSubmitted))
async def plan_job(event: JobSubmitted, unit: InboxUnit, database: Annotated[Database, Context("database")]) -> None:
    plan_id = new_id()
    try:
        plan = await _plan(event.recipe, event.dataset, await _hosts(database))
    except LtpError as error:
        problem = Problem.of(error)
        await store.save(unit, plan_id, event.job_id, event.recipe_hash, problem=problem.model_dump())
        unit.emit(PlanRefused(job_id=event.job_id, problem=problem), about=event.job_id)
        return
    await store.save(unit, plan_id, event.job_id, event.recipe_hash, plan=plan.model_dump())
    made = PlanMade(plan_id=plan_id, job_id=event.job_id, recipe=event.recipe, dataset=event.dataset, plan=plan)
    unit.emit(made, about=plan_id)


@router.subscriber(**answered_by(SERVICE, "plan"))
@replies
async def preview(request: PlanRequest, database: Annotated[Database, Context("database")]) -> Plan:
    return await _plan(request.recipe, request.dataset, await _hosts(database))


async def _hosts(database: Database) -> list[HostFacts]:
    """All known hosts; on a platform that has just started, the first may be about to say what it has."""
    for _ in range(_LOOKS):
        async with database.unit() as unit:
            hosts = await store.known_hosts(unit)
        if hosts:
            return hosts
        await asyncio.sleep(_LOOK_SECONDS)
    return []


async def _plan(recipe: Recipe, dataset: DatasetVersion, hosts: list[HostFacts]) -> Plan:
    """Load, decide: the model's configuration from the disk, the rest pure."""
    check_rows(recipe, dataset)
    architecture = await asyncio.to_thread(read_model, Path(recipe.model.path))
    return policy.choose(recipe, architecture, hosts)
