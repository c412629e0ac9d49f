"""What the scheduler hears and answers about pipelines."""

from __future__ import annotations

from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.pipeline import (
    ArmedPipeline,
    ArmedPipelines,
    Everything,
    Foreseen,
    Foresight,
    Lineage,
    LineageRequest,
    Made,
    PipelineArmed,
    PipelineArmingRequested,
    PipelineDisarmed,
    PipelineDisarmingRequested,
    PipelineRunCancellationRequested,
    PipelineRunCancelled,
    PipelineRunFailed,
    PipelineRunResumeRequested,
    PipelineRunStarted,
    PipelineRunSubmitted,
    PipelineRunSucceeded,
    PipelineSpec,
    RunPage,
    RunRequest,
    RunsRequest,
    RunView,
    StageCancelled,
    StageFailed,
    StageSkipped,
    StageStarted,
    StageSucceeded,
    StageView,
)
from ltp.contracts.pipeline_graph import expand
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database, Unit
from services.scheduler.pipelines import policy, store
from services.scheduler.pipelines.engine import PIPELINES_CHANNEL, foresee

SERVICE = "scheduler"
router = NatsRouter()
_MOST_ARTEFACTS = 1000

for event in (
    *(PipelineArmed, PipelineDisarmed, PipelineRunStarted, PipelineRunSucceeded, PipelineRunFailed),
    *(PipelineRunCancelled, StageStarted, StageSucceeded, StageSkipped, StageFailed, StageCancelled),
):
    router.publisher(**said(event))

Stored = Annotated[Database, Context("database")]


@router.subscriber(**heard_by(SERVICE, PipelineRunSubmitted))
async def open_run(event: PipelineRunSubmitted, unit: InboxUnit) -> None:
    # Where the idempotency key is known the gateway finds the run that has it.
    if await store.add_run(unit, event, expand(event.spec)):
        unit.emit(PipelineRunStarted(run_id=event.run_id, name=event.spec.name, round=1), about=event.run_id)
        await unit.notify(PIPELINES_CHANNEL)


@router.subscriber(**heard_by(SERVICE, PipelineRunCancellationRequested))
async def cancel(event: PipelineRunCancellationRequested, unit: InboxUnit) -> None:
    run = await _locked(unit, event)
    if run.state == "running":
        await store.note_run(unit, run.run_id, cancel_requested=True, dirty=True)
        await unit.notify(PIPELINES_CHANNEL)


@router.subscriber(**heard_by(SERVICE, PipelineRunResumeRequested))
async def resume(event: PipelineRunResumeRequested, unit: InboxUnit) -> None:
    run = await _locked(unit, event)
    if run.state not in {"failed", "cancelled"}:
        return
    for row in await store.stages_of(unit, run.run_id):
        if policy.again(store.as_stage(row)):
            values = {"noun_id": None, "outputs": None, "digest": None, "problem": None, "abort_asked": False}
            await store.note_stage(unit, run.run_id, row["key"], [row["state"]], state="waiting", **values)
    changes = {"state": "running", "cancel_requested": False, "problem": None, "ended_at": None, "dirty": True}
    await store.note_run(unit, run.run_id, round=run.round + 1, **changes)
    unit.emit(PipelineRunStarted(run_id=run.run_id, name=run.name, round=run.round + 1), about=run.run_id)
    await unit.notify(PIPELINES_CHANNEL)


@router.subscriber(**heard_by(SERVICE, PipelineArmingRequested))
async def arm(event: PipelineArmingRequested, unit: InboxUnit) -> None:
    if await store.arm(unit, event.pipeline_id, event.spec, event.requested_at, event.project):
        unit.emit(PipelineArmed(pipeline_id=event.pipeline_id, name=event.spec.name), about=event.pipeline_id)


@router.subscriber(**heard_by(SERVICE, PipelineDisarmingRequested))
async def disarm(event: PipelineDisarmingRequested, unit: InboxUnit) -> None:
    if await store.disarm(unit, event.name):
        unit.emit(PipelineDisarmed(name=event.name), about=event.name)


@router.subscriber(**answered_by(SERVICE, "pipeline-runs"))
@replies
async def list_runs(request: RunsRequest, database: Stored) -> RunPage:
    rows = await store.page(database.engine, request)
    return RunPage(runs=[RunView.model_validate(dict(row)) for row in rows])


@router.subscriber(**answered_by(SERVICE, "pipeline-run"))
@replies
async def show_run(request: RunRequest, database: Stored) -> RunView:
    async with database.unit() as unit:
        row = await store.find_run(unit, request.run_id, request.idempotency_key)
        if row is None:
            message = f"There is no run {request.run_id or request.idempotency_key}."
            raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp pipeline list` shows all.")
        stages = [StageView.model_validate(dict(stage)) for stage in await store.stages_of(unit, row["run_id"])]
    return RunView.model_validate(dict(row) | {"stages": stages})


@router.subscriber(**answered_by(SERVICE, "pipeline-foresight"))
@replies
async def look_ahead(request: Foresight, database: Stored) -> Foreseen:
    async with database.unit() as unit:
        stages = await foresee(unit, request.spec, request.inputs, request.trigger, request.project)
        return Foreseen(name=request.spec.name, stages=stages)


@router.subscriber(**answered_by(SERVICE, "pipelines-armed"))
@replies
async def list_armed(request: Everything, database: Stored) -> ArmedPipelines:
    async with database.unit() as unit:
        return ArmedPipelines(pipelines=[_armed(row) for row in await store.all_armed(unit)])


@router.subscriber(**answered_by(SERVICE, "lineage"))
@replies
async def trace_back(request: LineageRequest, database: Stored) -> Lineage:
    """Breadth first from what was asked for, so that what is nearest comes first."""
    async with database.unit() as unit:
        if request.run_id is not None:
            digests = await store.digests_of(unit, request.run_id)
        else:
            digests = [request.digest] if request.digest else []
        found: dict[str, Made] = {}
        while digests and len(found) < _MOST_ARTEFACTS:
            new: dict[str, Made] = {}
            for row in await store.made(unit, digests):
                # The one who made it first; who made the same again adds nothing.
                new.setdefault(row["digest"], Made.model_validate(dict(row)))
            found |= {digest: new[digest] for digest in digests if digest in new}
            digests = list(dict.fromkeys(d for m in new.values() for d in m.inputs.values() if d not in found))
    if not found and request.digest is not None:
        message = f"No pipeline made {request.digest}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "Lineage is recorded for what pipelines make.")
    return Lineage(artefacts=list(found.values()))


async def _locked(unit: Unit, event: PipelineRunCancellationRequested | PipelineRunResumeRequested) -> store.Run:
    run = await store.lock_run(unit, event.run_id)
    if run is None:
        raise NotYetError(f"run {event.run_id} is not known yet")
    return run


def _armed(row: Any) -> ArmedPipeline:
    triggers = PipelineSpec.model_validate(row["spec"]).triggers
    return ArmedPipeline.model_validate(dict(row) | {"triggers": triggers})
