"""Work that waits for devices, in its turn and within its limits: what the scheduler places, and why the rest waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from ltp.queue import statements
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


async def in_turn(unit: Unit) -> list[WaitingWork]:
    """Unplaced work that is due, in its turn; at most 500 pieces of each project in each queue."""
    rows = (await unit.execute(text(statements.UNPLACED_IN_TURN), {"count": _LOOK_AHEAD})).mappings().all()
    return [_waiting(dict(row)) for row in rows]


def _waiting(row: dict[str, Any]) -> WaitingWork:
    del row["sort_at"]
    return WaitingWork(**row, devices=int(row["wants"].get("count", 1)))
