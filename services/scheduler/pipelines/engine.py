"""Carries runs on: load, decide, apply, until nothing is left to decide; whichever scheduler is free takes the next run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import RowMapping as Row

from ltp.contracts.admission import ADMIT, Admission
from ltp.contracts.pipeline import (
    ForeseenStage,
    PipelineRunCancelled,
    PipelineRunFailed,
    PipelineRunSucceeded,
    PipelineSpec,
    RunState,
    StageCancelled,
    StageFailed,
    StageSkipped,
    StageStarted,
    StageSucceeded,
)
from ltp.contracts.pipeline_graph import Node, expand
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode
from ltp.queue.policy import Queue
from ltp.queue.work import enqueue, request_cancel
from ltp.service.runtime import Runtime
from ltp.store.clock import new_id, now
from ltp.store.database import Unit
from ltp.store.patience import wait_at_most
from services.scheduler.pipelines import policy, store
from services.scheduler.pipelines.kinds import KINDS, Facts, Outcome
from services.scheduler.pipelines.policy import Abort, Action, Cancel, Finish, Skip, Stage, Start, World
from services.scheduler.pipelines.store import Run
from services.scheduler.schedules.firing import end_action

# A Postgres channel: a run has something to look at.
PIPELINES_CHANNEL = "ltp_pipelines"
_POLL_SECONDS = 1.0
# Every running run is looked at this often, whatever was heard: a fact that came while its stage began is then seen.
_SWEEP_SECONDS = 10.0


async def advance_forever(runtime: Runtime, wake: asyncio.Event) -> None:
    """Carry on whatever has something to do; look now and then in case a notification was lost."""
    swept = 0.0
    while True:
        wake.clear()
        if time.monotonic() - swept > _SWEEP_SECONDS:
            swept = time.monotonic()
            async with runtime.database.unit() as unit:
                await store.look_again(unit)
        while await advance_next(runtime):
            pass
        await wait_at_most(wake, _POLL_SECONDS)


async def advance_next(runtime: Runtime) -> bool:
    """Carry one run on; False when none has anything to do."""
    async with runtime.database.unit() as unit:
        run_id = await store.next_dirty(unit)
        if run_id is None:
            return False
        try:
            async with unit.savepoint():
                await advance(unit, run_id)
        except Exception:
            # One run that cannot be carried on must not hold up the others; the sweep tries it again.
            structlog.get_logger().exception("a run cannot be carried on", run_id=str(run_id))
        return True


async def advance(unit: Unit, run_id: UUID) -> None:
    """Apply what is decided until nothing is; then end the run if it is over."""
    run = await store.lock_run(unit, run_id)
    if run is None or run.state != "running":
        return
    nodes = expand(run.spec)
    while True:
        rows = await store.stages_of(unit, run_id)
        stages = {row["key"]: store.as_stage(row) for row in rows}
        facts = await _facts(unit, run.project, rows)
        world = World(run.trigger, run.inputs, run.project)
        actions = policy.decide(nodes, stages, facts, world, cancel_requested=run.cancel_requested)
        if not actions:
            break
        by_key, kinds = {row["key"]: row for row in rows}, {node.key: node for node in nodes}
        for action in actions:
            await _apply(unit, run, kinds[action.key], by_key[action.key], action)
    end = policy.end_of_run(stages, cancel_requested=run.cancel_requested)
    if end is not None:
        await _end(unit, run, end, rows)


async def foresee(
    unit: Unit, spec: PipelineSpec, inputs: Mapping[str, str], trigger: Mapping[str, Any], project: str
) -> list[ForeseenStage]:
    """What each stage of a pipeline would do if it were submitted now. Changes nothing."""
    nodes, foreseen = expand(spec), list[ForeseenStage]()
    stages = {node.key: Stage(node.key) for node in nodes}
    for node in nodes:
        fate, stages[node.key] = await _foreseen(unit, node, stages, World(trigger, inputs, project))
        foreseen.append(ForeseenStage(key=node.key, kind=node.kind, needs=list(node.needs), fate=fate))
    return foreseen


async def _foreseen(unit: Unit, node: Node, stages: Mapping[str, Stage], world: World) -> tuple[Any, Stage]:
    stage = Stage(node.key, "running")
    if any(stages[key].state == "skipped" for key in node.needs):
        return "skip", Stage(node.key, "skipped")
    known = policy.is_known(node, stages)
    if not known:
        return "unknown", stage
    action = policy.start(node, stages, world)
    if isinstance(action, Skip):
        return "skip", Stage(node.key, "skipped")
    if isinstance(action, Start):
        made = await _made_before(unit, world.project, node, action)
        if made is not None:
            return "reuse", Stage(node.key, "reused", made["outputs"], made["digest"])
        frozen = await _waited_for(unit, world.project, node.kind, action.settings)
        if frozen is not None:
            return "run", Stage(node.key, "succeeded", frozen, frozen["version"])
    return "run", stage


async def _apply(unit: Unit, run: Run, node: Node, row: Row, action: Action) -> None:
    if isinstance(action, Start):
        await _start(unit, run, node, row, action)
    elif isinstance(action, Finish):
        await _finish(unit, run, node, row, action.outcome)
    elif isinstance(action, Skip):
        if await store.note_stage(unit, run.run_id, node.key, ["waiting"], state="skipped", ended_at=now()):
            unit.emit(StageSkipped(run_id=run.run_id, stage=node.key, reason=action.reason[:500]), about=run.run_id)
    elif isinstance(action, Cancel):
        await _cancel(unit, run, node.key)
    else:
        await _abort(unit, run, node, row, action)


async def _start(unit: Unit, run: Run, node: Node, row: Row, action: Start) -> None:
    """Take over what was made before, or put the stage's command to the door under a key that is used once."""
    kind = KINDS[node.kind]
    values = {"settings": action.settings, "inputs": action.inputs, "cache_key": action.cache_key}
    values |= {"problem": None, "abort_asked": False, "started_at": now(), "ended_at": None}
    made = await _made_before(unit, run.project, node, action)
    if made is not None:
        values |= {"outputs": made["outputs"], "digest": made["digest"], "noun_id": made["noun_id"], "ended_at": now()}
        if await store.note_stage(unit, run.run_id, node.key, ["waiting"], state="reused", **values):
            _tell_success(unit, run, node, Outcome("succeeded", made["outputs"], made["digest"]), reused=True)
        return
    noun_id, attempt = kind.noun(action.settings) or new_id(), row["attempt"] + 1
    values |= {"noun_id": noun_id, "attempt": attempt}
    if not await store.note_stage(unit, run.run_id, node.key, ["waiting"], state="running", **values):
        return
    command = kind.command(action.settings)
    if command is not None:
        what, body = command
        inputs = {path: digest for path, digest in action.inputs.items() if path in run.inputs}
        admission = Admission(what=what, noun_id=noun_id, body=body, inputs=inputs)
        key = _work_key(run.run_id, node.key, attempt)
        enqueue(unit, Queue.DEFAULT, ADMIT, admission.model_dump(mode="json"), dedup_key=key)
    told = StageStarted(run_id=run.run_id, stage=node.key, kind=node.kind, noun_id=noun_id, attempt=attempt)
    unit.emit(told, about=run.run_id)


async def _finish(unit: Unit, run: Run, node: Node, row: Row, outcome: Outcome) -> None:
    values: dict[str, Any] = {"outputs": outcome.outputs, "digest": outcome.digest, "ended_at": now()}
    values["problem"] = None if outcome.problem is None else outcome.problem.model_dump()
    was = ["waiting", "running"]
    if not await store.note_stage(unit, run.run_id, node.key, was, state=outcome.state, **values):
        return
    if outcome.state == "succeeded":
        _tell_success(unit, run, node, outcome)
        if outcome.digest is not None:
            artefact = {"digest": outcome.digest, "kind": node.kind, "place": outcome.outputs, "inputs": row["inputs"]}
            await store.add_artefact(unit, artefact | {"run_id": run.run_id, "stage": node.key})
    elif outcome.problem is not None:
        told = StageFailed(run_id=run.run_id, stage=node.key, kind=node.kind, problem=outcome.problem)
        unit.emit(told, about=run.run_id)
    else:
        unit.emit(StageCancelled(run_id=run.run_id, stage=node.key), about=run.run_id)


def _tell_success(unit: Unit, run: Run, node: Node, outcome: Outcome, *, reused: bool = False) -> None:
    told = StageSucceeded(
        run_id=run.run_id,
        stage=node.key,
        kind=node.kind,
        digest=outcome.digest,
        outputs=outcome.outputs or {},
        reused=reused,
    )
    unit.emit(told, about=run.run_id)


async def _cancel(unit: Unit, run: Run, key: str) -> None:
    if await store.note_stage(unit, run.run_id, key, ["waiting", "running"], state="cancelled", ended_at=now()):
        unit.emit(StageCancelled(run_id=run.run_id, stage=key), about=run.run_id)


async def _abort(unit: Unit, run: Run, node: Node, row: Row, action: Abort) -> None:
    """End the noun of a running stage: its command if that still waits at the door, else the noun itself."""
    await store.note_stage(unit, run.run_id, node.key, ["running"], abort_asked=True)
    key = _work_key(run.run_id, node.key, row["attempt"])
    what = KINDS[node.kind].cancel
    if await request_cancel(unit, key) or what is None:
        await _cancel(unit, run, node.key)
        return
    admission = Admission(what=what, noun_id=row["noun_id"], body={})
    enqueue(unit, Queue.DEFAULT, ADMIT, admission.model_dump(mode="json"), dedup_key=f"{key}:cancel")


async def _end(unit: Unit, run: Run, end: RunState, rows: Sequence[Row]) -> None:
    problem = None
    if end == "failed":
        broken = [row for row in rows if row["state"] == "failed"]
        first = broken[0]
        because = first["problem"]["message"]
        problem = Problem(
            code=ErrorCode.STAGE_FAILED,
            message=f"Stage {first['key']} failed: {because}"[:2000],
            hint=f"Mend the cause, then `ltp pipeline resume {run.run_id}` goes on from there.",
        )
    evidence = None if problem is None else problem.model_dump()
    await store.note_run(unit, run.run_id, state=end, problem=evidence, ended_at=now(), dirty=False)
    if end == "succeeded":
        unit.emit(PipelineRunSucceeded(run_id=run.run_id, name=run.name), about=run.run_id)
        await end_action(unit, run.run_id, "succeeded")
    elif problem is not None:
        unit.emit(PipelineRunFailed(run_id=run.run_id, name=run.name, problem=problem), about=run.run_id)
        await end_action(unit, run.run_id, "failed", problem=problem)
    else:
        unit.emit(PipelineRunCancelled(run_id=run.run_id, name=run.name), about=run.run_id)
        await end_action(unit, run.run_id, "cancelled")


async def _facts(unit: Unit, project: str, rows: Sequence[Row]) -> dict[str, Facts]:
    """What was heard about the stages' nouns, and, for those that wait for a dataset, whether it is there."""
    found = await store.facts_of(unit, rows)
    for row in rows:
        if row["state"] == "running":
            frozen = await _waited_for(unit, project, row["kind"], row["settings"])
            if frozen is not None:
                found[row["key"]] = {"frozen": frozen}
    return found


async def _waited_for(unit: Unit, project: str, kind: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    if kind != "dataset" or settings.get("path") is not None:
        return None
    return await store.frozen_version(unit, project, settings["name"], settings.get("version"))


async def _made_before(unit: Unit, project: str, node: Node, action: Start) -> Row | None:
    """What an earlier run made under the same key, if it is still there."""
    if action.cache_key is None:
        return None
    place = KINDS[node.kind].place
    for made in await store.find_made(unit, project, action.cache_key):
        if place is None or await asyncio.to_thread(Path(made["outputs"][place]).exists):
            return made
    return None


def _work_key(run_id: UUID, key: str, attempt: int) -> str:
    return f"stage:{run_id}:{key}:{attempt}"
