"""Operations on models: check, request, list, pause, resume, cancel, and what a user thinks of the result."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from ltp.contracts.event import Event
from ltp.contracts.operation import (
    OperationAccepted,
    OperationCancellationRequested,
    OperationPauseRequested,
    OperationQuery,
    OperationRejected,
    OperationRequested,
    OperationResumeRequested,
    OperationSpec,
    OperationView,
)
from ltp.contracts.pages import NEWEST_FIRST, PageQuery
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import OPERATION, OperationState
from ltp.core.merging import METHODS, Method, Parameter
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from services.gateway.access import Serving
from services.gateway.evaluation_requests import foreseen
from services.gateway.listing import SORT, Cursor, PageLimit, Paging
from services.gateway.operations import find_operations, preflight

router = APIRouter(tags=["operations"])

OperationOrder = Literal[
    "-created_at", "created_at", "-name", "name", "-kind", "kind", "-state", "state", "-started_at", "started_at",
    "-ended_at", "ended_at",
]  # fmt: skip


class MergeParameter(BaseModel):
    """A parameter of a method. `scope` says whether it is the merge's, every input's, or every input's but the base's."""

    name: str
    kind: Literal["number", "integer", "switch"]
    scope: Literal["shared", "input", "non_base"]
    default: float | bool | None
    low: float | None
    high: float | None
    required: bool


class MergeMethod(BaseModel):
    """A method and how many models it takes; the base is among them where `counts_base`."""

    name: str
    needs_base: bool
    counts_base: bool
    least_models: int
    most_models: int | None
    parameters: list[MergeParameter]


_HEARD_TRIES, _HEARD_SECONDS = 30, 0.1


class Decision(BaseModel):
    """Why a result is accepted or rejected."""

    note: str = Field(default="", max_length=2000)


@router.post("/operations/preflight")
async def check_operation(spec: OperationSpec, runtime: Serving) -> dict[str, Any]:
    """What an operation would do: models, sizes, memory, findings. Reads configurations and headers, no weights."""
    return (await preflight(runtime, spec)).summary


@router.post("/operations", status_code=202)
async def request_operation(spec: OperationSpec, runtime: Serving, response: Response) -> OperationView:
    """Request an operation. It is checked at once and carried out in the background; poll the Location."""
    answer = await preflight(runtime, spec)
    accepted = answer.spec
    if accepted.evaluate is not None:
        path = str(runtime.settings.root() / "models" / accepted.name)
        accepted = accepted.model_copy(update={"evaluate": await foreseen(runtime, accepted.evaluate, path)})
    event = OperationRequested(operation_id=new_id(), spec=accepted)
    await _say(runtime, event, event.operation_id)
    response.headers["Location"] = f"/api/v1/operations/{event.operation_id}"
    for _ in range(_HEARD_TRIES):
        found = await find_operations(runtime, OperationQuery(operation_id=event.operation_id))
        if found:
            return found[0]
        await asyncio.sleep(_HEARD_SECONDS)
    return _unheard(event)


@router.get("/operations")
async def list_operations(
    runtime: Serving,
    paging: Paging,
    state: OperationState | None = None,
    sort: Annotated[OperationOrder, SORT] = NEWEST_FIRST,
    cursor: Cursor = None,
    limit: PageLimit = 50,
) -> list[OperationView]:
    """Operations, newest first. The header `Link` leads to the next page."""

    async def read(page: PageQuery) -> list[OperationView]:
        return await find_operations(runtime, OperationQuery(state=state, **dict(page)))

    return (await paging.page(read, identity="operation_id", sort=sort, cursor=cursor, limit=limit)).items


@router.get("/operations/methods")
async def list_methods() -> list[MergeMethod]:
    """The methods of a merge with their parameters: what a form for one is made of."""
    return [_method(method) for method in METHODS.values()]


@router.get("/operations/{operation_id}")
async def show_operation(operation_id: UUID, runtime: Serving) -> OperationView:
    """One operation with its progress, result or problem."""
    found = await find_operations(runtime, OperationQuery(operation_id=operation_id))
    if not found:
        message = f"There is no operation {operation_id}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp operation list` shows all.")
    return found[0]


@router.post("/operations/{operation_id}/cancel", status_code=202)
async def cancel_operation(operation_id: UUID, runtime: Serving) -> OperationView:
    """Ask that an operation end; what is half done is removed."""
    found = await _in(runtime, operation_id, OperationState.CANCELLED, "cancelled")
    await _say(runtime, OperationCancellationRequested(operation_id=operation_id), operation_id)
    return found


@router.post("/operations/{operation_id}/pause", status_code=202)
async def pause_operation(operation_id: UUID, runtime: Serving) -> OperationView:
    """Ask that an operation stop for now; what is done is kept."""
    found = await _in(runtime, operation_id, OperationState.PAUSED, "paused")
    await _say(runtime, OperationPauseRequested(operation_id=operation_id), operation_id)
    return found


@router.post("/operations/{operation_id}/resume", status_code=202)
async def resume_operation(operation_id: UUID, runtime: Serving) -> OperationView:
    """Let a paused operation go on where it was."""
    found = await show_operation(operation_id, runtime)
    if found.state is not OperationState.PAUSED:
        raise LtpError(
            ErrorCode.CONFLICT, f"Operation {operation_id} is {found.state}, not paused.", "Nothing to resume."
        )
    await _say(runtime, OperationResumeRequested(operation_id=operation_id), operation_id)
    return found


@router.post("/operations/{operation_id}/accept", status_code=202)
async def accept_operation(operation_id: UUID, decision: Decision, runtime: Serving) -> OperationView:
    """Find a result good."""
    found = await _done(runtime, operation_id)
    await _say(runtime, OperationAccepted(operation_id=operation_id, note=decision.note), operation_id)
    return found


@router.post("/operations/{operation_id}/reject", status_code=202)
async def reject_operation(operation_id: UUID, decision: Decision, runtime: Serving) -> OperationView:
    """Find a result not good. It stays on the disk."""
    found = await _done(runtime, operation_id)
    await _say(runtime, OperationRejected(operation_id=operation_id, note=decision.note), operation_id)
    return found


async def _say(runtime: Runtime, event: Event, operation_id: UUID) -> None:
    async with runtime.database.unit() as unit:
        unit.emit(event, about=operation_id)


async def _in(runtime: Runtime, operation_id: UUID, target: OperationState, word: str) -> OperationView:
    """The operation, if it can still come to `target`."""
    found = await show_operation(operation_id, runtime)
    if not OPERATION.allows(found.state, target):
        message = f"Operation {operation_id} is {found.state} and cannot be {word}."
        raise LtpError(ErrorCode.CONFLICT, message, "`ltp operation get` shows where it stands.")
    return found


async def _done(runtime: Runtime, operation_id: UUID) -> OperationView:
    found = await show_operation(operation_id, runtime)
    if found.state is not OperationState.SUCCEEDED:
        message = f"Operation {operation_id} is {found.state}: there is no result to judge."
        raise LtpError(ErrorCode.CONFLICT, message, "Wait until it has succeeded.")
    return found


def _unheard(event: OperationRequested) -> OperationView:
    """A request that surgery has not heard of yet."""
    return OperationView(
        operation_id=event.operation_id,
        kind=event.spec.kind,
        name=event.spec.name,
        state=OperationState.QUEUED,
        spec=event.spec,
        progress=None,
        result=None,
        problem=None,
        decision=None,
        decision_note=None,
        requested_at=now(),
        started_at=None,
        ended_at=None,
    )


def _method(method: Method) -> MergeMethod:
    return MergeMethod(
        name=method.name, needs_base=method.needs_base, counts_base=method.counts_base, least_models=method.models[0],
        most_models=method.models[1], parameters=[_parameter(one) for one in method.parameters],
    )  # fmt: skip


def _parameter(one: Parameter) -> MergeParameter:
    kind = "switch" if one.kind is bool else "integer" if one.kind is int else "number"
    return MergeParameter(
        name=one.name, kind=kind, scope=one.scope.value, default=one.default, low=one.low, high=one.high,
        required=one.default is None and not one.optional,
    )  # fmt: skip
