"""What surgery hears about operations, the questions it answers about them, and the work of carrying one out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.delivery import NotYetError
from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.evaluation import EvaluationFinished
from ltp.contracts.operation import (
    OperationAccepted,
    OperationCancellationRequested,
    OperationCancelled,
    OperationFailed,
    OperationJudged,
    OperationList,
    OperationPaused,
    OperationPauseRequested,
    OperationQuery,
    OperationRejected,
    OperationRequested,
    OperationResumeRequested,
    OperationSpec,
    OperationStarted,
    OperationSucceeded,
    OperationView,
    PreflightAnswer,
)
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import OperationState
from ltp.queue.policy import Queue
from ltp.queue.work import Work, enqueue, finish, request_cancel
from ltp.queue.worker import Held
from ltp.store.database import Database, Unit
from services.surgery import operations_store as store
from services.surgery.operation_process import ask_process, run_process
from services.surgery.policy import located, mentioned, verdict_of
from services.surgery.settings import SurgerySettings
from services.surgery.store import find_exports

SERVICE = "surgery"
router = NatsRouter()

for event in (
    *(OperationStarted, OperationPaused, OperationSucceeded, OperationFailed, OperationCancelled),
    OperationJudged,
):
    router.publisher(**said(event))

# An earlier try of the same operation may still be stopping.
_PATIENCE_SECONDS = 30.0
_TELL_SECONDS = 1.0


@router.subscriber(**heard_by(SERVICE, OperationRequested))
async def queue_operation(event: OperationRequested, unit: InboxUnit) -> None:
    if await store.open_operation(unit, event):
        _enqueue(unit, event.operation_id, 1, event.spec.device)
        return
    message = f"Another operation writes {event.spec.name}."
    await _close_failed(
        unit, event.operation_id, Problem(code=ErrorCode.CONFLICT, message=message, hint="Wait for it.")
    )


@router.subscriber(**heard_by(SERVICE, OperationPauseRequested))
async def pause(event: OperationPauseRequested, unit: InboxUnit) -> None:
    row = await _known(unit, event.operation_id)
    if row["state"] == OperationState.QUEUED and await request_cancel(
        unit, _key(row["operation_id"], row["round"]), only_unstarted=True
    ):
        await _close_paused(unit, event.operation_id)
    else:
        await store.wish(unit, event.operation_id, "pause")


@router.subscriber(**heard_by(SERVICE, OperationResumeRequested))
async def resume(event: OperationResumeRequested, unit: InboxUnit) -> None:
    await _known(unit, event.operation_id)
    row = await store.again(unit, event.operation_id)
    if row is not None:
        _enqueue(unit, event.operation_id, row["round"], row["spec"].get("device", "cpu"))


@router.subscriber(**heard_by(SERVICE, OperationCancellationRequested))
async def cancel(
    event: OperationCancellationRequested, unit: InboxUnit, settings: Annotated[SurgerySettings, Context("settings")]
) -> None:
    row = await _known(unit, event.operation_id)
    waiting = row["state"] == OperationState.PAUSED or (
        row["state"] == OperationState.QUEUED
        and await request_cancel(unit, _key(row["operation_id"], row["round"]), only_unstarted=True)
    )
    if not waiting:
        await store.wish(unit, event.operation_id, "cancel")
    else:
        await ask_process(settings.surgery_python, "discard", {"out": str(_target(settings, row["name"]))})
        await _close_cancelled(unit, event.operation_id)


@router.subscriber(**heard_by(SERVICE, OperationAccepted))
async def accept(event: OperationAccepted, unit: InboxUnit) -> None:
    await store.decide(unit, event.operation_id, "accepted", event.note)


@router.subscriber(**heard_by(SERVICE, OperationRejected))
async def reject(event: OperationRejected, unit: InboxUnit) -> None:
    await store.decide(unit, event.operation_id, "rejected", event.note)


@router.subscriber(**heard_by(SERVICE, EvaluationFinished))
async def judge(event: EvaluationFinished, unit: InboxUnit) -> None:
    row = await store.evaluated_by(unit, event.evaluation_id)
    if row is None:
        return
    accuracy = None if event.result.accuracy is None else event.result.accuracy.value
    known = await store.note_accuracy(unit, row["operation_id"], str(event.evaluation_id), event.dataset, accuracy)
    verdict = verdict_of(row["spec"]["evaluate"], known)
    if verdict is not None and row["decision"] is None:
        decision, reasons = verdict
        await store.decide(unit, row["operation_id"], decision, "; ".join(reasons))
        judged = OperationJudged(operation_id=row["operation_id"], decision=decision, reasons=reasons)
        unit.emit(judged, about=row["operation_id"])


@router.subscriber(**answered_by(SERVICE, "operations"))
@replies
async def list_operations(request: OperationQuery, database: Annotated[Database, Context("database")]) -> OperationList:
    rows = await store.find(database.engine, request)
    return OperationList(operations=[OperationView.model_validate(dict(row)) for row in rows])


@router.subscriber(**answered_by(SERVICE, "preflight"))
@replies
async def check(
    request: OperationSpec,
    database: Annotated[Database, Context("database")],
    settings: Annotated[SurgerySettings, Context("settings")],
) -> PreflightAnswer:
    known = await find_exports(database.engine, mentioned(request.kind, request.recipe))
    recipe = located(request.kind, request.recipe, settings.root() / "models", known)
    spec = request.model_copy(update={"recipe": recipe})
    other = await store.writing(database.engine, spec.name)
    if other is not None:
        hint = "Wait for it, cancel it, or choose another name."
        raise LtpError(ErrorCode.CONFLICT, f"Operation {other} writes {spec.name} and is not over.", hint)
    summary = await ask_process(settings.surgery_python, "check", _order(spec, settings))
    return PreflightAnswer(summary=summary, spec=spec)


async def carry_out(held: Held, database: Database, settings: SurgerySettings) -> None:
    """Run the operation in a process of its own; then note and say how it ended."""
    operation_id = UUID(held.work.payload["operation_id"])
    async with database.unit() as unit:
        row = await store.row(unit, operation_id)
        if row is None or not await store.begin(unit, operation_id):
            await finish(unit, held.work, cancelled=True)
            return
        unit.emit(OperationStarted(operation_id=operation_id), about=operation_id)
    spec, listener = OperationSpec.model_validate(row["spec"]), _Listener(database, held)
    order = _order(spec, settings) | {"patience_seconds": _PATIENCE_SECONDS}
    lease = held.work.placement
    gpus = lease.device_indexes if lease is not None and lease.device_kind == "gpu" else []
    result = await run_process(settings.surgery_python, order, listener.tell, gpus)
    if result is None and listener.wish == "cancel":
        await ask_process(settings.surgery_python, "discard", {"out": order["out"]})
    async with database.unit() as unit:
        if result is not None:
            await _close_succeeded(unit, operation_id, spec, result)
        elif listener.wish == "cancel":
            await _close_cancelled(unit, operation_id)
        elif listener.wish == "pause":
            await _close_paused(unit, operation_id)
        else:
            # Stopped by somebody else, on the way to a restart perhaps: tried again under the queue's rules.
            raise LtpError(
                ErrorCode.SERVICE_UNAVAILABLE, "The operation's process was stopped.", "It goes on by itself."
            )
        await finish(unit, held.work, cancelled=listener.wish == "cancel" and result is None)


async def tell_failure(unit: Unit, work: Work, problem: Problem) -> None:
    """Say that an operation has no result."""
    operation_id = UUID(work.payload["operation_id"])
    if problem.code == ErrorCode.CANCELLED:
        await _close_cancelled(unit, operation_id)
    else:
        await _close_failed(unit, operation_id, problem)


class _Listener:
    """Notes progress, at most once a second, and learns what the user wishes."""

    def __init__(self, database: Database, held: Held) -> None:
        self._database, self._held, self._id = database, held, UUID(held.work.payload["operation_id"])
        self._told, self._last = 0.0, dict[str, Any]()
        self.wish: str | None = None

    async def tell(self, progress: dict[str, Any] | None) -> bool:
        """Whether the work is to stop."""
        self._last = progress or self._last
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            async with self._database.unit() as unit:
                self.wish = await store.tell_progress(unit, self._id, self._last)
        if self._held.cancelled.is_set():
            # `ltp work cancel`, which knows nothing of operations.
            self.wish = "cancel"
        return self.wish is not None


def _order(spec: OperationSpec, settings: SurgerySettings) -> dict[str, Any]:
    """What the process is told on its standard input."""
    order = spec.model_dump(mode="json", include={"kind", "recipe", "seed", "proof", "device"})
    # What is announced as succeeded outlasts a power cut.
    return order | {"out": str(_target(settings, spec.name)), "python": settings.surgery_python, "flush": True}


def _target(settings: SurgerySettings, name: str) -> Path:
    return settings.root() / "models" / name


def _key(operation_id: UUID, number: int) -> str:
    return f"operation:{operation_id}:{number}"


def _enqueue(unit: Unit, operation_id: UUID, number: int, device: str) -> None:
    """Put an operation into the queue: one for a GPU is taken up when the scheduler has leased one to it, and gives it back by ending."""
    payload, wants = {"operation_id": str(operation_id)}, {"count": 1, "kind": "gpu"} if device == "gpu" else None
    enqueue(unit, Queue.DEFAULT, "operation", payload, dedup_key=_key(operation_id, number), wants=wants)


async def _known(unit: Unit, operation_id: UUID) -> Any:
    row = await store.row(unit, operation_id)
    if row is None:
        raise NotYetError(f"the operation {operation_id} is not known yet")
    return row


async def _close_succeeded(unit: Unit, operation_id: UUID, spec: OperationSpec, result: dict[str, Any]) -> None:
    if await store.change(unit, operation_id, OperationState.SUCCEEDED, result=result):
        fact = OperationSucceeded(
            operation_id=operation_id, kind=spec.kind, name=spec.name, evaluate=spec.evaluate, **result
        )
        unit.emit(fact, about=operation_id)


async def _close_failed(unit: Unit, operation_id: UUID, problem: Problem) -> None:
    if await store.change(unit, operation_id, OperationState.FAILED, problem=problem.model_dump()):
        unit.emit(OperationFailed(operation_id=operation_id, problem=problem), about=operation_id)


async def _close_cancelled(unit: Unit, operation_id: UUID) -> None:
    if await store.change(unit, operation_id, OperationState.CANCELLED):
        unit.emit(OperationCancelled(operation_id=operation_id), about=operation_id)


async def _close_paused(unit: Unit, operation_id: UUID) -> None:
    if await store.change(unit, operation_id, OperationState.PAUSED, wish=None):
        unit.emit(OperationPaused(operation_id=operation_id), about=operation_id)
