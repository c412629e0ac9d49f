"""How an evaluation begins: noted, and put into the queue once its model is there."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ltp.contracts.evaluation import DatasetUnderTest, EvaluationRequested
from ltp.contracts.evaluation_spec import CheckpointModel, LocalModel, RunSpec, Sampling
from ltp.contracts.plan import PlanMade
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.policy import Queue
from ltp.queue.work import NewWork, enqueue, enqueue_many
from ltp.store.clock import new_id
from ltp.store.database import Unit
from services.evaluator import store
from services.evaluator.evaluation import give_up

WORK_KIND = "evaluate"


async def open_for_job(
    unit: Unit,
    made: PlanMade,
    kind: store.SubjectKind | None,
    path: str,
    checkpoint_id: UUID | None = None,
    step: int | None = None,
) -> None:
    """Evaluate a job's base model, its final checkpoint (`trained`), or one on the way (no kind), as its recipe says."""
    spec = made.recipe.evaluation
    if spec is None:
        return
    run = RunSpec.model_validate(
        {"scorer": spec.scorer, "max_rows": spec.max_rows, "sampling": Sampling(max_new_tokens=spec.max_new_tokens)}
    )
    dataset = DatasetUnderTest(
        name=made.dataset.name,
        version=made.dataset.version,
        split_name=spec.split,
        split=made.dataset.splits[spec.split],
    )
    key = f"{WORK_KIND}:{made.job_id}:{kind}" if kind else f"{WORK_KIND}:{checkpoint_id}"
    values: dict[str, Any] = {
        "evaluation_id": new_id(),
        "job_id": made.job_id,
        "subject_kind": kind,
        "model_path": path,
        "checkpoint_id": checkpoint_id,
        "step": step,
        "model": LocalModel(path=path).model_dump(),
        "dataset": dataset.model_dump(mode="json"),
        "spec": run.model_dump(mode="json"),
        # A model is served on a device of the kind the job trains on, under a lease as any other work.
        "device_kind": made.plan.device_kind,
    }
    # Whatever is delivered twice is enqueued once; and what is not enqueued is not noted.
    payload = {"evaluation_id": str(values["evaluation_id"])}
    wants = {"count": 1, "kind": made.plan.device_kind}
    (new,) = await enqueue_many(unit, [NewWork(Queue.EVALUATION, WORK_KIND, payload, key, wants)])
    if new is not None:
        await store.open_evaluation(unit, values)


async def open_requested(unit: Unit, event: EvaluationRequested) -> None:
    """Note what a user asked for; a checkpoint that is not exported yet is waited for."""
    model, path, known = event.model, None, None
    values: dict[str, Any] = {
        "evaluation_id": event.evaluation_id,
        "name": event.name,
        "model": model.model_dump(mode="json"),
        "dataset": event.dataset.model_dump(mode="json"),
        "spec": event.spec.model_dump(mode="json"),
        "device_kind": event.device_kind,
        "state": "queued",
    }
    if isinstance(model, LocalModel):
        path = model.path
    elif isinstance(model, CheckpointModel):
        known = await store.checkpoint(unit, model.checkpoint_id)
        values |= {"checkpoint_id": model.checkpoint_id, "step": known["step"] if known else None}
        path = known["path"] if known else None
        if path is None:
            values["state"] = "waiting"
    if not await store.open_evaluation(unit, {**values, "model_path": path}):
        return
    if values["state"] == "queued":
        await queue(unit, values)
    elif known is not None and known["problem"] is not None:
        await give_up(unit, event.evaluation_id, Problem.model_validate(known["problem"]))
    elif known is None:
        message = f"There is no checkpoint {values['checkpoint_id']}."
        hint = "`ltp checkpoints JOB --json` shows the ids."
        await give_up(unit, event.evaluation_id, Problem.of(LtpError(ErrorCode.NOT_FOUND, message, hint)))


async def queue_waiting(unit: Unit, checkpoint_id: UUID, path: str) -> None:
    """Queue what waited for a checkpoint's export."""
    for row in await store.waiting_for(unit, checkpoint_id):
        await store.note(unit, row["evaluation_id"], state="queued", model_path=path)
        await queue(unit, dict(row))


async def queue(unit: Unit, values: dict[str, Any]) -> None:
    """Put an evaluation into the queue. An endpoint elsewhere needs no device of ours, unless a local judge does."""
    # The gateway knows the hosts and resolves `auto`; what it left open runs anywhere.
    kind = "cpu" if values["device_kind"] == "auto" else values["device_kind"]
    second = values["spec"]["scorer"].get("model") or {}
    needs = values["model"]["kind"] != "api" or second.get("kind") == "local_model"
    wants = {"count": 1, "kind": kind} if needs else None
    payload = {"evaluation_id": str(values["evaluation_id"])}
    key = key_of(values["evaluation_id"])
    enqueue(unit, Queue.EVALUATION, WORK_KIND, payload, dedup_key=key, wants=wants)


def key_of(evaluation_id: UUID) -> str:
    """The key of an evaluation's work in the queue."""
    return f"{WORK_KIND}:{evaluation_id}"
