"""Commands of schedules and pipelines, taken from the queue and put to the very door that users come through."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from ltp.contracts.admission import Admission, AdmissionRefused, Pruning, TelemetryPruned, What
from ltp.contracts.dataset import DatasetUploaded, ReadOptions
from ltp.contracts.job import JobCancellationRequested, JobOptions
from ltp.contracts.operation import OperationCancellationRequested, OperationQuery, OperationRequested, OperationSpec
from ltp.contracts.pipeline import Origin, PipelineRunSubmitted, PipelineSpec
from ltp.contracts.pipeline_graph import literal_paths
from ltp.contracts.recipe import Recipe
from ltp.contracts.stages import DatasetSettings
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import JOB, OPERATION, JobState
from ltp.queue.work import Work, finish
from ltp.queue.worker import Held
from ltp.security.identity import DEFAULT_PROJECT
from ltp.service.runtime import Runtime
from ltp.store.acting import ACTING, Acting, acting_project
from ltp.store.clock import now
from ltp.store.database import Unit
from services.gateway import store, store_owners
from services.gateway.admission import admit_job, record_job
from services.gateway.inputs import locate, pin, still_same
from services.gateway.operations import find_operations, preflight
from services.gateway.uploads import digest_file

# What is to be done in the transaction that ends the work.
Effect = Callable[[Unit], Awaitable[None]]
_JOBS_A_TRANSACTION = 20
_LOOKS, _LOOK_SECONDS = 60, 0.05


async def obey(held: Held, runtime: Runtime) -> None:
    """Check a command as a user's would be, then let it through in the transaction that ends the work: once."""
    admission = Admission.model_validate(held.work.payload)
    project = await _project_of(runtime, admission)
    ACTING.set(Acting(actor=f"pipeline:{admission.what}", project=project))
    try:
        await still_same(runtime, admission.inputs)
        effect = await _DOORS[admission.what](runtime, admission)
    except ValidationError as error:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{admission.what}: {error}"[:2000], "See docs/pipelines.md."
        ) from error
    async with runtime.database.unit() as unit:
        await effect(unit)
        await finish(unit, held.work)


async def _project_of(runtime: Runtime, admission: Admission) -> str:
    """The project of the run or schedule that asks: its fact of what it started says so, and may arrive a moment later."""
    if admission.project is not None:
        return admission.project
    noun = str(admission.noun_id)
    for _ in range(_LOOKS if admission.what != "pruning" else 1):
        found = await store_owners.owners_of(runtime.database.engine, [noun])
        if found:
            return found[noun]
        await asyncio.sleep(_LOOK_SECONDS)
    return DEFAULT_PROJECT


async def tell_refusal(unit: Unit, work: Work, problem: Problem) -> None:
    """Say that the door refused a command."""
    admission = Admission.model_validate(work.payload)
    refused = AdmissionRefused(noun_id=admission.noun_id, what=admission.what, problem=problem)
    unit.emit(refused, about=admission.noun_id)


async def import_dataset(runtime: Runtime, dataset_id: UUID, settings: DatasetSettings) -> DatasetUploaded:
    """Copy a file of this machine to where uploads lie; from there on it is as uploaded."""
    source = locate(runtime, settings.path or "")
    target = runtime.settings.root() / "uploads" / str(dataset_id)
    digest, size = await asyncio.to_thread(_copy, source, target)
    return DatasetUploaded(
        dataset_id=dataset_id,
        name=settings.name,
        options=ReadOptions(project=acting_project()),
        filename=source.name[:200],
        path=str(target),
        sha256=digest,
        size_bytes=size,
        holdout=settings.holdout,
    )


async def _job(runtime: Runtime, admission: Admission) -> Effect:
    acting = ACTING.get()
    options = JobOptions(project=acting.project or DEFAULT_PROJECT) if acting else None
    event = await admit_job(runtime, Recipe.model_validate(admission.body), admission.noun_id, options)

    async def effect(unit: Unit) -> None:
        await record_job(unit, event)

    return effect


async def _job_cancellation(runtime: Runtime, admission: Admission) -> Effect:
    row = await store.job(runtime.database.engine, admission.noun_id)
    if row is None:
        # Its submission is at the door at this moment: tried again soon.
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, f"Job {admission.noun_id} is not admitted yet.")
    over = JOB.is_over(JobState(row["state"]))

    async def effect(unit: Unit) -> None:
        if not over:
            unit.emit(JobCancellationRequested(job_id=admission.noun_id), about=admission.noun_id)

    return effect


async def _operation(runtime: Runtime, admission: Admission) -> Effect:
    name = f"{admission.body['name']}-{admission.noun_id.hex[-8:]}"
    spec = OperationSpec.model_validate({**admission.body, "name": name})
    event = OperationRequested(operation_id=admission.noun_id, spec=(await preflight(runtime, spec)).spec)

    async def effect(unit: Unit) -> None:
        unit.emit(event, about=event.operation_id)

    return effect


async def _operation_cancellation(runtime: Runtime, admission: Admission) -> Effect:
    found = await find_operations(runtime, OperationQuery(operation_id=admission.noun_id))
    if not found:
        # Surgery has not heard of it yet: tried again soon.
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, f"Operation {admission.noun_id} is not known yet.")

    async def effect(unit: Unit) -> None:
        if not OPERATION.is_over(found[0].state):
            unit.emit(OperationCancellationRequested(operation_id=admission.noun_id), about=admission.noun_id)

    return effect


async def _dataset(runtime: Runtime, admission: Admission) -> Effect:
    event = await import_dataset(runtime, admission.noun_id, DatasetSettings.model_validate(admission.body))

    async def effect(unit: Unit) -> None:
        row = {"name": event.name, "filename": event.filename, "size_bytes": event.size_bytes}
        await store.add_dataset(unit, {"dataset_id": event.dataset_id, **row})
        unit.emit(event, about=event.dataset_id)

    return effect


async def _pipeline(runtime: Runtime, admission: Admission) -> Effect:
    spec = PipelineSpec.model_validate(admission.body["spec"])
    event = PipelineRunSubmitted(
        run_id=admission.noun_id,
        spec=spec,
        inputs=await pin(runtime, literal_paths(spec)),
        origin=Origin.model_validate(admission.body["origin"]),
        trigger=admission.body.get("trigger", {}),
        project=acting_project(),
    )

    async def effect(unit: Unit) -> None:
        unit.emit(event, about=event.run_id)

    return effect


async def _pruning(runtime: Runtime, admission: Admission) -> Effect:
    """Many small transactions, then the news of all: a second try finds less left to do."""
    before = now() - timedelta(days=Pruning.model_validate(admission.body).days)
    rows = jobs = 0
    while True:
        async with runtime.database.unit() as unit:
            gone, of = await store.prune_steps(unit, before, _JOBS_A_TRANSACTION)
        rows, jobs = rows + gone, jobs + of
        if of < _JOBS_A_TRANSACTION:
            break
    event = TelemetryPruned(tick_id=admission.noun_id, rows=rows, jobs=jobs)

    async def effect(unit: Unit) -> None:
        unit.emit(event, about=event.tick_id)

    return effect


_DOORS: dict[What, Callable[[Runtime, Admission], Awaitable[Effect]]] = {
    "job": _job,
    "job-cancellation": _job_cancellation,
    "dataset": _dataset,
    "operation": _operation,
    "operation-cancellation": _operation_cancellation,
    "pipeline": _pipeline,
    "pruning": _pruning,
}


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Returns (SHA-256, bytes). A copy begun by one who died is written over."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return digest_file(target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise LtpError(
            ErrorCode.DATASET_UNREADABLE, f"{source} cannot be read ({error.strerror}).", "Check path and rights."
        ) from error
