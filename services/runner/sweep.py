"""The sweep for orphans: training that runs on this host although its attempt was given up, ended here so that it harms nobody.

An attempt is given up when its host was silent for so long that its job goes on elsewhere. When the host is back, what
still runs on it holds devices that belong to others by then, and would write checkpoints nobody asked for.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from ltp.contracts.alarm import AlarmCleared
from ltp.contracts.attempt import AttemptLost
from ltp.contracts.values import Placement, Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.core.lifecycle import AttemptState
from ltp.store.clock import now
from ltp.store.database import Database
from services.runner import alarms_store, store
from services.runner.fleet import Fleet


async def sweep_forever(fleet: Fleet) -> None:
    """Look for orphans at once and then now and again, on every host that answers."""
    while True:
        for host_id in fleet.host_ids():
            try:
                await sweep(fleet, host_id)
            except (LtpError, OSError) as error:
                structlog.get_logger().info("a host is swept later", host_id=host_id, reason=str(error)[:200])
        await asyncio.sleep(fleet.settings.runner_sweep_seconds)


async def sweep(fleet: Fleet, host_id: str) -> int:
    """End every attempt of this host that was given up; returns how many there were."""
    database = fleet.database
    async with database.unit() as unit:
        orphans = await store.given_up(unit, host_id)
    for orphan in orphans:
        run_dir, backend = Path(orphan["run_dir"]), fleet.of(Placement.model_validate(orphan["placement"]))
        status = await backend.status(run_dir)
        if status is not None and status.state == "running":
            structlog.get_logger().warning("ending an orphan", run_dir=str(run_dir))
            await backend.kill(run_dir)
        await _tell(database, orphan, host_id)
    return len(orphans)


async def _tell(database: Database, orphan: store.Row, host_id: str) -> None:
    """Say that the attempt is lost; its job has long gone on without it."""
    problem = Problem(
        code=ErrorCode.HOST_LOST,
        message=f"The attempt was given up while {host_id} was silent.",
        hint="Its job goes on from its last checkpoint elsewhere.",
    )
    ended_at, attempt_id = now(), orphan["attempt_id"]
    async with database.unit() as unit:
        if await store.move(unit, attempt_id, AttemptState.LOST, ended_at=ended_at, problem=problem.model_dump()):
            event = AttemptLost(
                attempt_id=attempt_id,
                run_id=orphan["run_id"],
                job_id=orphan["job_id"],
                problem=problem,
                ended_at=ended_at,
                host_id=host_id,
                metrics_lines=orphan["metrics_lines"],
            )
            unit.emit(event, about=attempt_id)
            for row in await alarms_store.clear(unit, attempt_id, None, ended_at):
                ids = {name: row[name] for name in ("alarm_id", "job_id", "run_id", "attempt_id", "rule")}
                unit.emit(AlarmCleared(**ids, cleared_at=ended_at), about=row["alarm_id"])
