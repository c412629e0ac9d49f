"""Work that waits for devices, in its turn and within its limits: what the scheduler places, and why the rest waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from ltp.queue import statements
from ltp.queue.limits import allowance, locked_allowance
from ltp.queue.policy import Allowance, admitted
from ltp.store.database import Unit

# More than a cluster can place in one look; the rest is looked at when these are gone.
_LOOK_AHEAD = 500


@dataclass(frozen=True)
class WaitingWork:
    """Work that wants devices and has none. `devices` is how many, `wants` the whole wish."""

    id: UUID
    queue: str
    project: str
    owner: str
    priority: int
    kind: str
    wants: dict[str, Any]
    payload: dict[str, Any]
    dedup_key: str
    enqueued_at: datetime
    devices: int


async def waiting(unit: Unit) -> list[WaitingWork]:
    """Unplaced work in its turn, limits and quotas applied: all of it together may be placed in this unit.

    Locks the limits until the unit ends, so two schedulers cannot both use the last free place.
    """
    found = await in_turn(unit)
    limits = await locked_allowance(unit) if found else None
    return found if limits is None else admitted(found, limits, len(found))


async def held_back(unit: Unit) -> list[tuple[WaitingWork, str | None]]:
    """All unplaced work in its turn, each with the limit that holds it back, or None when it waits for devices only."""
    found, limits = await in_turn(unit), await allowance(unit)
    return [(row, _reason(row, limits)) for row in found]


async def in_turn(unit: Unit) -> list[WaitingWork]:
    """Unplaced work that is due, in its turn; at most 500 pieces of each project in each queue."""
    rows = (await unit.execute(text(statements.UNPLACED_IN_TURN), {"count": _LOOK_AHEAD})).mappings().all()
    return [_waiting(dict(row)) for row in rows]


def _reason(row: WaitingWork, limits: Allowance) -> str | None:
    reason = limits.refuses(row)
    if reason is None:
        limits.count(row)
    return reason


def _waiting(row: dict[str, Any]) -> WaitingWork:
    del row["sort_at"]
    return WaitingWork(**row, devices=int(row["wants"].get("count", 1)))
