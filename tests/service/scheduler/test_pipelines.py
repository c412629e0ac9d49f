"""Runs of pipelines on a real database: facts twice and out of order, reuse, resume, triggers, several schedulers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from pydantic import ValidationError
from sqlalchemy import select

from ltp.contracts.admission import AdmissionRefused
from ltp.contracts.checkpoint import CheckpointExported, CheckpointWritten
from ltp.contracts.dataset import DatasetFrozen, DatasetVersion
from ltp.contracts.event import Event
from ltp.contracts.job import JobFailed, JobSubmitted, JobSucceeded
from ltp.contracts.operation import OperationCancelled, OperationFailed, OperationSucceeded
from ltp.contracts.pipeline import (
    PipelineArmingRequested,
    PipelineDisarmingRequested,
    PipelineRunCancellationRequested,
    PipelineRunResumeRequested,
    PipelineRunSubmitted,
    PipelineSpec,
)
from ltp.contracts.recipe import Recipe
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.queue.tables import work
from ltp.store.clock import new_id, now
from ltp.store.database import Database
from ltp.store.metadata import outbox_table
from services.scheduler import handlers as jobs
from services.scheduler import outcomes
from services.scheduler.pipelines import handlers, store
from services.scheduler.pipelines.engine import advance_next

VERSION, WEIGHTS = "1" * 64, "2" * 64
INPUTS = {"/data.jsonl": "3" * 64, "/model": "4" * 64}
RECIPE: dict[str, Any] = {
    "name": "r",
    "model": {"path": "/model"},
    "dataset": {"name": {"from": "data.name"}, "version": {"from": "data.version"}},
    "training": {"steps": 3, "batch_size": 1, "learning_rate": 0.1},
}
HEARS: dict[type[Event], Any] = {
    DatasetFrozen: outcomes.dataset_frozen,
    JobSubmitted: jobs.open_job,
    JobSucceeded: outcomes.job_succeeded,
    JobFailed: outcomes.job_failed,
    CheckpointExported: outcomes.checkpoint_exported,
    CheckpointWritten: jobs.note_checkpoint,
    AdmissionRefused: outcomes.refused,
    OperationSucceeded: outcomes.operation_succeeded,
    OperationFailed: outcomes.operation_failed,
    OperationCancelled: outcomes.operation_cancelled,
    PipelineRunSubmitted: handlers.open_run,
    PipelineRunResumeRequested: handlers.resume,
    PipelineRunCancellationRequested: handlers.cancel,
    PipelineArmingRequested: handlers.arm,
    PipelineDisarmingRequested: handlers.disarm,
}


def pipeline(steps_at_most: int = 3, **more: Any) -> PipelineSpec:
    """Import, train, and let pass what took few enough steps."""
    conditions = [{"value": {"from": "train.steps"}, "at_most": steps_at_most}]
    stages = {
        "data": {"kind": "dataset", "settings": {"name": "sums", "path": "/data.jsonl"}},
        "train": {"kind": "train", "settings": {"recipe": RECIPE}},
        "gate": {"kind": "gate", "settings": {"conditions": conditions}},
    }
    return PipelineSpec.model_validate({"name": "nightly", "stages": stages} | more)


@dataclass
class Desk:
    """A scheduler that hears events as the bus delivers them, and the facts that other services would tell."""

    database: Database
    exports: Path

    async def hear(self, event: Event, event_id: UUID | None = None) -> UUID:
        """Deliver an event; with an id, again."""
        event_id = event_id or new_id()
        async with self.database.unit(cause=event_id) as unit:
            if await unit.first_time(event_id, event.subject):
                await HEARS[type(event)](event, unit)
        return event_id

    async def submit(self, spec: PipelineSpec, key: str | None = None) -> UUID:
        run_id = new_id()
        await self.hear(PipelineRunSubmitted(run_id=run_id, spec=spec, inputs=INPUTS, idempotency_key=key))
        await self.advance()
        return run_id

    async def advance(self) -> None:
        while await advance_next(SimpleNamespace(database=self.database)):  # type: ignore[arg-type]
            pass

    async def states(self, run_id: UUID) -> dict[str, str]:
        return {row["key"]: row["state"] for row in await self.stages(run_id)}

    async def stages(self, run_id: UUID) -> list[Any]:
        async with self.database.unit() as unit:
            return list(await store.stages_of(unit, run_id))

    async def run(self, run_id: UUID) -> Any:
        async with self.database.unit() as unit:
            return await store.find_run(unit, run_id, None)

    async def noun(self, run_id: UUID, key: str) -> UUID:
        return next(row["noun_id"] for row in await self.stages(run_id) if row["key"] == key)

    async def commands(self) -> list[str]:
        async with self.database.unit() as unit:
            rows = (await unit.execute(select(work.c.payload).order_by(work.c.id))).scalars()
            return [payload["what"] for payload in rows]

    async def said(self, prefix: str = "ltp.") -> list[str]:
        outbox = outbox_table("scheduler")
        async with self.database.unit() as unit:
            query = select(outbox.c.subject).where(outbox.c.subject.startswith(prefix)).order_by(outbox.c.id)
            return list((await unit.execute(query)).scalars())

    def frozen(self, dataset_id: UUID, name: str = "sums") -> DatasetFrozen:
        return DatasetFrozen(dataset_id=dataset_id, name=name, version=VERSION, format="f", rows=9, splits={})

    def trained(self, job_id: UUID) -> list[Event]:
        self.exports.mkdir(exist_ok=True)
        exported = CheckpointExported(
            checkpoint_id=new_id(),
            job_id=job_id,
            step=3,
            is_final=True,
            size_bytes=1,
            path=str(self.exports),
            weights_sha256=WEIGHTS,
        )
        return [JobSucceeded(job_id=job_id, steps=3), exported]

    async def finish(self, run_id: UUID) -> None:
        """All goes well from here."""
        if (await self.states(run_id))["data"] == "running":
            await self.hear(self.frozen(await self.noun(run_id, "data")))
            await self.advance()
        if (await self.states(run_id))["train"] == "running":
            for event in self.trained(await self.noun(run_id, "train")):
                await self.hear(event)
            await self.advance()


@pytest_asyncio.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    database = Database.connect(database_url, "scheduler")
    yield Desk(database, tmp_path / "export")
    await database.close()


@pytest.mark.parametrize("seed", range(4))
async def test_facts_twice_and_in_any_order_end_the_run_once(desk: Desk, seed: int) -> None:
    order = random.Random(seed)
    run_id = await desk.submit(pipeline())
    assert await desk.states(run_id) == {"data": "running", "train": "waiting", "gate": "waiting"}
    data = desk.frozen(await desk.noun(run_id, "data"))
    event_id = await desk.hear(data)
    await desk.advance()
    await desk.hear(data, event_id)
    facts = [(new_id(), event) for event in desk.trained(await desk.noun(run_id, "train"))] * 2
    order.shuffle(facts)
    for event_id, event in facts:
        await desk.hear(event, event_id)
        if order.random() < 0.5:
            await desk.advance()
    await desk.advance()
    assert await desk.states(run_id) == {"data": "succeeded", "train": "succeeded", "gate": "succeeded"}
    assert await desk.commands() == ["dataset", "job"]
    said = await desk.said()
    assert said.count("ltp.pipeline.v1.run-succeeded") == 1
    assert said.count("ltp.stage.v1.started") == said.count("ltp.stage.v1.succeeded") == 3


async def test_two_schedulers_start_each_stage_of_many_runs_once(desk: Desk) -> None:
    runs = [new_id() for _ in range(10)]
    for index, run_id in enumerate(runs):
        spec = pipeline().model_copy(update={"name": f"p{index}"})
        await desk.hear(PipelineRunSubmitted(run_id=run_id, spec=spec, inputs=INPUTS))
    await asyncio.gather(desk.advance(), desk.advance(), desk.advance())
    assert await desk.commands() == ["dataset"] * 10
    assert (await desk.said("ltp.stage")).count("ltp.stage.v1.started") == 10


async def test_what_was_made_from_the_same_contents_is_taken_over_while_it_is_there(desk: Desk) -> None:
    await desk.finish(await desk.submit(pipeline()))
    again = await desk.submit(pipeline())
    assert await desk.states(again) == {"data": "reused", "train": "reused", "gate": "succeeded"}
    assert await desk.commands() == ["dataset", "job"]
    desk.exports.rmdir()
    without = await desk.submit(pipeline())
    assert await desk.states(without) == {"data": "reused", "train": "running", "gate": "waiting"}


async def test_a_known_idempotency_key_opens_no_second_run(desk: Desk) -> None:
    await desk.submit(pipeline(), key="k")
    second = await desk.submit(pipeline(), key="k")
    assert await desk.run(second) is None
    assert await desk.commands() == ["dataset"]


async def test_a_failed_run_goes_on_from_the_stage_that_failed(desk: Desk) -> None:
    run_id = await desk.submit(pipeline())
    await desk.hear(desk.frozen(await desk.noun(run_id, "data")))
    await desk.advance()
    problem = Problem(code=ErrorCode.TRAINING_FAILED, message="no luck")
    first = await desk.noun(run_id, "train")
    await desk.hear(JobFailed(job_id=first, problem=problem))
    await desk.advance()
    run = await desk.run(run_id)
    assert run["state"] == "failed" and "no luck" in run["problem"]["message"]
    assert await desk.states(run_id) == {"data": "succeeded", "train": "failed", "gate": "waiting"}
    # Asked for twice, it is resumed once.
    for _ in range(2):
        await desk.hear(PipelineRunResumeRequested(run_id=run_id))
    await desk.advance()
    assert (await desk.run(run_id))["round"] == 2
    assert await desk.noun(run_id, "train") != first
    await desk.finish(run_id)
    assert (await desk.run(run_id))["state"] == "succeeded"
    assert await desk.commands() == ["dataset", "job", "job"]


async def test_a_closed_gate_fails_the_run_and_keeps_what_came_before(desk: Desk) -> None:
    run_id = await desk.submit(pipeline(steps_at_most=2))
    await desk.finish(run_id)
    run = await desk.run(run_id)
    assert run["state"] == "failed" and "The gate is closed" in run["problem"]["message"]
    assert (await desk.states(run_id))["train"] == "succeeded"


async def test_a_refusal_at_the_door_fails_the_stage_with_its_reason(desk: Desk) -> None:
    run_id = await desk.submit(pipeline())
    problem = Problem(code=ErrorCode.INPUT_CHANGED, message="/data.jsonl changed")
    refused = AdmissionRefused(noun_id=await desk.noun(run_id, "data"), what="dataset", problem=problem)
    await desk.hear(refused)
    await desk.advance()
    assert "/data.jsonl changed" in (await desk.run(run_id))["problem"]["message"]


async def test_a_cancelled_run_ends_its_job_and_starts_nothing_more(desk: Desk) -> None:
    run_id = await desk.submit(pipeline())
    await desk.hear(desk.frozen(await desk.noun(run_id, "data")))
    await desk.advance()
    for _ in range(2):
        await desk.hear(PipelineRunCancellationRequested(run_id=run_id))
        await desk.advance()
    assert (await desk.run(run_id))["state"] == "cancelled"
    assert (await desk.said()).count("ltp.pipeline.v1.run-cancelled") == 1


def souped() -> PipelineSpec:
    """Train, take the models of two steps, and average them."""
    stages = pipeline().model_dump(mode="json")["stages"]
    stages["train"]["settings"]["recipe"] = RECIPE | {"training": RECIPE["training"] | {"save_every": 1}}
    stages["saved"] = {
        "kind": "export",
        "matrix": {"step": [1, 2]},
        "settings": {"job": {"from": "train.job_id"}, "step": {"from": "matrix.step"}},
    }
    stages["soup"] = {"kind": "average", "settings": {"name": "soup", "models": {"from": "saved.path"}}}
    return PipelineSpec.model_validate({"name": "souped", "stages": stages})


def exported(job_id: UUID, step: int, path: Path) -> CheckpointExported:
    return CheckpointExported(
        checkpoint_id=new_id(),
        job_id=job_id,
        step=step,
        is_final=False,
        size_bytes=1,
        path=f"{path}/{step}",
        weights_sha256=str(step) * 64,
    )


async def test_earlier_checkpoints_are_averaged_whenever_their_exports_are_heard(desk: Desk) -> None:
    run_id = await desk.submit(souped())
    await desk.hear(desk.frozen(await desk.noun(run_id, "data")))
    await desk.advance()
    job_id = await desk.noun(run_id, "train")
    # One is exported before the training is over, one after.
    await desk.hear(exported(job_id, 1, desk.exports))
    await desk.finish(run_id)
    assert (await desk.states(run_id))["saved[0]"] == "succeeded"
    assert (await desk.states(run_id))["soup"] == "waiting"
    await desk.hear(exported(job_id, 2, desk.exports))
    await desk.advance()
    async with desk.database.unit() as unit:
        asked = (await unit.execute(select(work.c.payload).order_by(work.c.id.desc()).limit(1))).scalar_one()
    weight = {"weight": 1.0}
    models = [{"model": f"{desk.exports}/{step}", "parameters": weight} for step in (1, 2)]
    assert asked["what"] == "operation"
    assert asked["body"]["recipe"] == {"merge_method": "linear", "models": models}
    operation_id = await desk.noun(run_id, "soup")
    done = OperationSucceeded(
        operation_id=operation_id, kind="merge", name="soup", path="/s", digest="5" * 64, size_bytes=1, reused=False
    )
    await desk.hear(done)
    await desk.advance()
    assert (await desk.run(run_id))["state"] == "succeeded"
    stages = {row["key"]: row for row in await desk.stages(run_id)}
    assert stages["soup"]["outputs"]["path"] == "/s"
    assert stages["soup"]["inputs"] == {"saved[0]": "1" * 64, "saved[1]": "2" * 64}


async def test_a_merge_that_fails_or_is_cancelled_by_another_hand_fails_its_stage(desk: Desk) -> None:
    for end in (OperationFailed, OperationCancelled):
        run_id = await desk.submit(souped().model_copy(update={"name": end.__name__}))
        if (await desk.states(run_id))["data"] == "running":
            await desk.hear(desk.frozen(await desk.noun(run_id, "data")))
            await desk.advance()
        job_id = await desk.noun(run_id, "train")
        for step in (1, 2):
            await desk.hear(exported(job_id, step, desk.exports))
        await desk.finish(run_id)
        problem = {"problem": Problem(code=ErrorCode.CONFLICT, message="two shapes")} if end is OperationFailed else {}
        await desk.hear(end(operation_id=await desk.noun(run_id, "soup"), **problem))  # type: ignore[arg-type]
        await desk.advance()
        assert (await desk.states(run_id))["soup"] == "failed"
        assert (await desk.run(run_id))["state"] == "failed"


@pytest.mark.parametrize(("steps", "every", "step"), [(3, 1, 4), (3, 2, 1), (3, None, 1)])
def test_a_checkpoint_that_will_never_be_is_refused(steps: int, every: int | None, step: int) -> None:
    spec = souped().model_dump(mode="json")
    training = spec["stages"]["train"]["settings"]["recipe"]["training"]
    training |= {"steps": steps, "save_every": every}
    spec["stages"]["saved"]["matrix"] = {"step": [step]}
    with pytest.raises(ValidationError, match=r"checkpoint is written|has 3 steps"):
        PipelineSpec.model_validate(spec)


def written(job_id: UUID) -> CheckpointWritten:
    known = {"checkpoint_id": new_id(), "job_id": job_id, "run_id": new_id(), "attempt_id": new_id()}
    return CheckpointWritten(**known, step=3, is_final=True, path="/c", size_bytes=1)


@pytest.mark.parametrize("event", ["dataset.frozen", "checkpoint.written"])
async def test_an_armed_pipeline_starts_once_an_event_and_no_more_when_disarmed(desk: Desk, event: str) -> None:
    job_id = new_id()
    recipe = Recipe.model_validate(RECIPE | {"dataset": {"name": "d"}})
    dataset = DatasetVersion(name="d", version=VERSION, rows=1, splits={})
    await desk.hear(JobSubmitted(job_id=job_id, recipe=recipe, recipe_hash=VERSION, dataset=dataset))

    def news() -> Event:
        return desk.frozen(new_id()) if event == "dataset.frozen" else written(job_id)

    await desk.hear(news())
    spec = pipeline(triggers=[{"event": event}])
    await desk.hear(PipelineArmingRequested(pipeline_id=new_id(), spec=spec, requested_at=now()))
    assert await desk.commands() == []
    told = news()
    event_id = await desk.hear(told)
    await desk.hear(told, event_id)
    assert await desk.commands() == ["pipeline"]
    await desk.hear(news())
    assert await desk.commands() == ["pipeline"] * 2
    await desk.hear(PipelineDisarmingRequested(name="nightly"))
    await desk.hear(news())
    assert await desk.commands() == ["pipeline"] * 2


async def test_a_trigger_hears_only_what_its_filter_fits_and_never_what_its_own_runs_make(desk: Desk) -> None:
    spec = pipeline(triggers=[{"event": "dataset.frozen", "dataset": "sums"}])
    await desk.hear(PipelineArmingRequested(pipeline_id=new_id(), spec=spec, requested_at=now()))
    await desk.hear(desk.frozen(new_id(), "other"))
    run_id = await desk.submit(pipeline())
    await desk.hear(desk.frozen(await desk.noun(run_id, "data")))
    assert await desk.commands() == ["dataset"]


async def test_a_project_waits_for_its_own_datasets_and_is_triggered_by_them_alone(desk: Desk) -> None:
    spec = PipelineSpec.model_validate(
        {"name": "waits", "stages": {"data": {"kind": "dataset", "settings": {"name": "sums"}}}}
    )
    armed = pipeline(triggers=[{"event": "dataset.frozen", "dataset": "sums"}])
    await desk.hear(PipelineArmingRequested(pipeline_id=new_id(), spec=armed, requested_at=now(), project="lab"))
    run_id = new_id()
    await desk.hear(PipelineRunSubmitted(run_id=run_id, spec=spec, inputs={}, project="lab"))
    await desk.advance()
    await desk.hear(desk.frozen(new_id()))
    await desk.advance()
    assert await desk.states(run_id) == {"data": "running"} and await desk.commands() == []
    await desk.hear(desk.frozen(new_id()).model_copy(update={"project": "lab"}))
    await desk.advance()
    assert await desk.states(run_id) == {"data": "succeeded"}
    async with desk.database.unit() as unit:
        (payload,) = (await unit.execute(select(work.c.payload))).scalars()
    assert (payload["what"], payload["project"]) == ("pipeline", "lab")
