"""Deletes checkpoints that nothing keeps any more, and gives the account of those that stay.

It looks again and again instead of acting on events: what uses a checkpoint (a training that resumes from it, its export, an
operation) ends in other services, and whoever looks next finds it free.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from nats.aio.client import Client

from ltp.bus.rpc import ask
from ltp.contracts.checkpoint_keeping import CheckpointRemoved, KeptCheckpoint
from ltp.contracts.operation import OperationList, OperationQuery
from ltp.contracts.values import Placement
from ltp.core.errors import LtpError
from ltp.core.lifecycle import OperationState
from services.runner import keeping_store
from services.runner.fleet import Fleet
from services.runner.keeping_store import Row
from services.runner.retention import Held, Rule, reasons

_SECONDS = 5.0
_UNFINISHED = (OperationState.QUEUED, OperationState.RUNNING, OperationState.PAUSED)


async def keep_forever(fleet: Fleet, client: Callable[[], Client]) -> None:
    """Look every few seconds; a host or a service that does not answer is asked the next time."""
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            await tidy(fleet, client())
        except (LtpError, OSError) as error:
            structlog.get_logger().info("checkpoints are tidied later", reason=str(error)[:200])


async def tidy(fleet: Fleet, client: Client) -> int:
    """Delete what nothing keeps, on the hosts of this runner; returns how many checkpoints went."""
    rows = await keeping_store.to_look_at(fleet.database.engine, fleet.host_ids())
    if not rows:
        return 0
    kept = await account(fleet, client, rows)
    goes = [row for row, known in zip(rows, kept, strict=True) if not known.kept_because]
    for row in goes:
        await _delete(fleet, row)
    return len(goes)


async def account(fleet: Fleet, client: Client, rows: Sequence[Row]) -> list[KeptCheckpoint]:
    """The checkpoints with why each stays; `rows` hold whole jobs. Raises SERVICE_UNAVAILABLE when surgery does not answer."""
    used = await _used(fleet, client, [row for row in rows if row["removed_at"] is None])
    found: list[KeptCheckpoint] = []
    for _, group in groupby(rows, lambda row: row["job_id"]):
        job = list(group)
        why = reasons([held_of(row) for row in job if row["removed_at"] is None], rule_of(job[-1]), used)
        found += [
            KeptCheckpoint.model_validate(
                {**row, "attempt": row["number"], "kept_because": why.get(row["checkpoint_id"], [])}
            )
            for row in job
        ]
    return found


def held_of(row: Row) -> Held:
    """A row for the policy."""
    names = ("checkpoint_id", "step", "value", "pinned", "settled", "removal_wanted")
    return Held(attempt=row["number"], **{name: row[name] for name in names})


def rule_of(row: Row) -> Rule:
    """The rule of the attempt's recipe."""
    keep = row["keep"] or {}
    return Rule(keep.get("keep_last"), keep.get("keep_best"), keep.get("direction", "min"))


def judged_by(keep: Mapping[str, Any] | None, metrics: Mapping[str, float]) -> float | None:
    """The value of the rule's metric among those of a line, where it is one."""
    value = metrics.get((keep or {}).get("metric", ""), math.nan)
    return value if math.isfinite(value) else None


async def _used(fleet: Fleet, client: Client, rows: Sequence[Row]) -> set[UUID]:
    """Checkpoints that unfinished work, or an operation that is not over, mentions by id or by path."""
    if not rows:
        return set()
    texts = await keeping_store.unfinished_payloads(fleet.database.engine)
    for state in _UNFINISHED:
        answer = await ask(client, "surgery", "operations", OperationQuery(state=state, limit=1000), OperationList)
        texts += [json.dumps(operation.model_dump(mode="json")) for operation in answer.operations]
    return {row["checkpoint_id"] for row in rows if any(_mentions(text, row) for text in texts)}


def _mentions(text: str, row: Row) -> bool:
    # Not global_step_10 for global_step_1.
    return str(row["checkpoint_id"]) in text or f'{row["path"]}"' in text or f"{row['path']}/" in text


async def _delete(fleet: Fleet, row: Row) -> None:
    """From the disk first: what is noted as gone is gone."""
    backend = fleet.of(Placement.model_validate(row["placement"]))
    await backend.remove(Path(row["run_dir"]), f"checkpoints/global_step_{row['step']}")
    reason = "user" if row["removal_wanted"] else "rule"
    async with fleet.database.unit() as unit:
        if await keeping_store.gone(unit, row["checkpoint_id"], reason) is None:
            return
        event = CheckpointRemoved(
            checkpoint_id=row["checkpoint_id"],
            job_id=row["job_id"],
            step=row["step"],
            path=row["path"],
            size_bytes=row["size_bytes"],
            reason=reason,
        )
        unit.emit(event, about=row["checkpoint_id"])
