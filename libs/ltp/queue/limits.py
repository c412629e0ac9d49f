"""Limits of queues and quotas of projects: kept in Postgres, changed while everything runs, read under a lock by whoever takes work."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from ltp.core.errors import ErrorCode, LtpError
from ltp.queue import statements
from ltp.queue.policy import Allowance, Limit
from ltp.queue.tables import limits
from ltp.store.clock import now
from ltp.store.database import Unit
from ltp.store.listener import WORK_CHANNEL

Scope = Literal["queue", "project"]
# Nobody runs more on purpose; a larger number is a slip of the finger.
_MOST = 100_000


def check_limit(limit: Limit) -> None:
    """Raise INVALID_REQUEST for a number outside 1..100000: to stop a queue, pause it."""
    for value in (limit.max_running, limit.max_devices):
        if value is not None and not 1 <= value <= _MOST:
            raise LtpError(
                ErrorCode.INVALID_REQUEST,
                f"A limit of {value} is not between 1 and {_MOST}.",
                "Give `none` to lift the limit, or pause the queue to let nothing start.",
            )


async def set_limit(unit: Unit, scope: Scope, name: str, limit: Limit, at: datetime | None = None) -> None:
    """Set what a queue or project may have running. What runs already goes on.

    Nothing changes when a limit was set later than `at` (now, when not given): of two orders the later one holds, in
    whatever order they are heard. Raises as `check_limit` does.
    """
    check_limit(limit)
    values: dict[str, Any] = {
        "max_running": limit.max_running,
        "max_devices": limit.max_devices,
        "paused": limit.paused,
        "restricts": limit != Limit(),
        "changed_at": at or now(),
    }
    statement = insert(limits).values(scope=scope, name=name, **values)
    newer = limits.c.changed_at < statement.excluded.changed_at
    await unit.execute(statement.on_conflict_do_update(index_elements=["scope", "name"], set_=values, where=newer))
    await unit.notify(WORK_CHANNEL)


async def get_limits(unit: Unit, scope: Scope) -> dict[str, Limit]:
    """All limits of a scope by name."""
    rows = (await unit.execute(select(limits).where(limits.c.scope == scope))).mappings().all()
    return {row["name"]: _limit(row) for row in rows}


async def locked_allowance(unit: Unit) -> Allowance | None:
    """What may still start, exact until this unit ends: others who would take work wait. None where no limit is set."""
    rows = (await unit.execute(text(statements.LOCK_LIMITS))).mappings().all()
    if not rows:
        return None
    return await _with_usage(unit, rows)


async def allowance(unit: Unit) -> Allowance:
    """What may still start, as it stands at this moment."""
    return await _with_usage(unit, (await unit.execute(select(limits))).mappings().all())


async def _with_usage(unit: Unit, rows: Any) -> Allowance:
    found = Allowance()
    for row in rows:
        (found.queues if row["scope"] == "queue" else found.projects)[row["name"]] = _limit(row)
    for row in (await unit.execute(text(statements.USAGE))).mappings():
        found.running_in_queue[row["queue"]] += row["running"]
        found.running_of_project[row["project"]] += row["running"]
        found.devices_of_project[row["project"]] += row["devices"]
    return found


def _limit(row: Mapping[Any, Any]) -> Limit:
    return Limit(row["max_running"], row["max_devices"], row["paused"])
