"""What surgery hears, and the work of turning a training checkpoint into a model that others can load."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from faststream.nats import NatsRouter
from nats.aio.client import Client

from ltp.bus.inbox import InboxUnit
from ltp.bus.rpc import ask
from ltp.bus.subscriptions import heard_by, said
from ltp.contracts.checkpoint import CheckpointExported, CheckpointExportFailed, CheckpointWritten
from ltp.contracts.host_access import CheckpointCopy, CheckpointCopyRequest
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import Work, enqueue, finish
from ltp.queue.worker import Held
from ltp.service.runtime import Runtime
from ltp.store.database import Unit
from services.surgery import store
from services.surgery.policy import weights_of

SERVICE = "surgery"
_COPY_POLL_SECONDS = 0.5
router = NatsRouter()

for event in (CheckpointExported, CheckpointExportFailed):
    router.publisher(**said(event))


@router.subscriber(**heard_by(SERVICE, CheckpointWritten))
async def queue_export(event: CheckpointWritten, unit: InboxUnit) -> None:
    await store.open_export(unit, event)
    key = f"export:{event.checkpoint_id}"
    enqueue(unit, Queue.DEFAULT, "export", event.model_dump(mode="json"), dedup_key=key)


async def export_checkpoint(held: Held, runtime: Runtime, python: str, models: Path) -> None:
    """Export in a process of its own, which alone needs torch; then say so."""
    database = runtime.database
    event = CheckpointWritten.model_validate(held.work.payload)
    target = models / str(event.job_id) / f"step-{event.step}"
    source = await brought_here(runtime.client, event.path)
    result = await _run_export(python, weights_of(source), target)
    async with database.unit() as unit:
        if await store.close_export(unit, event.checkpoint_id, result=result):
            fact = CheckpointExported(
                checkpoint_id=event.checkpoint_id,
                job_id=event.job_id,
                step=event.step,
                is_final=event.is_final,
                path=result["path"],
                size_bytes=result["size_bytes"],
                weights_sha256=result["weights_sha256"],
            )
            unit.emit(fact, about=event.checkpoint_id)
        await finish(unit, held.work)


async def brought_here(client: Client, path: str) -> Path:
    """Where a checkpoint lies on this machine: at once, or when the runner has copied its weights from another host."""
    if "://" not in path:
        return Path(path)
    while True:
        request = CheckpointCopyRequest(path=path, weights_only=True)
        answer = await ask(client, "runner", "checkpoint-copy", request, CheckpointCopy, timeout=15)
        if answer.path is not None:
            return Path(answer.path)
        await asyncio.sleep(_COPY_POLL_SECONDS)


async def tell_failure(unit: Unit, work: Work, problem: Problem) -> None:
    """Say that a checkpoint could not be exported."""
    event = CheckpointWritten.model_validate(work.payload)
    if await store.close_export(unit, event.checkpoint_id, problem=problem.model_dump()):
        fact = CheckpointExportFailed(
            checkpoint_id=event.checkpoint_id, job_id=event.job_id, step=event.step, problem=problem
        )
        unit.emit(fact, about=event.checkpoint_id)


async def _run_export(python: str, source: Path, target: Path) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        python, "-m", "services.surgery.export", str(source), str(target), stdout=PIPE, stderr=PIPE
    )
    try:
        stdout, stderr = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    last = stdout.decode(errors="replace").strip().splitlines()[-1:]
    if process.returncode == 0 and last:
        result: dict[str, Any] = json.loads(last[0])
        return result
    raise _problem(stderr.decode(errors="replace"), process.returncode)


def _problem(stderr: str, code: int | None) -> LtpError:
    """The problem the export process wrote as its last line, or what is known when it died without one."""
    lines = stderr.strip().splitlines()
    try:
        return Problem.model_validate_json(lines[-1]).error()
    except (IndexError, ValueError):
        said = lines[-1] if lines else "it said nothing"
        return LtpError(ErrorCode.EXPORT_FAILED, f"The export ended with code {code}: {said}", "See surgery's log.")
