"""What the runner hears and answers about registered hosts: how they are reached, and what tests of the way found."""

from __future__ import annotations

from typing import Annotated

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.host_access import (
    AccessList,
    AccessRequest,
    AccessView,
    CheckpointCopy,
    CheckpointCopyRequest,
    HostPinned,
    HostRegistered,
    HostRemoved,
    HostReport,
    HostSetUp,
    HostSetupRequested,
    HostTested,
    HostTestRequested,
    HostTrusted,
    ReportAnswer,
    ReportQuestion,
    Verification,
    VerifyQuestion,
)
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue
from ltp.store.database import Database
from services.runner import hosts_store, store
from services.runner.checkpoint_copies import begun_copy
from services.runner.fleet import Fleet
from services.runner.host_setup import compared

SERVICE = "runner"
TEST_KIND, SETUP_KIND = "host-test", "host-setup"
router = NatsRouter()
Data = Annotated[Database, Context("database")]

for event in (HostPinned, HostTested, HostSetUp):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, HostRegistered))
async def register(event: HostRegistered, unit: InboxUnit) -> None:
    await hosts_store.register(unit, event)


@router.subscriber(**heard_by(SERVICE, HostRemoved))
async def remove(event: HostRemoved, unit: InboxUnit) -> None:
    await hosts_store.remove(unit, event.host_id)


@router.subscriber(**heard_by(SERVICE, HostTrusted))
async def trust(event: HostTrusted, unit: InboxUnit) -> None:
    await hosts_store.trust(unit, event.host_id, event.fingerprint)


@router.subscriber(**heard_by(SERVICE, HostTestRequested))
async def queue_test(event: HostTestRequested, unit: InboxUnit) -> None:
    await hosts_store.open_report(unit, event.host_id, event.report_id)
    payload = event.model_dump(mode="json")
    enqueue(unit, Queue.TRAINING, TEST_KIND, payload, dedup_key=f"{TEST_KIND}:{event.report_id}")


@router.subscriber(**heard_by(SERVICE, HostSetupRequested))
async def queue_setup(event: HostSetupRequested, unit: InboxUnit) -> None:
    await hosts_store.open_report(unit, event.host_id, event.report_id)
    payload = event.model_dump(mode="json")
    enqueue(unit, Queue.DEFAULT, SETUP_KIND, payload, dedup_key=f"{SETUP_KIND}:{event.report_id}")


@router.subscriber(**answered_by(SERVICE, "verify"))
@replies
async def verify(question: VerifyQuestion, fleet: Annotated[Fleet, Context("fleet")]) -> Verification:
    try:
        found = await compared(fleet.backend(question.host_id), question.role)
    except OSError as error:
        raise LtpError(
            ErrorCode.HOST_UNREACHABLE, str(error), f"`ltp host test {question.host_id}` tells more."
        ) from error
    return Verification.model_validate(found)


@router.subscriber(**answered_by(SERVICE, "access"))
@replies
async def list_access(request: AccessRequest, database: Data) -> AccessList:
    rows = await hosts_store.all_hosts(database.engine, request.host_id)
    found = [_view(row) for row in rows]
    if request.host_id is not None:
        report = await hosts_store.read_report(database.engine, request.host_id)
        found = [view.model_copy(update={"report": _report(report)}) for view in found]
    return AccessList(hosts=found)


@router.subscriber(**answered_by(SERVICE, "report"))
@replies
async def read_report(question: ReportQuestion, database: Data) -> ReportAnswer:
    row = await hosts_store.read_report(database.engine, question.host_id, question.report_id)
    return ReportAnswer(report=_report(row))


@router.subscriber(**answered_by(SERVICE, "checkpoint-copy"))
@replies
async def copy_checkpoint(
    request: CheckpointCopyRequest, database: Data, fleet: Annotated[Fleet, Context("fleet")]
) -> CheckpointCopy:
    async with database.unit() as unit:
        origin = await store.checkpoint_origin(unit, request.path)
    try:
        found = await begun_copy(fleet, request.path, origin, weights_only=request.weights_only)
    except OSError as error:
        hint = "It is fetched when the host answers again."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, f"{request.path} cannot be fetched: {error}", hint) from error
    return CheckpointCopy(path=None if found is None else str(found))


def _view(row: hosts_store.Row) -> AccessView:
    known = {
        name: row[name] for name in ("host_id", "access", "secret", "fingerprint", "shown_fingerprint", "reached_at")
    }
    problem = None if row["problem"] is None else Problem.model_validate(row["problem"])
    return AccessView(**known, problem=problem)


def _report(row: hosts_store.Row | None) -> HostReport | None:
    if row is None:
        return None
    known = {name: row[name] for name in ("report_id", "host_id", "state", "checks", "started_at", "ended_at")}
    return HostReport(ok=all(check["verdict"] != "fail" for check in row["checks"]), **known)
