"""What the runner hears and answers about the keeping of checkpoints."""

from __future__ import annotations

from typing import Annotated

from faststream import Context
from faststream.nats import NatsRouter

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import answered_by, replies
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.checkpoint import CheckpointExported, CheckpointExportFailed
from ltp.contracts.checkpoint_keeping import (
    CheckpointList,
    CheckpointPinned,
    CheckpointPinRequested,
    CheckpointRemovalRequested,
    CheckpointRemoved,
    CheckpointsRequest,
    CheckpointUnpinned,
)
from ltp.service.runtime import Runtime
from services.runner import keeping_store
from services.runner.fleet import Fleet
from services.runner.keeping import account

SERVICE = "runner"
router = NatsRouter()

for event in (CheckpointPinned, CheckpointUnpinned, CheckpointRemoved):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, CheckpointPinRequested))
async def pin(event: CheckpointPinRequested, unit: InboxUnit) -> None:
    row = await keeping_store.mark(unit, event.checkpoint_id, pinned=event.pinned)
    if row is not None:
        kind = CheckpointPinned if event.pinned else CheckpointUnpinned
        fact = kind(checkpoint_id=event.checkpoint_id, job_id=event.job_id, step=row["step"])
        unit.emit(fact, about=event.checkpoint_id)


@router.subscriber(**heard_by(SERVICE, CheckpointRemovalRequested))
async def want_removal(event: CheckpointRemovalRequested, unit: InboxUnit) -> None:
    # The next look deletes it, if nothing keeps it then.
    await keeping_store.mark(unit, event.checkpoint_id, removal_wanted=True)


@router.subscriber(**heard_by(SERVICE, CheckpointExported))
async def settle(event: CheckpointExported, unit: InboxUnit) -> None:
    await keeping_store.mark(unit, event.checkpoint_id, settled=True)


@router.subscriber(**heard_by(SERVICE, CheckpointExportFailed))
async def settle_failed(event: CheckpointExportFailed, unit: InboxUnit) -> None:
    await keeping_store.mark(unit, event.checkpoint_id, settled=True)


@router.subscriber(**answered_by(SERVICE, "checkpoints"))
@replies
async def list_checkpoints(
    request: CheckpointsRequest,
    fleet: Annotated[Fleet, Context("fleet")],
    runtime: Annotated[Runtime, Context("runtime")],
) -> CheckpointList:
    rows = await keeping_store.find(fleet.database.engine, request)
    known = await account(fleet, runtime.client, rows)
    wanted = [c for c in known if request.checkpoint_id in {None, c.checkpoint_id}]
    return CheckpointList(checkpoints=wanted)
