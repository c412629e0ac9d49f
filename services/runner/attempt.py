"""One attempt from its launch to its end, watched in a loop that can be broken off anywhere and taken up by another runner.

The truth lies in the run directory; what was read of it lies in Postgres, committed together with the news of it. So a
runner that is killed loses nothing and says nothing twice.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from ltp.contracts.checkpoint import CheckpointWritten
from ltp.contracts.plan import PlanMade
from ltp.contracts.values import Placement, Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import ATTEMPT, AttemptState
from ltp.queue.work import extend, finish
from ltp.queue.worker import Held
from ltp.store.clock import now
from ltp.store.database import Database, Unit
from ltp.verl_recipe.verl_0_9 import launch_spec
from services.runner import delivery, keeping_store, pulse, store, tracing
from services.runner.backends import Backend, LaunchStatus, LinkDownError
from services.runner.checkpoint_copies import local_copy
from services.runner.facts import AttemptFacts
from services.runner.fleet import Fleet, located
from services.runner.health_watch import HealthWatch
from services.runner.keeping import judged_by
from services.runner.measured import measured
from services.runner.policy import Stop, Verdict, judge, last_available_share, step_of
from services.runner.settings import RunnerSettings
from services.runner.traces import FoundCheckpoint, MetricsLine, find_checkpoints, read_all_metrics, read_metrics

# A traceback of many ranks is long, and the first of them is the one that counts.
_LOG_TAIL_BYTES = 262_144
# That a host may not be entered at this moment says nothing about what runs on it.
_OUT_OF_SIGHT = {
    ErrorCode.HOST_UNREACHABLE,
    ErrorCode.HOST_KEY_CHANGED,
    ErrorCode.HOST_AUTH_FAILED,
    ErrorCode.HOST_UNFIT,
}


@dataclass
class Attempt:
    """An attempt in the hands of this runner."""

    held: Held
    database: Database
    fleet: Fleet
    settings: RunnerSettings
    lease: timedelta

    def __post_init__(self) -> None:
        payload = self.held.work.payload
        self.made = PlanMade.model_validate(payload["made"])
        self.attempt_id, self.run_id = UUID(payload["attempt_id"]), UUID(payload["run_id"])
        self.number: int = payload["number"]
        self.resume_from: str | None = payload["resume_from"]
        if self.held.work.placement is None:
            raise LtpError(ErrorCode.INTERNAL, "Training work came without a placement.", "See the scheduler's log.")
        self.placement: Placement = self.held.work.placement
        self.backend = self.fleet.of(self.placement)
        self.run_dir = self.backend.run_dir(self.run_id, self.number)
        steps = self.made.recipe.training.steps
        self._facts = AttemptFacts(
            self.attempt_id, self.run_id, self.made.job_id, self.number, self.placement, steps, self.made.plan
        )
        kept = self.made.recipe.checkpoints
        self._keep = None if kept is None else kept.model_dump(mode="json")
        self.health = HealthWatch(self._facts, self.made, self.database, self.backend, self.run_dir)

    async def live(self) -> None:
        """Launch unless it was launched before, then watch until it is over."""
        structlog.contextvars.bind_contextvars(job_id=str(self.made.job_id), attempt_id=str(self.attempt_id))
        async with self.database.unit() as unit:
            row = await store.open_attempt(unit, self._row())
        if ATTEMPT.is_over(AttemptState(row["state"])):
            await self._settle()
            return
        if self._has_nothing_left():
            await self._succeed_at_once()
            return
        try:
            await self._launch_patiently()
        except LtpError as error:
            await self._end(Verdict("failed", Problem.of(error)))
            return
        with pulse.felt(self.attempt_id, self.made.recipe.algorithm) as self._pulse:
            while not await self._look_or_wait():
                await asyncio.sleep(self.settings.runner_poll_seconds)

    def _has_nothing_left(self) -> bool:
        """Whether the checkpoint to go on from is that of the last step: the attempt before failed after its work was done."""
        return step_of(self.resume_from) >= self.made.recipe.training.steps

    async def _succeed_at_once(self) -> None:
        started_at = now()
        async with self.database.unit() as unit:
            await store.move(unit, self.attempt_id, AttemptState.STARTING)
            if await store.move(unit, self.attempt_id, AttemptState.RUNNING, started_at=started_at):
                unit.emit(self._facts.started(started_at), about=self.attempt_id)
        await self._end(Verdict("succeeded"))

    async def _look_or_wait(self) -> bool:
        """Look; an outage of the link, the disk or the database is waited out, since it says nothing about the run."""
        try:
            return await self._look()
        except (OSError, DBAPIError) as error:
            self._out_of_sight(error)
        except LtpError as error:
            if error.code not in _OUT_OF_SIGHT:
                raise
            self._out_of_sight(error)
        return False

    def _out_of_sight(self, error: Exception) -> None:
        pulse.OUT_OF_SIGHT.inc()
        structlog.get_logger().warning("lost sight of an attempt", error=str(error)[:200] or type(error).__name__)

    async def _launch_patiently(self) -> None:
        """Launch; a cut link leaves open whether the launcher was reached, so the next look decides, and never a guess."""
        while True:
            try:
                await self._ensure_launched()
                return
            except (LinkDownError, DBAPIError) as error:
                self._out_of_sight(error)
            except OSError as error:
                code = ErrorCode.DISK_FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else ErrorCode.LAUNCH_FAILED
                message = f"The run's directory on {self.placement.host_id} cannot be written: {error}"
                raise LtpError(code, message, f"`ltp host test {self.placement.host_id}` tells more.") from error
            await asyncio.sleep(self.settings.runner_poll_seconds)

    async def _ensure_launched(self) -> None:
        if await self.backend.status(self.run_dir) is not None:
            structlog.get_logger().info("took up a running attempt", attempt_id=str(self.attempt_id))
            return
        async with self.database.unit() as unit:
            await store.move(unit, self.attempt_id, AttemptState.STARTING)
            earlier = await store.earlier_attempts(unit, self.run_id, self.number)
        await self._fence(earlier)
        splits, recipe = self.made.dataset.splits, self.made.recipe
        train = splits[recipe.dataset.train_split]
        held_out = splits.get(recipe.evaluation.split) if recipe.evaluation else None
        # verl drops the last partial batch, and the loss over no batch is NaN.
        validates = held_out is not None and held_out.rows >= recipe.training.batch_size
        model, resume_from = Path(recipe.model.path), await self._resume_path()
        spec = launch_spec(
            recipe,
            self.made.plan,
            python=self.settings.runner_python,
            run_dir=self.run_dir,
            model_path=model,
            train_file=Path(train.path),
            validation_file=Path(held_out.path) if validates and held_out else None,
            train_rows=train.rows,
            device_indexes=self.placement.device_indexes,
            resume_from=resume_from,
        )
        spec = replace(spec, stall_seconds=self.settings.runner_stall_seconds)
        spec = tracing.traced(spec, self.attempt_id, own_host=self.placement.host_id == self.fleet.own_id)
        folders = [model] if resume_from is None else [model, resume_from]
        spec = await self.backend.bring(spec, [delivery.libraries(), *(f for f in folders if f.is_dir())])
        try:
            await self.backend.launch(self.run_dir, spec)
        except LtpError as error:
            # Another runner launched it between our look and our launch: watch that one.
            if error.code is not ErrorCode.CONFLICT:
                raise

    async def _resume_path(self) -> Path | None:
        """Where the checkpoint to go on from lies: on this host already, or here, from where it is brought."""
        if self.resume_from is None:
            return None
        host_id, path = located(self.resume_from, self.fleet.own_id)
        async with self.database.unit() as unit:
            origin = await store.checkpoint_origin(unit, self.resume_from)
        if origin is not None and origin.shares() == self.placement.shares():
            return path
        if host_id == self.fleet.own_id:
            return path
        return await local_copy(self.fleet, self.resume_from, origin)

    async def _fence(self, earlier: list[store.Row]) -> None:
        """End what an earlier attempt may have left running on these hosts, before this one touches the same devices."""
        mine = {share.host_id for share in self.placement.shares()}
        for row in earlier:
            placement = Placement.model_validate(row["placement"])
            if mine.isdisjoint(share.host_id for share in placement.shares()):
                continue  # The sweep ends it; it cannot touch what is leased here.
            backend, run_dir = self.fleet.of(placement), Path(row["run_dir"])
            status = await backend.status(run_dir)
            if status is not None and status.state == "running":
                structlog.get_logger().warning("ending an earlier attempt that still ran", run_dir=str(run_dir))
                await backend.kill(run_dir)
                while (status := await backend.status(run_dir)) is not None and status.state == "running":
                    await asyncio.sleep(self.settings.runner_poll_seconds)

    async def _look(self) -> bool:
        """One look: gather what is new, decide, apply. True when the attempt is over and that is recorded."""
        status = await self.backend.status(self.run_dir)
        if status is None:
            return False
        async with self.database.unit() as unit:
            row = await store.open_attempt(unit, self._row())
            known = await store.known_steps(unit, self.attempt_id)
        lines = await read_metrics(self.backend, self.run_dir, row["metrics_offset"])
        found = await find_checkpoints(
            self.backend, self.run_dir, known, self.made.plan.devices, self.made.recipe.algorithm
        )
        await self.health.take_up(row["metrics_offset"])
        self.health.add(lines)
        await self._apply_news(row, status, lines, found)
        await self.health.look(status, lambda unit: extend(unit, self.held.work, self.lease))
        self._pulse.news(lines, len(found))
        if self._pulse.wants_sample():
            self._pulse.sampled(self.placement.host_id, await self._last_samples())
        # Before the next line: a training with many quick steps has news at every look.
        stop = await self._pass_on_stop(row)
        if lines or found:
            return False  # There may be more: the verdict comes when everything was read.
        saved = self.made.recipe.training.steps in known
        exited = status.state == "exited"
        verdict = judge(
            status,
            stop=stop,
            final_step_saved=saved,
            log_tail=await log_tail(self.backend, self.run_dir) if exited else "",
            host_available_share=await self._host_available_share() if exited else None,
        )
        if verdict.outcome == "running":
            return False
        if status.state == "running":
            # Its launcher is gone. Fence before telling: nothing of it may live when its devices are given away.
            await self.backend.kill(self.run_dir)
        await self._end(verdict)
        return True

    async def _apply_news(
        self, row: store.Row, status: LaunchStatus, lines: list[MetricsLine], found: list[FoundCheckpoint]
    ) -> None:
        """Commit what was read together with its telling, guarded by the lease: a stale runner changes nothing."""
        starting = row["started_at"] is None
        if not (lines or found or starting):
            return
        async with self.database.unit() as unit:
            await extend(unit, self.held.work, self.lease)
            if starting:
                await store.move(unit, self.attempt_id, AttemptState.STARTING)
                if await store.move(unit, self.attempt_id, AttemptState.RUNNING, started_at=status.started_at):
                    unit.emit(self._facts.started(status.started_at), about=self.attempt_id)
            for index, line in enumerate(lines):
                if line.step >= 0:
                    unit.send(self._facts.step(row["metrics_lines"] + index, line, now()))
            if lines:
                steps = [line.step for line in lines if line.step >= 0]
                await store.note(
                    unit,
                    self.attempt_id,
                    metrics_offset=lines[-1].end,
                    metrics_lines=row["metrics_lines"] + len(lines),
                    last_step=max([row["last_step"], *steps]),
                )
                for line in lines:
                    if (value := judged_by(self._keep, line.values)) is not None:
                        await keeping_store.note_value(unit, self.attempt_id, line.step, value)
            for checkpoint in found:
                await self._tell_checkpoint(unit, checkpoint)

    async def _tell_checkpoint(self, unit: Unit, found: FoundCheckpoint) -> None:
        path = self.backend.url(found.path)
        value = None if self._keep is None else self.health.value(self._keep["metric"], found.step)
        checkpoint_id = await store.add_checkpoint(
            unit, self.attempt_id, step=found.step, path=path, size_bytes=found.size_bytes, value=value
        )
        if checkpoint_id is None:
            return
        event = CheckpointWritten(
            checkpoint_id=checkpoint_id,
            job_id=self.made.job_id,
            run_id=self.run_id,
            attempt_id=self.attempt_id,
            step=found.step,
            is_final=found.step == self.made.recipe.training.steps,
            path=path,
            size_bytes=found.size_bytes,
        )
        unit.emit(event, about=checkpoint_id)
        tracing.checkpoint_found(self.attempt_id, found, event.is_final)

    async def _pass_on_stop(self, row: store.Row) -> Stop | None:
        """Kill the process when the job was cancelled, ask it to leave when the scheduler wants it to; what was asked of it."""
        passed: Stop | None = row["stop_passed"]
        wanted: Stop | None = "kill" if self.held.cancelled.is_set() else "leave" if row["stop_wanted"] else None
        if wanted is None or passed in {wanted, "kill"}:
            return passed
        async with self.database.unit() as unit:
            await store.note(unit, self.attempt_id, stop_passed=wanted)
        if wanted == "kill":
            await self.backend.kill(self.run_dir)
        else:
            await self.backend.request_stop(self.run_dir)
        return wanted

    async def _host_available_share(self) -> float | None:
        """What the host had left of its memory at the launcher's last sample."""
        return last_available_share(await self._last_samples())

    async def _last_samples(self) -> bytes:
        size = await self.backend.size(self.run_dir, "samples.jsonl")
        return await self.backend.read(self.run_dir, "samples.jsonl", max(0, size - 8192), 8192)

    async def _end(self, verdict: Verdict) -> None:
        target = AttemptState(verdict.outcome)
        problem = None if verdict.problem is None else verdict.problem.model_dump()
        ended_at = now()
        seen = measured([line.values for line in await read_all_metrics(self.backend, self.run_dir)])
        async with self.database.unit() as unit:
            row = await store.open_attempt(unit, self._row())
            if await store.move(unit, self.attempt_id, target, ended_at=ended_at, problem=problem):
                unit.emit(self._facts.ended(verdict, ended_at, row["metrics_lines"], seen), about=self.attempt_id)
                tracing.attempt_over(self._facts, verdict, row["started_at"] or row["created_at"], ended_at)
            await self.health.end(unit)
            await finish(unit, self.held.work, cancelled=verdict.outcome == "stopped")

    async def _settle(self) -> None:
        """The attempt's end was recorded before, but not that the work is over."""
        async with self.database.unit() as unit:
            await finish(unit, self.held.work)

    async def give_up(self, unit: Unit, problem: Problem) -> None:
        """End an attempt that cannot be watched, in the transaction that settles its work: no devices freed under a run."""
        await self.backend.kill(self.run_dir)
        verdict, ended_at = Verdict("failed", problem), now()
        row = await store.open_attempt(unit, self._row())
        evidence = problem.model_dump()
        if await store.move(unit, self.attempt_id, AttemptState.FAILED, ended_at=ended_at, problem=evidence):
            unit.emit(self._facts.ended(verdict, ended_at, row["metrics_lines"]), about=self.attempt_id)
        await self.health.end(unit)

    def _row(self) -> dict[str, Any]:
        return {
            "attempt_id": self.attempt_id,
            "job_id": self.made.job_id,
            "run_id": self.run_id,
            "number": self.number,
            "run_dir": str(self.run_dir),
            "placement": self.placement.model_dump(),
            "steps": self.made.recipe.training.steps,
            "keep": self._keep,
        }


async def log_tail(backend: Backend, run_dir: Path) -> str:
    """The end of an attempt's log, over the place where it was turned over."""
    size = await backend.size(run_dir, "log.txt")
    data = await backend.read(run_dir, "log.txt", max(0, size - _LOG_TAIL_BYTES), _LOG_TAIL_BYTES)
    missing = _LOG_TAIL_BYTES - len(data)
    if missing and (before := await backend.size(run_dir, "log.txt.1")):
        data = await backend.read(run_dir, "log.txt.1", max(0, before - missing), missing) + data
    return data.decode(errors="replace")
