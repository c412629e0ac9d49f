"""Pipelines: runs submitted, shown, cancelled and resumed, and those that wait for events. The scheduler owns them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Response

from ltp.bus.rpc import ask
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.contracts.pipeline import (
    ArmedPipelines,
    Everything,
    Foreseen,
    Foresight,
    Lineage,
    LineageRequest,
    PipelineArmingRequested,
    PipelineDisarmingRequested,
    PipelineRunCancellationRequested,
    PipelineRunResumeRequested,
    PipelineRunSubmitted,
    PipelineSpec,
    RunPage,
    RunRequest,
    RunsRequest,
    RunState,
    RunView,
)
from ltp.contracts.pipeline_graph import literal_paths
from ltp.contracts.values import Name
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.recipe import content_hash
from ltp.service.runtime import Runtime
from ltp.store.acting import acting_project
from ltp.store.clock import new_id, now
from services.gateway.access import Serving
from services.gateway.inputs import pin
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.repeats import own_key
from services.gateway.walls import Caller

router = APIRouter(tags=["pipelines"])

RunOrder = Literal["-created_at", "created_at", "-name", "name", "-state", "state", "-ended_at", "ended_at"]

_LOOKS, _LOOK_SECONDS = 100, 0.05
# An event carries the pipeline, and NATS carries a megabyte.
_MAX_BYTES = 256 << 10


@router.post("/pipeline-runs", status_code=202)
async def submit_run(
    spec: PipelineSpec,
    runtime: Serving,
    response: Response,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header(max_length=200, min_length=1)] = None,
) -> RunView:
    """Run a pipeline. The same Idempotency-Key with the same pipeline gives the same run, however often it is sent."""
    _refuse_huge(spec)
    idempotency_key = None if idempotency_key is None else own_key(caller.project, idempotency_key)
    if spec.triggers:
        hint = "POST it to /api/v1/pipelines; `ltp pipeline submit` does so."
        raise LtpError(ErrorCode.INVALID_PIPELINE, "A pipeline with triggers is armed, not run.", hint)
    known = None if idempotency_key is None else await _find(runtime, RunRequest(idempotency_key=idempotency_key))
    if known is None:
        inputs = await pin(runtime, literal_paths(spec))
        event = PipelineRunSubmitted(
            run_id=new_id(), spec=spec, inputs=inputs, idempotency_key=idempotency_key, project=acting_project()
        )
        async with runtime.database.unit() as unit:
            unit.emit(event, about=event.run_id)
        # By its key, so that of two submissions at once both find the one that came first.
        run_id = None if idempotency_key else event.run_id
        known = await _seen(runtime, RunRequest(run_id=run_id, idempotency_key=idempotency_key))
    if known.spec_hash != content_hash(spec.model_dump(mode="json")):
        message = f"Idempotency-Key {idempotency_key!r} was used for another pipeline (run {known.run_id})."
        raise LtpError(ErrorCode.CONFLICT, message, "Use a new key for a new pipeline.")
    response.headers["Location"] = f"/api/v1/pipeline-runs/{known.run_id}"
    return known


@router.post("/pipeline-runs/preview")
async def preview_run(spec: PipelineSpec, runtime: Serving) -> Foreseen:
    """The stages in the order in which they would be done, and which would be reused. Changes nothing."""
    _refuse_huge(spec)
    inputs = await pin(runtime, literal_paths(spec))
    if spec.triggers:
        inputs = {}
    asked = Foresight(spec=spec, inputs=inputs, project=acting_project())
    return await ask(runtime.client, "scheduler", "pipeline-foresight", asked, Foreseen)


@router.get("/pipeline-runs")
async def list_runs(
    runtime: Serving,
    paging: Paging,
    state: RunState | None = None,
    sort: Annotated[RunOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> RunPage:
    """Runs, newest first, without their stages."""

    async def read(page: PageQuery) -> list[RunView]:
        return (
            await ask(runtime.client, "scheduler", "pipeline-runs", RunsRequest(state=state, **dict(page)), RunPage)
        ).runs

    page = await paging.page(read, identity="run_id", sort=sort, cursor=cursor, limit=limit)
    return RunPage(runs=page.items, next_cursor=page.next_cursor)


@router.get("/pipeline-runs/{run_id}")
async def show_run(run_id: UUID, runtime: Serving) -> RunView:
    """One run with its stages."""
    return await ask(runtime.client, "scheduler", "pipeline-run", RunRequest(run_id=run_id), RunView)


@router.post("/pipeline-runs/{run_id}/cancel", status_code=202)
async def cancel_run(run_id: UUID, runtime: Serving) -> RunView:
    """Ask that a run end. It is `cancelled` once its stages are over."""
    run = await show_run(run_id, runtime)
    if run.state != "running":
        raise LtpError(ErrorCode.CONFLICT, f"Run {run_id} is {run.state} already.", "Nothing is left to cancel.")
    async with runtime.database.unit() as unit:
        unit.emit(PipelineRunCancellationRequested(run_id=run_id), about=run_id)
    return run


@router.post("/pipeline-runs/{run_id}/resume", status_code=202)
async def resume_run(run_id: UUID, runtime: Serving) -> RunView:
    """Go on from the stages that failed; what succeeded stays as it is."""
    run = await show_run(run_id, runtime)
    if run.state not in {"failed", "cancelled"}:
        hint = "Only a failed or cancelled run can go on."
        raise LtpError(ErrorCode.CONFLICT, f"Run {run_id} is {run.state}.", hint)
    async with runtime.database.unit() as unit:
        unit.emit(PipelineRunResumeRequested(run_id=run_id), about=run_id)
    for _ in range(_LOOKS):
        seen = await show_run(run_id, runtime)
        if seen.round > run.round:
            return seen
        await asyncio.sleep(_LOOK_SECONDS)
    return run


@router.get("/pipeline-runs/{run_id}/lineage")
async def run_lineage(run_id: UUID, runtime: Serving) -> Lineage:
    """What a run made or reused, and all that was made from, as recorded when it was made."""
    await show_run(run_id, runtime)
    return await ask(runtime.client, "scheduler", "lineage", LineageRequest(run_id=run_id), Lineage)


@router.get("/artefacts/{digest}/lineage")
async def artefact_lineage(digest: str, runtime: Serving) -> Lineage:
    """Where an artefact comes from, by its digest."""
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise LtpError(ErrorCode.INVALID_REQUEST, f"{digest[:80]!r} is no digest.", "It has 64 hexadecimal digits.")
    return await ask(runtime.client, "scheduler", "lineage", LineageRequest(digest=digest), Lineage)


@router.post("/pipelines", status_code=202)
async def arm_pipeline(spec: PipelineSpec, runtime: Serving) -> ArmedPipelines:
    """Arm a pipeline with triggers, in place of an older one of its name: each event from now on starts a run."""
    _refuse_huge(spec)
    if not spec.triggers:
        hint = "Give it `triggers`, or POST it to /api/v1/pipeline-runs."
        raise LtpError(ErrorCode.INVALID_PIPELINE, "A pipeline without triggers waits for nothing.", hint)
    await pin(runtime, literal_paths(spec))
    event = PipelineArmingRequested(pipeline_id=new_id(), spec=spec, requested_at=now(), project=acting_project())
    async with runtime.database.unit() as unit:
        unit.emit(event, about=event.pipeline_id)
    for _ in range(_LOOKS):
        found = await list_pipelines(runtime)
        if any(p.pipeline_id == event.pipeline_id for p in found.pipelines):
            return ArmedPipelines(pipelines=[p for p in found.pipelines if p.pipeline_id == event.pipeline_id])
        await asyncio.sleep(_LOOK_SECONDS)
    raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, "Arming was asked for and not seen yet.", "See `ltp pipeline armed`.")


@router.get("/pipelines")
async def list_pipelines(runtime: Serving) -> ArmedPipelines:
    """Pipelines that wait for events, by name."""
    return await ask(runtime.client, "scheduler", "pipelines-armed", Everything(), ArmedPipelines)


@router.delete("/pipelines/{name}", status_code=202)
async def disarm_pipeline(name: Name, runtime: Serving) -> ArmedPipelines:
    """Let a pipeline's triggers start no more runs; runs under way go on."""
    found = [p for p in (await list_pipelines(runtime)).pipelines if p.name == name]
    if not found:
        raise LtpError(ErrorCode.NOT_FOUND, f"No pipeline {name!r} is armed.", "`ltp pipeline armed` shows all.")
    async with runtime.database.unit() as unit:
        unit.emit(PipelineDisarmingRequested(name=name), about=name)
    return ArmedPipelines(pipelines=found)


async def _find(runtime: Runtime, request: RunRequest) -> RunView | None:
    try:
        return await ask(runtime.client, "scheduler", "pipeline-run", request, RunView)
    except LtpError as error:
        if error.code is not ErrorCode.NOT_FOUND:
            raise
        return None


async def _seen(runtime: Runtime, request: RunRequest) -> RunView:
    for _ in range(_LOOKS):
        found = await _find(runtime, request)
        if found is not None:
            return found
        await asyncio.sleep(_LOOK_SECONDS)
    message = "The pipeline was accepted, and the scheduler has not taken it up yet."
    raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "It will; `ltp pipeline list` shows it then.")


def _refuse_huge(spec: PipelineSpec) -> None:
    size = len(spec.model_dump_json())
    if size > _MAX_BYTES:
        raise LtpError(ErrorCode.TOO_LARGE, f"The pipeline has {size} bytes; the limit is {_MAX_BYTES}.", "Split it.")
