"""What the dataset service hears and is asked about duplicates and leaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.dedup import (
    DedupApplied,
    DedupApplyRequested,
    DedupCompleted,
    DedupFailed,
    DedupList,
    DedupQuestion,
    DedupRequested,
    DedupRun,
    DedupsRequest,
    LeakCheck,
    LeakCheckCompleted,
    LeakCheckFailed,
    LeakCheckRequested,
    LeakChecks,
    LeaksRequest,
    LeakWarnings,
    Removal,
    RemovalPage,
    Thresholds,
    VersionRef,
)
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue
from services.dataset.apart import apart
from services.dataset.dedup import store, tasks
from services.dataset.dedup.leakcheck import leak_warnings
from services.dataset.dedup.work import open_compared, record_of
from services.dataset.vectors.library import Library

SERVICE = "dataset"
router = NatsRouter()

Held = Annotated[Library, Context("library")]

for event in (DedupCompleted, DedupFailed, DedupApplied, LeakCheckCompleted, LeakCheckFailed):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, DedupRequested))
async def queue_dedup(event: DedupRequested, unit: InboxUnit) -> None:
    values = event.ask.model_dump(mode="json", include={"method", "part", "model", "thresholds"})
    values |= {"dedup_id": event.dedup_id, "name": event.name, "version": event.version}
    await store.add(unit, store.dedups, values | {"against": [ref.model_dump() for ref in event.against]})
    payload = {"dedup_id": str(event.dedup_id)}
    enqueue(unit, Queue.PREPROCESSING, "dedup", payload, dedup_key=f"dedup:{event.dedup_id}")


@router.subscriber(**heard_by(SERVICE, DedupApplyRequested))
async def queue_apply(event: DedupApplyRequested, unit: InboxUnit) -> None:
    payload = event.model_dump(mode="json")
    enqueue(unit, Queue.PREPROCESSING, "dedup-apply", payload, dedup_key=f"dedup-apply:{payload['dataset_id']}")


@router.subscriber(**heard_by(SERVICE, LeakCheckRequested))
async def queue_check(event: LeakCheckRequested, unit: InboxUnit) -> None:
    values = {"check_id": event.check_id, "name": event.name, "version": event.version, "project": event.project}
    values |= {"ask": event.ask.model_dump(mode="json"), "against": [ref.model_dump() for ref in event.against]}
    await store.add(unit, store.leak_checks, values)
    payload = {"check_id": str(event.check_id)}
    enqueue(unit, Queue.PREPROCESSING, "leak-check", payload, dedup_key=f"leak-check:{event.check_id}")


@router.subscriber(**answered_by(SERVICE, "dedups"))
@replies
async def list_dedups(request: DedupsRequest, library: Held) -> DedupList:
    rows = await store.listed(library.database.engine, store.dedups, request.name, request)
    return DedupList(dedups=[DedupRun.model_validate(dict(row)) for row in rows])


@router.subscriber(**answered_by(SERVICE, "removals"))
@replies
async def show_removals(request: DedupQuestion, library: Held) -> RemovalPage:
    row = await store.one(library.database.engine, store.dedups, request.dedup_id)
    if row is None:
        message = f"There is no search for duplicates {request.dedup_id}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp dataset dedup list NAME` shows what there is.")
    shown = DedupRun.model_validate(dict(row))
    if shown.state != "completed":
        return RemovalPage(dedup=shown, total=0, offset=request.offset, removals=[])
    thresholds = _moved(shown.thresholds, request)
    compared = await open_compared(library, row)
    total, items = await apart(
        tasks.show, row["method"], compared, thresholds, record_of(library, request.dedup_id),
        request.offset, request.limit,
    )  # fmt: skip
    at = shown.model_copy(update={"thresholds": thresholds, "removals": total})
    page = [Removal.model_validate(item) for item in items]
    return RemovalPage(dedup=at, total=total, offset=request.offset, removals=page)


@router.subscriber(**answered_by(SERVICE, "leaks"))
@replies
async def show_leaks(request: LeaksRequest, library: Held) -> LeakChecks:
    engine = library.database.engine
    if request.check_id is not None:
        row = await store.one(engine, store.leak_checks, request.check_id)
        if row is None:
            message = f"There is no leak check {request.check_id}."
            raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp dataset leaks NAME` makes one.")
        return LeakChecks(checks=[_check(row)])
    rows = await store.listed(engine, store.leak_checks, request.name or "", request, request.version)
    return LeakChecks(checks=[_check({**row, "found": []}) for row in rows])


@router.subscriber(**answered_by(SERVICE, "leak-warnings"))
@replies
async def warn_of_leaks(request: VersionRef, library: Held) -> LeakWarnings:
    frozen = await library.frozen(request)
    return await leak_warnings(library.database.engine, request.project, frozen.name, frozen.version)


def _check(row: Mapping[str, Any]) -> LeakCheck:
    return LeakCheck.model_validate(dict(row))


def _moved(thresholds: Thresholds, request: DedupQuestion) -> Thresholds:
    cosine = thresholds.cosine if request.cosine is None else request.cosine
    return Thresholds(cosine=cosine, jaccard=thresholds.jaccard if request.jaccard is None else request.jaccard)
