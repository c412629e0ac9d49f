"""Checkpoints and their keeping: which lie on the disk and why, pinned and unpinned, removed."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query

from ltp.bus.rpc import ask
from ltp.contracts.checkpoint_keeping import (
    CheckpointList,
    CheckpointPinRequested,
    CheckpointRemovalRequested,
    CheckpointsRequest,
    KeptCheckpoint,
)
from ltp.contracts.event import Event
from ltp.contracts.pages import PageQuery
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway.access import Serving
from services.gateway.listing import SORT, Cursor, PageLimit, Paging, part_of
from services.gateway.routes.jobs import show_job

router = APIRouter(tags=["checkpoints"])

CheckpointOrder = Literal["-written_at", "written_at", "-step", "step", "-size_bytes", "size_bytes", "-value", "value"]

DryRun = Annotated[bool, Query(description="Say what would happen, and change nothing.")]


class CheckpointAnswer(KeptCheckpoint):
    """The checkpoint after a request about it, and in words what the request does."""

    message: str


@router.get("/checkpoints")
async def list_checkpoints(
    runtime: Serving,
    paging: Paging,
    job_id: UUID | None = None,
    gone: Annotated[bool, Query(description="Those that were removed, too.")] = False,
    sort: Annotated[CheckpointOrder, SORT] = "written_at",
    cursor: Cursor = None,
    limit: PageLimit = 1000,
) -> list[KeptCheckpoint]:
    """Checkpoints of a job, or of all, the oldest first, with why each stays. The header `Link` leads to the next page."""
    if job_id is not None:
        await show_job(job_id, runtime.database.engine)
    found = await _ask(runtime, CheckpointsRequest(job_id=job_id))
    there = [one for one in found if gone or one.removed_at is None]

    async def read(page: PageQuery) -> list[KeptCheckpoint]:
        return part_of(there, page, "checkpoint_id")

    return (await paging.page(read, identity="checkpoint_id", sort=sort, cursor=cursor, limit=limit)).items


@router.get("/checkpoints/{checkpoint_id}")
async def show_checkpoint(checkpoint_id: UUID, runtime: Serving) -> KeptCheckpoint:
    """One checkpoint."""
    found = await _ask(runtime, CheckpointsRequest(checkpoint_id=checkpoint_id))
    if not found:
        hint = "`ltp checkpoint list` shows them all."
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no checkpoint {checkpoint_id}.", hint)
    return found[0]


@router.post("/checkpoints/{checkpoint_id}/pin", status_code=202)
async def pin_checkpoint(checkpoint_id: UUID, runtime: Serving, dry_run: DryRun = False) -> CheckpointAnswer:
    """Have a checkpoint stay, whatever the recipe's rule says."""
    return await _pin(runtime, checkpoint_id, pinned=True, dry_run=dry_run)


@router.post("/checkpoints/{checkpoint_id}/unpin", status_code=202)
async def unpin_checkpoint(checkpoint_id: UUID, runtime: Serving, dry_run: DryRun = False) -> CheckpointAnswer:
    """Let the recipe's rule hold for a checkpoint again."""
    return await _pin(runtime, checkpoint_id, pinned=False, dry_run=dry_run)


@router.delete("/checkpoints/{checkpoint_id}", status_code=202)
async def remove_checkpoint(checkpoint_id: UUID, runtime: Serving, dry_run: DryRun = False) -> CheckpointAnswer:
    """Delete a checkpoint's training state. Refused for one that is pinned, or the newest, from which its job resumes."""
    known = await _there(runtime, checkpoint_id)
    firm = [why for why in known.kept_because if why == "pinned" or why.startswith("the newest")]
    if firm:
        message = f"The checkpoint of step {known.step} stays: {', '.join(firm)}."
        raise LtpError(ErrorCode.CONFLICT, message, "Unpin it; the newest one of a job is never deleted.")
    used = [why for why in known.kept_because if why in {"in use", "not exported yet"}]
    when = f"It goes as soon as it is no longer {' and '.join(used)}." if used else "It goes in a few seconds."
    event = CheckpointRemovalRequested(checkpoint_id=checkpoint_id, job_id=known.job_id)
    return await _request(runtime, known, event, when, dry_run)


async def _pin(runtime: Runtime, checkpoint_id: UUID, *, pinned: bool, dry_run: bool) -> CheckpointAnswer:
    known = await _there(runtime, checkpoint_id)
    word = "pinned" if pinned else "not pinned"
    if known.pinned == pinned:
        return CheckpointAnswer(**dict(known), message=f"It is {word} already; nothing was done.")
    event = CheckpointPinRequested(checkpoint_id=checkpoint_id, job_id=known.job_id, pinned=pinned)
    message = "It stays until it is unpinned." if pinned else "The rule of its recipe holds for it again."
    return await _request(runtime, known, event, message, dry_run)


async def _request(
    runtime: Runtime, known: KeptCheckpoint, event: Event, message: str, dry_run: bool
) -> CheckpointAnswer:
    if dry_run:
        return CheckpointAnswer(**dict(known), message=f"Nothing was done. {message}")
    async with runtime.database.unit() as unit:
        unit.emit(event, about=known.checkpoint_id)
    return CheckpointAnswer(**dict(known), message=message)


async def _there(runtime: Runtime, checkpoint_id: UUID) -> KeptCheckpoint:
    """The checkpoint, which must not be gone."""
    known = await show_checkpoint(checkpoint_id, runtime)
    if known.removed_at is not None:
        message = f"The checkpoint of step {known.step} was removed at {known.removed_at:%Y-%m-%d %H:%M}."
        raise LtpError(ErrorCode.CONFLICT, message, "Its exported model, where there is one, is still there.")
    return known


async def _ask(runtime: Runtime, request: CheckpointsRequest) -> list[KeptCheckpoint]:
    return (await ask(runtime.client, "runner", "checkpoints", request, CheckpointList)).checkpoints
