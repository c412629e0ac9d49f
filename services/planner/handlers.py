"""What the planner hears, and what it says back: a plan that fits, or why none does; and how far its predictions were off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated
from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter
from opentelemetry import trace

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.attempt import AttemptStopped, AttemptSucceeded
from ltp.contracts.calibration import CalibrationDrifted, CalibrationUpdated
from ltp.contracts.dataset import DatasetVersion
from ltp.contracts.host import HostSeen
from ltp.contracts.host_access import HostRemoved
from ltp.contracts.job import JobOutgrown, JobSubmitted
from ltp.contracts.lease import LeaseGranted, LeaseReleased
from ltp.contracts.plan import PlanMade, PlanRefused, PlanRequest, ReplanRequest, ReportRequest
from ltp.contracts.plan_report import PlanReport
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Plan, Problem
from ltp.core.calibration import median_error
from ltp.core.errors import LtpError
from ltp.core.model_config import Architecture
from ltp.model_files import read_model
from ltp.planning.pools import HostFacts, described_host
from ltp.planning.space import Margins
from ltp.store.clock import new_id, now
from ltp.store.database import Database, Unit
from ltp.verl_recipe.planned import with_overrides
from services.planner import policy, store
from services.planner.calibration import Observation, intervals, observations, watch
from services.planner.gauges import PREDICTION_ERROR
from services.planner.rows import check_rows

SERVICE = "planner"
router = NatsRouter()

_tracer = trace.get_tracer("ltp.planner")
_LOOKS, _LOOK_SECONDS = 25, 0.2

for event in (PlanMade, PlanRefused, CalibrationUpdated, CalibrationDrifted):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, HostSeen))
async def see_host(event: HostSeen, unit: InboxUnit) -> None:
    await store.see_host(unit, event)


@router.subscriber(**heard_by(SERVICE, HostRemoved))
async def forget_host(event: HostRemoved, unit: InboxUnit) -> None:
    await store.forget_host(unit, event.host_id)


@router.subscriber(**heard_by(SERVICE, LeaseGranted))
async def note_lease(event: LeaseGranted, unit: InboxUnit) -> None:
    for share in event.placement.shares():
        await store.note_lease(
            unit,
            event.lease_id,
            host_id=share.host_id,
            device_kind=event.placement.device_kind,
            device_indexes=share.device_indexes,
        )


@router.subscriber(**heard_by(SERVICE, LeaseReleased))
async def note_release(event: LeaseReleased, unit: InboxUnit) -> None:
    await store.note_lease(unit, event.lease_id, released_at=now())


@router.subscriber(**heard_by(SERVICE, JobSubmitted))
async def plan_job(event: JobSubmitted, unit: InboxUnit, database: Annotated[Database, Context("database")]) -> None:
    plan_id, recipe = new_id(), event.recipe
    facts = {"recipe_hash": event.recipe_hash, "algorithm": recipe.algorithm}
    try:
        with _tracer.start_as_current_span("plan", attributes={"ltp.algorithm": recipe.algorithm}) as span:
            plan = await _plan(recipe, event.dataset, database)
            span.set_attributes({"ltp.plan.devices": plan.devices, "ltp.plan.device_kind": plan.device_kind})
    except LtpError as error:
        problem = Problem.of(error)
        await store.save(unit, plan_id, event.job_id, problem=problem.model_dump(), **facts)
        unit.emit(PlanRefused(job_id=event.job_id, problem=problem), about=event.job_id)
        return
    await store.save(unit, plan_id, event.job_id, plan=plan.model_dump(), **facts)
    made = PlanMade(plan_id=plan_id, job_id=event.job_id, recipe=recipe, dataset=event.dataset, plan=plan)
    unit.emit(made, about=plan_id)


@router.subscriber(**heard_by(SERVICE, JobOutgrown))
async def plan_smaller(event: JobOutgrown, unit: InboxUnit, database: Annotated[Database, Context("database")]) -> None:
    """A plan that ran out of memory is replaced by a smaller one with the same effective batch."""
    plan_id, recipe = new_id(), event.recipe
    facts = {"recipe_hash": recipe.hash(), "algorithm": recipe.algorithm}
    request = ReplanRequest(
        recipe=recipe, dataset=event.dataset, failed=event.plan, measured_peak_bytes=event.measured_peak_bytes,
        reason="out-of-memory" if event.free_bytes is None else "no-room", free_bytes=event.free_bytes,
    )  # fmt: skip
    try:
        plan = await _replan(request, database)
    except LtpError as error:
        problem = Problem.of(error)
        await store.save(unit, plan_id, event.job_id, problem=problem.model_dump(), **facts)
        refused = PlanRefused(job_id=event.job_id, problem=problem, after_attempt=event.attempt)
        unit.emit(refused, about=event.job_id)
        return
    await store.save(unit, plan_id, event.job_id, plan=plan.model_dump(), **facts)
    made = PlanMade(
        plan_id=plan_id,
        job_id=event.job_id,
        recipe=recipe,
        dataset=event.dataset,
        plan=plan,
        after_attempt=event.attempt,
    )
    unit.emit(made, about=plan_id)


@router.subscriber(**answered_by(SERVICE, "plan"))
@replies
async def preview(request: PlanRequest, database: Annotated[Database, Context("database")]) -> Plan:
    return await _plan(request.recipe, request.dataset, database)


@router.subscriber(**answered_by(SERVICE, "report"))
@replies
async def rank(request: ReportRequest, database: Annotated[Database, Context("database")]) -> PlanReport:
    recipe, architecture = request.recipe, await _model(request.recipe, request.dataset)
    hosts = [described_host(text) for text in request.hardware] or await _hosts(database)
    rows = request.dataset.splits[recipe.dataset.train_split].rows
    margins = await _margins(database)
    found = await asyncio.to_thread(policy.report, recipe, architecture, hosts, rows=rows, margins=margins)
    return with_overrides(found, recipe, rows)


@router.subscriber(**answered_by(SERVICE, "replan"))
@replies
async def replan(request: ReplanRequest, database: Annotated[Database, Context("database")]) -> Plan:
    return await _replan(request, database)


async def _replan(request: ReplanRequest, database: Database) -> Plan:
    architecture = await _model(request.recipe, request.dataset)
    hosts, margins = await _hosts(database), await _margins(database)
    return await asyncio.to_thread(policy.replan, request, architecture, hosts, margins=margins)


@router.subscriber(**heard_by(SERVICE, AttemptSucceeded))
async def learn(event: AttemptSucceeded, unit: InboxUnit) -> None:
    await _learn(unit, event)


@router.subscriber(**heard_by(SERVICE, AttemptStopped))
async def learn_from_stopped(event: AttemptStopped, unit: InboxUnit) -> None:
    await _learn(unit, event)


async def _learn(unit: Unit, event: AttemptSucceeded | AttemptStopped) -> None:
    """Compare what a run was measured to need with what was predicted; runs on processors measure nothing."""
    known = await store.plan_of_job(unit, event.job_id)
    if event.measured is None or known is None:
        return
    algorithm, first = known
    plan = event.plan or first
    for seen in observations(plan, algorithm, event.measured):
        row = {
            "attempt_id": event.attempt_id, "quantity": seen.quantity, "job_id": event.job_id, "group": seen.group,
            "predicted": seen.pair.predicted, "measured": seen.pair.measured, "plan": plan.model_dump(mode="json"),
        }  # fmt: skip
        if await store.add_measurement(unit, row):
            await _tell(unit, event.attempt_id, event.job_id, seen)


async def _tell(unit: Unit, attempt_id: UUID, job_id: UUID, seen: Observation) -> None:
    pairs = await store.pairs(unit, seen.quantity, seen.group)
    found, error = intervals(pairs)[seen.group], median_error(pairs[seen.group])
    PREDICTION_ERROR.labels(seen.quantity).observe(abs(seen.pair.excess))
    updated = CalibrationUpdated(
        attempt_id=attempt_id, job_id=job_id, quantity=seen.quantity, group=seen.group,
        predicted=seen.pair.predicted, measured=seen.pair.measured, error=seen.pair.excess,
        lower=found.lower, upper=found.upper, pairs=found.pairs, median_error=error,
    )  # fmt: skip
    unit.emit(updated, about=attempt_id)
    state, alarmed = await store.lock_drift(unit, seen.group, seen.quantity)
    alarm = watch(state, alarmed, seen.pair)
    await store.save_drift(unit, seen.group, seen.quantity, alarm.state, alarm.alarmed)
    if alarm.raised:
        statistic = max(alarm.state.above, alarm.state.below)
        drifted = CalibrationDrifted(
            quantity=seen.quantity, group=seen.group, direction=alarm.direction,
            statistic=statistic, limit=alarm.state.limit, median_error=error,
        )  # fmt: skip
        unit.emit(drifted, about=seen.group)


async def _hosts(database: Database) -> list[HostFacts]:
    """All known hosts; on a platform that has just started, the first may be about to say what it has."""
    for _ in range(_LOOKS):
        async with database.unit() as unit:
            hosts = await store.known_hosts(unit)
        if hosts:
            return hosts
        await asyncio.sleep(_LOOK_SECONDS)
    return []


async def _margins(database: Database) -> Margins:
    async with database.unit() as unit:
        return intervals(await store.pairs(unit, "memory"))


async def _model(recipe: Recipe, dataset: DatasetVersion) -> Architecture:
    """The dataset checked and the model's configuration read from the disk; all after that is pure."""
    check_rows(recipe, dataset)
    return await asyncio.to_thread(read_model, Path(recipe.model.path))


async def _plan(recipe: Recipe, dataset: DatasetVersion, database: Database) -> Plan:
    architecture = await _model(recipe, dataset)
    hosts, margins = await _hosts(database), await _margins(database)
    rows = dataset.splits[recipe.dataset.train_split].rows
    return await asyncio.to_thread(policy.choose, recipe, architecture, hosts, rows=rows, margins=margins)
